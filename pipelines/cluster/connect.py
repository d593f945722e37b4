"""The way to a cluster: its kube context, Kubeflow Pipelines (KFP) and MLflow, by address or through a port-forward.

    with connect("kind") as cluster:   names what it uses before it touches anything
        cluster.kfp_url, cluster.mlflow_url, cluster.core

Settings of TARGET=cluster, all from the environment: KFP_HOST (else svc/ml-pipeline-ui is forwarded), KUBE_CONTEXT
(else the current one), PIPELINE_NAMESPACE (kubeflow), KFP_NAMESPACE (a profile's, where KFP is for many users),
MLFLOW_TRACKING_URI (else svc/mlflow is forwarded).
"""

import contextlib
import os
import re
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from functools import cached_property
from urllib.parse import urlsplit

from components.core import port_owner
from components.core.loopback import around_proxy
from components.core.step import StepError
from pipelines.cluster.login import use_login
from pipelines.environment import MLFLOW_ADDRESS, about_address, settle_without

HOST = "127.0.0.1"
KIND = {"context": "kind-dwi-stroke", "kfp": f"http://{HOST}:8880", "mlflow": f"http://{HOST}:5500"}
NO_LOGIN = "no login: who is logged in on this machine can start and remove runs there"
TARGETS = ("kind", "cluster")
OURS = "dwi-stroke"
KFP_UI, MLFLOW = ("ml-pipeline-ui", 80, 8880), ("mlflow", 5000, 5500)  # service, its port, the local port to prefer
START_SECONDS, RESTART_SECONDS = 20, 1
IN_CLUSTER = re.compile(r"(?P<service>[a-z0-9-]+)\.(?P<namespace>[a-z0-9-]+)(?P<domain>\.svc(\.[a-z0-9.-]+)?)?")


class Connection:
    """What is opened is opened at its first use, and closed with the `with` block."""

    def __init__(self, target: str, context: str | None, kfp_host: str, mlflow_uri: str, stack: contextlib.ExitStack):
        self.target, self.context, self._stack = target, context, stack
        self._kfp_host, self._mlflow_uri = kfp_host.rstrip("/"), mlflow_uri.rstrip("/")
        self.system_namespace = os.environ.get("PIPELINE_NAMESPACE") or "kubeflow"
        self.namespace = os.environ.get("KFP_NAMESPACE") or self.system_namespace
        """Where KFP runs the steps."""
        self.reopen: dict[str, str] = {}
        """By address: the command that opens again what is forwarded only while this one runs."""

    @property
    def arguments(self) -> str:
        """What a printed command needs to come to the same place."""
        if self.target == "kind":
            return "TARGET=kind"
        given = {"KUBE_CONTEXT": self.context, "MLFLOW_TRACKING_URI": self._mlflow_uri}
        return " ".join(["TARGET=cluster", *(f"{name}={value}" for name, value in given.items() if value)])

    @cached_property
    def core(self):
        """A CoreV1Api, or None without a kube context."""
        return _core(self.context) if self.context else None

    @cached_property
    def kfp_url(self) -> str:
        return self._kfp_host or self._page(self.system_namespace, *KFP_UI)

    @cached_property
    def mlflow_url(self) -> str:
        """Where MLflow answers. Unless the address was given, this process's clients get the cluster's login for it."""
        if self._mlflow_uri and self.target != "kind":
            return self._mlflow_uri
        use_login(self)
        if self._mlflow_uri:
            return self._mlflow_uri
        url = self._page(OURS, *MLFLOW)
        self.reopen[url] = f"make mlflow {self.arguments}"
        return url

    def forward(self, namespace: str, service: str, port: int, wanted: int = 0) -> str:
        """The local address of a service's port, for as long as the connection lasts."""
        if not self.context:
            raise StepError(f"svc/{service} in namespace {namespace} is inside the cluster: set KUBE_CONTEXT.")
        forward = PortForward(self.context, namespace, service, port, _free_port(wanted))
        return self._stack.enter_context(forward).url

    def _page(self, namespace: str, service: str, port: int, wanted: int) -> str:
        url = self.forward(namespace, service, port, wanted)
        ports = f"{urlsplit(url).port}:{port}"
        self.reopen[url] = f"kubectl --context {self.context} -n {namespace} port-forward svc/{service} {ports}"
        return url

    def reachable(self, url: str) -> str:
        """`url`, or where it can be reached from here if its host is a service of the cluster."""
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
    """Connect to `target` (kind, cluster), through `context` where it is given; the first line says to what.

    Without `kfp` Kubeflow Pipelines is of no concern: MLflow's address is enough.

    Raises:
        StepError: no such context, no kubectl where it is needed, nothing behind an address, or another user's program.
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
        used = f"MLflow {mlflow_uri or _in_words(OURS, MLFLOW)}"
        if kfp:
            used = f"Kubeflow Pipelines {kfp_host or _in_words(connection.system_namespace, KFP_UI)}"
        print(f"kube context {found or 'none'}, {used}", flush=True)
        if kfp and not found:
            print(
                "without a kube context the pods' logs, and why one waits, cannot be shown (KUBE_CONTEXT)", flush=True
            )
        if kind:
            for url in (kfp_host, mlflow_uri):
                if port := urlsplit(url).port:
                    port_owner.refuse_strangers(port)
        os.environ.update(around_proxy())
        yield connection


def _in_words(namespace: str, service: tuple[str, int, int]) -> str:
    return f"svc/{service[0]} in namespace {namespace}"


class PortForward:
    """`kubectl port-forward` as a child process: started again when it dies, ended with the `with` block."""

    def __init__(self, context: str, namespace: str, service: str, port: int, local: int):
        self.name, self.local = f"svc/{service} in namespace {namespace}", local
        self.url = f"http://{HOST}:{local}"
        self.command = ["kubectl", "--context", context, "-n", namespace, "port-forward", "--address", HOST]
        self.command += [f"svc/{service}", f"{local}:{port}"]
        self.closing = threading.Event()

    def __enter__(self) -> "PortForward":
        self.errors = tempfile.TemporaryFile()
        port_owner.guard()
        self._start()
        try:
            self._wait()
        except BaseException:
            self.__exit__()
            raise
        threading.Thread(target=self._keep_alive, daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self.closing.set()
        self.process.terminate()
        self.process.wait()
        port_owner.disown(self.local)

    def _start(self) -> None:
        """In a session of its own, so that Ctrl-C leaves it to us."""
        streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": self.errors}
        try:
            self.process = subprocess.Popen(self.command, **streams, start_new_session=True)
        except FileNotFoundError:
            raise StepError(
                f"kubectl is not there, and {self.name} is reached through it. "
                "Install it (https://kubernetes.io/docs/tasks/tools/), or give KFP_HOST and MLFLOW_TRACKING_URI."
            ) from None
        port_owner.own(self.local, self.process.pid)

    def _wait(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not self._listens():
            ended = self.process.poll() is not None
            if ended or time.monotonic() > deadline:
                self.errors.seek(0)
                said = self.errors.read().decode(errors="replace").strip() or f"no answer in {START_SECONDS} s"
                raise StepError(f"{self.name} cannot be reached: {said}. Tried: {' '.join(self.command)}")
            time.sleep(0.05)

    def _listens(self) -> bool:
        try:
            return port_owner.is_served_by(self.process.pid, self.local)
        except StepError as error:
            raise StepError(f"{self.name} cannot be reached: {error}. End that program, then run again.") from error

    def _keep_alive(self) -> None:
        while True:
            self.process.wait()
            if self.closing.wait(RESTART_SECONDS):
                return
            self._start()
            if self.closing.is_set():  # closed between the two
                self.process.terminate()


def _check_address(name: str, url: str, login: str) -> None:
    if "@" in urlsplit(url).netloc:
        raise StepError(f"{name} holds a login, which would be shown in links and logs. Take it out, and set {login}.")
    if said := about_address(name, url):
        raise StepError(said)


def _context(wanted: str, needed: bool, kind: bool) -> str | None:
    """The kube context to use: the one asked for, else the current one; None where there is none and none is needed."""
    from kubernetes import config

    try:
        known, current = config.list_kube_config_contexts(config_file=_kube_config())
    except config.ConfigException:
        known, current = [], None
    names = [context["name"] for context in known or []]
    if wanted and wanted not in names:
        advice = "make kind-up makes it" if kind else f"Contexts: {', '.join(names) or 'none'}"
        raise StepError(f"there is no kube context '{wanted}'. {advice}.")
    if not wanted and not current and needed:
        raise StepError(
            "there is no current kube context. Set KUBE_CONTEXT, or give KFP_HOST and MLFLOW_TRACKING_URI (addresses)."
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


def _free_port(wanted: int) -> int:
    for port in (wanted, 0):
        with contextlib.suppress(OSError), socket.create_server((HOST, port)) as server:
            return server.getsockname()[1]
    raise StepError(f"no port on {HOST} is free.")
