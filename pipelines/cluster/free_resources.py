"""What CPU and memory a cluster has left for the steps of a run."""

from decimal import Decimal

from kubernetes.client import V1Pod
from kubernetes.utils.quantity import parse_quantity

from components.core.step import StepError
from pipelines.cluster.kubernetes import KIND_CPU, NEEDS
from pipelines.cluster.ready import Cluster

RUN = "pipeline/runid"
"""The label of a run's pods, which end and leave their place to others."""
SIDECARS = {"cpu": Decimal("0.1"), "memory": Decimal(128 << 20)}
"""What KFP's launcher and Argo's executor ask for beside a step."""


def room_for_steps(context: str) -> str:
    """Say what is free of the cluster's roomiest node for the steps of a run on kind.

    Raises:
        StepError: the largest step would find no place there.
    """
    core = Cluster(context).core
    there = core.list_pod_for_all_namespaces().items
    pods = [p for p in there if p.status.phase not in ("Succeeded", "Failed") and RUN not in (p.metadata.labels or {})]
    free = max((_free(node, pods) for node in core.list_node().items), key=lambda free: (free["cpu"], free["memory"]))
    needed = {"cpu": KIND_CPU, "memory": max((n.memory[0] for n in NEEDS.values()), key=parse_quantity)}
    needed = {what: parse_quantity(asked) + SIDECARS[what] for what, asked in needed.items()}
    if any(free[what] < needed[what] for what in needed):
        raise StepError(
            f"The steps of a run find no place: {_words(free)} are free, the largest one asks for {_words(needed)}. "
            "Give docker more CPUs or memory (Docker Desktop: Settings, Resources), and then: make kind-down kind-up"
        )
    return f"room for the steps of a run: {_words(free)}; the largest one asks for {_words(needed)}"


def _free(node, pods: list[V1Pod]) -> dict[str, Decimal]:
    there = [pod for pod in pods if pod.spec.node_name == node.metadata.name]
    return {w: parse_quantity(node.status.allocatable[w]) - sum(_asked(pod, w) for pod in there) for w in SIDECARS}


def _asked(pod: V1Pod, what: str) -> Decimal:
    """What the scheduler reserves for a pod: its containers together, or its largest init container."""

    def of(containers) -> list[Decimal]:
        resources = [(c.resources and c.resources.requests) or {} for c in containers or []]
        return [parse_quantity(requests.get(what, 0)) for requests in resources]

    return max(sum(of(pod.spec.containers)), *of(pod.spec.init_containers), Decimal(0))


def _words(amount: dict[str, Decimal]) -> str:
    return f"{amount['cpu']:.2f} CPUs and {amount['memory'] / (1 << 30):.1f} GB of memory"
