"""The CPUs and memory that the kind cluster has free for the steps of a run."""

from decimal import Decimal

from kubernetes.client import V1Container, V1Node, V1Pod
from kubernetes.utils.quantity import parse_quantity

from components.core.errors import StepError
from pipelines.cluster.kubernetes import KIND_CPU, NEEDS
from pipelines.cluster.ready import KubernetesApi

RUN_LABEL = "pipeline/runid"
"""The pods of a run have it: they end, and free their resources."""
SIDECARS = {"cpu": Decimal("0.1"), "memory": Decimal(128 << 20)}
"""The requests of KFP's launcher and Argo's executor, in the pod of each step."""


def room_for_steps(context: str) -> str:
    """Return a line on the free resources of the node that has most of them.

    Raises:
        StepError: the largest step of a run on kind does not fit there.
    """
    core = KubernetesApi(context).core
    all_pods = core.list_pod_for_all_namespaces().items
    active = [pod for pod in all_pods if pod.status.phase not in ("Succeeded", "Failed")]
    pods = [pod for pod in active if RUN_LABEL not in (pod.metadata.labels or {})]
    free = max((_free(node, pods) for node in core.list_node().items), key=lambda free: (free["cpu"], free["memory"]))
    largest = {"cpu": parse_quantity(KIND_CPU), "memory": max(parse_quantity(n.memory[0]) for n in NEEDS.values())}
    needed = {what: amount + SIDECARS[what] for what, amount in largest.items()}
    if any(free[what] < needed[what] for what in needed):
        raise StepError(
            f"The steps of a run do not fit: {_as_text(free)} are free, the largest step needs {_as_text(needed)}. "
            "Give docker more CPUs or memory (Docker Desktop: Settings, Resources), and then: make kind-down kind-up"
        )
    return f"free for the steps of a run: {_as_text(free)}; the largest step needs {_as_text(needed)}"


def _free(node: V1Node, pods: list[V1Pod]) -> dict[str, Decimal]:
    own = [pod for pod in pods if pod.spec.node_name == node.metadata.name]
    return {w: parse_quantity(node.status.allocatable[w]) - sum(_requested(pod, w) for pod in own) for w in SIDECARS}


def _requested(pod: V1Pod, what: str) -> Decimal:
    """Return what the scheduler reserves for a pod: the sum of its containers, or its largest init container."""

    def requests(containers: list[V1Container] | None) -> list[Decimal]:
        resources = [(c.resources and c.resources.requests) or {} for c in containers or []]
        return [parse_quantity(request.get(what, 0)) for request in resources]

    return max(sum(requests(pod.spec.containers), Decimal(0)), *requests(pod.spec.init_containers), Decimal(0))


def _as_text(amount: dict[str, Decimal]) -> str:
    return f"{amount['cpu']:.2f} CPUs and {amount['memory'] / (1 << 30):.1f} GB of memory"
