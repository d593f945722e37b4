"""Connect to a cluster: its kube context, Kubeflow Pipelines (KFP) and MLflow, by address or through a port-forward.

    with connect("kind") as cluster:   first prints which context and addresses it uses
        cluster.kfp_url, cluster.mlflow_url, cluster.core

Settings of TARGET=cluster, all from the environment: KFP_HOST (otherwise svc/ml-pipeline-ui is forwarded), KUBE_CONTEXT
(otherwise the current one), PIPELINE_NAMESPACE (kubeflow), KFP_NAMESPACE (of your profile, if KFP has several users),
MLFLOW_TRACKING_URI (otherwise svc/mlflow is forwarded).
"""

import contextlib
import os
import re
from collections.abc import Iterator
from functools import cached_property
from urllib.parse import urlsplit

from components.core import port_owner
from components.core.errors import StepError
from components.core.loopback import around_proxy
from pipelines.cluster.login import use_login
from pipelines.cluster.port_forward import PortForward, free_port
from pipelines.environment import MLFLOW_ADDRESS, about_address, settle_without
from pipelines.ports import HOST

KIND = {"context": "kind-dwi-stroke", "kfp": f"http://{HOST}:8880", "mlflow": f"http://{HOST}:5500"}
NO_LOGIN = "no login: every user of this machine can start and remove runs there"
TARGETS = ("kind", "cluster")
OURS = "dwi-stroke"
KFP_UI, MLFLOW = ("ml-pipeline-ui", 80, 8880), ("mlflow", 5000, 5500)  # service, its port, the preferred local port
IN_CLUSTER = re.compile(r"(?P<service>[a-z0-9-]+)\.(?P<namespace>[a-z0-9-]+)(?P<domain>\.svc(\.[a-z0-9.-]+)?)?")


class Connection:
    """Each part is opened when it is first used, and closed at the end of the `with` block."""

    def __init__(self, target: str, context: str | None, kfp_host: str, mlflow_uri: str, stack: contextlib.ExitStack):
        self.target, self.context, self._stack = target, context, stack
        self._kfp_host, self._mlflow_uri = kfp_host.rstrip("/"), mlflow_uri.rstrip("/")
        self.system_namespace = os.environ.get("PIPELINE_NAMESPACE") or "kubeflow"
        self.namespace = os.environ.get("KFP_NAMESPACE") or self.system_namespace
        """The namespace of the steps' pods."""
        self.reopen: dict[str, str] = {}
        """By address: the command that opens a port-forward again after this command has ended."""

    @property
    def arguments(self) -> str:
        """Return the arguments that a printed command needs to connect to the same cluster."""
        if self.target == "kind":
            return "TARGET=kind"
        given = {"KUBE_CONTEXT": self.context, "MLFLOW_TRACKING_URI": self._mlflow_uri}
        return " ".join(["TARGET=cluster", *(f"{name}={value}" for name, value in given.items() if value)])

    @cached_property
    def core(self):
        """Return a CoreV1Api; None without a kube context."""
        return _core(self.context) if self.context else None

    @cached_property
    def kfp_url(self) -> str:
        return self._kfp_host or self._page(self.system_namespace, *KFP_UI)

    @cached_property
    def mlflow_url(self) -> str:
        """Return MLflow's address. Without MLFLOW_TRACKING_URI, clients of this process get the cluster's login."""
        if self._mlflow_uri and self.target != "kind":
            return self._mlflow_uri
        use_login(self.core, self.namespace, self.context)
        if self._mlflow_uri:
            return self._mlflow_uri
        url = self._page(OURS, *MLFLOW)
        self.reopen[url] = f"make mlflow {self.arguments}"
        return url

    def forward(self, namespace: str, service: str, port: int, wanted: int = 0) -> str:
        """Return the local address of a service's port, while the connection lasts."""
        if not self.context:
            raise StepError(f"svc/{service} in namespace {namespace} is inside the cluster: set KUBE_CONTEXT.")
        forward = PortForward(self.context, namespace, service, port, free_port(wanted))
        return self._stack.enter_context(forward).url

    def _page(self, namespace: str, service: str, port: int, wanted: int) -> str:
        url = self.forward(namespace, service, port, wanted)
        ports = f"{urlsplit(url).port}:{port}"
        self.reopen[url] = f"kubectl --context {self.context} -n {namespace} port-forward svc/{service} {ports}"
        return url

    def reachable(self, url: str) -> str:
        """Return `url`; for a service inside the cluster, its forwarded address."""
        parts = urlsplit(url)
        match = IN_CLUSTER.fullmatch(parts.hostname or "")
        if not match or not (match["domain"] or self._has_service(match["service"], match["namespace"])):
            return url
        return self.forward(
            match["namespace"], match["service"], parts.port or {"https": 443}.get(parts.scheme, 80)
        ).replace("http", parts.scheme, 1)

    def _has_service(self, name: str, namespace: str) -> bool:
        from kubernetes.client.rest import ApiException

        if not self.core:
            return False
        try:
            self.core.read_namespaced_service(name, namespace)
        except ApiException:
            return False
        return True


@contextlib.contextmanager
def connect(target: str, context: str = "", kfp: bool = True) -> Iterator[Connection]:
    """Connect to `target` (kind, cluster), with the kube context `context` where it is given; print what is used.

    Without `kfp`, Kubeflow Pipelines is not used, and the address of MLflow is enough.

    Raises:
        StepError: the context or kubectl is missing, an address is silent, or another user's program has its port.
    """
    kind = target == "kind"
    if kind:
        settle_without(MLFLOW_ADDRESS)
    kfp_host = KIND["kfp"] if kind else os.environ.get("KFP_HOST", "")
    mlflow_uri = KIND["mlflow"] if kind else os.environ.get("MLFLOW_TRACKING_URI", "")
    _check_address("KFP_HOST", kfp_host, "KFP_TOKEN or KFP_COOKIE")
    _check_address("MLFLOW_TRACKING_URI", mlflow_uri, "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD")
    wanted = context or (KIND["context"] if kind else os.environ.get("KUBE_CONTEXT", ""))
    found = _context(wanted, needed=not (mlflow_uri and (kfp_host or not kfp)), kind=kind)
    with contextlib.ExitStack() as stack:
        connection = Connection(target, found, kfp_host, mlflow_uri, stack)
        used = f"MLflow {mlflow_uri or _describe(OURS, MLFLOW)}"
        if kfp:
            used = f"Kubeflow Pipelines {kfp_host or _describe(connection.system_namespace, KFP_UI)}"
        print(f"kube context {found or 'none'}, {used}", flush=True)
        if kfp and not found:
            print(
                "without a kube context (KUBE_CONTEXT) the pods' logs, and why a pod waits, cannot be shown", flush=True
            )
        if kind:
            for url in (kfp_host, mlflow_uri):
                if port := urlsplit(url).port:
                    port_owner.refuse_strangers(port)
        os.environ.update(around_proxy())
        yield connection


def _describe(namespace: str, service: tuple[str, int, int]) -> str:
    return f"svc/{service[0]} in namespace {namespace}"


def _check_address(name: str, url: str, login: str) -> None:
    if "@" in urlsplit(url).netloc:
        raise StepError(f"{name} holds a login, which links and logs would show. Remove it, and set {login}.")
    if problem := about_address(name, url):
        raise StepError(problem)


def _context(wanted: str, needed: bool, kind: bool) -> str | None:
    """Return the kube context to use: `wanted` or the current one; None where it is missing and not needed."""
    from kubernetes import config

    try:
        contexts, current = config.list_kube_config_contexts(config_file=_kube_config())
    except config.ConfigException:
        contexts, current = [], None
    names = [context["name"] for context in contexts or []]
    if wanted and wanted not in names:
        advice = "make kind-up makes it" if kind else f"Contexts: {', '.join(names) or 'none'}"
        raise StepError(f"there is no kube context '{wanted}'. {advice}.")
    if not wanted and not current and needed:
        raise StepError(
            "there is no current kube context. Set KUBE_CONTEXT, or the addresses KFP_HOST and MLFLOW_TRACKING_URI."
        )
    return wanted or (current and current["name"]) or None


def _core(context: str):
    from kubernetes import client, config

    try:
        api = config.new_client_from_config(config_file=_kube_config(), context=context)
    except (config.ConfigException, OSError) as error:
        raise StepError(f"kube context {context} cannot be used: {error}") from error
    api.configuration.retries = False
    return client.CoreV1Api(client.ApiClient(api.configuration))


def _kube_config() -> str:
    return os.environ.get("KUBECONFIG") or "~/.kube/config"
