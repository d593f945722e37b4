"""The ways to a cluster: a kube context and port-forwards, or addresses; and which is named before it is used."""

import contextlib
import json
import os
import signal
import socket
import threading
import time

import psutil
import pytest
import requests

from components.core import port_owner
from components.core.errors import StepError
from pipelines.cluster import connect, port_forward
from pipelines.cluster.port_forward import PortForward, free_port
from tests.support.kubeflow_stand_in import RUN_ID, Workflow
from tests.support.kubernetes_stand_in import fake_kubectl


@pytest.fixture
def kubectl(cluster, kubeflow, monkeypatch, tmp_path):
    """A kubectl that forwards to the stand-in; `kubectl()` are its calls, each with its process id first."""
    monkeypatch.setattr(connect, "KFP_UI", ("ml-pipeline-ui", 80, 0))
    monkeypatch.setattr(port_forward, "RESTART_SECONDS", 0.05)
    return fake_kubectl(monkeypatch, tmp_path / "bin", {"kubeflow/ml-pipeline-ui:80": kubeflow.port})


@pytest.fixture
def forwarded_run(cluster, kubectl, tracking, monkeypatch):
    monkeypatch.setenv("KUBE_CONTEXT", "hospital")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking)
    return lambda: cluster("run", "--target", "cluster", "--data", "s3://bucket/scans")


def test_through_the_kube_context_it_forwards_by_itself_and_ends_what_it_started(forwarded_run, kubectl, capsys):
    assert forwarded_run() == 0
    out = capsys.readouterr().out
    assert out.splitlines()[0] == "kube context hospital, Kubeflow Pipelines svc/ml-pipeline-ui in namespace kubeflow"
    ((pid, *arguments),) = kubectl()
    assert arguments[:2] == ["--context", "hospital"] and "127.0.0.1" in arguments
    assert not psutil.pid_exists(pid)
    assert "kubectl --context hospital -n kubeflow port-forward svc/ml-pipeline-ui" in out
    assert f"http://127.0.0.1:{arguments[-1].split(':')[0]}/#/runs/details/{RUN_ID}" in out


def test_mlflow_is_forwarded_too_and_before_anything_is_started(forwarded_run, kubectl, kubeflow, monkeypatch, capsys):
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert forwarded_run() == 1
    assert "svc/mlflow in namespace dwi-stroke cannot be reached" in capsys.readouterr().err
    assert not kubeflow.runs


def test_a_forward_that_dies_is_started_again(forwarded_run, kubectl, kubeflow):
    def die():
        os.kill(kubectl()[-1][0], signal.SIGKILL)
        return "RUNNING", Workflow().step("fingerprint", phase="Running")

    kubeflow.stages.insert(0, die)
    assert forwarded_run() == 0
    assert len(kubectl()) == 2 and kubectl()[0][1:] == kubectl()[1][1:]


def test_ctrl_c_does_not_reach_the_forward(forwarded_run, kubectl, kubeflow):
    groups = []

    def look():
        groups.append(os.getpgid(kubectl()[-1][0]))
        return "SUCCEEDED", Workflow().step("fingerprint")

    kubeflow.stages = [look]
    forwarded_run()
    assert groups and os.getpgrp() not in groups


def test_the_current_context_is_taken_where_none_is_named(forwarded_run, kubectl, monkeypatch, capsys):
    monkeypatch.delenv("KUBE_CONTEXT")
    assert forwarded_run() == 0
    assert capsys.readouterr().out.startswith("kube context kind-dwi-stroke, ")


def test_a_service_that_is_not_there_is_told_in_kubectls_words(forwarded_run, monkeypatch, capsys):
    monkeypatch.setenv("PIPELINE_NAMESPACE", "elsewhere")
    assert forwarded_run() == 1
    err = capsys.readouterr().err
    assert "svc/ml-pipeline-ui in namespace elsewhere cannot be reached: Error from server (NotFound)" in err


def test_without_kubectl_it_says_where_to_get_it(forwarded_run, monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert forwarded_run() == 1
    assert "kubectl is missing" in capsys.readouterr().err


def test_an_unknown_context_is_answered_with_those_there_are(forwarded_run, kubectl, monkeypatch, capsys):
    monkeypatch.setenv("KUBE_CONTEXT", "hospitl")
    assert forwarded_run() == 1
    assert "no kube context 'hospitl'. Contexts: kind-dwi-stroke, hospital." in capsys.readouterr().err
    assert kubectl() == []


def test_on_kind_without_its_context_make_kind_up_is_named(cluster, kubernetes, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("KUBECONFIG", str(kubernetes.kubeconfig(tmp_path / "other", "hospital")))
    assert cluster("run", "--target", "kind", "--data", "s3://b/p") == 1
    assert "there is no kube context 'kind-dwi-stroke'. make kind-up makes it." in capsys.readouterr().err


def test_with_addresses_no_context_is_needed_but_what_is_missing_then_is_said(
    cluster, kubeflow, tracking, monkeypatch, tmp_path, capsys
):
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.setenv("KFP_HOST", kubeflow.url + "/")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking)
    kubeflow.stages = [("FAILED", Workflow().step("ingest", phase="Failed"))]
    assert cluster("run", "--target", "cluster", "--data", "s3://b/p") == 1
    out, err = capsys.readouterr()
    assert out.startswith(f"kube context none, Kubeflow Pipelines {kubeflow.url}")
    assert "without a kube context (KUBE_CONTEXT) the pods' logs, and why a pod waits, cannot" in out
    assert f"ingest failed. Its log: {kubeflow.url}/#/runs/details/{RUN_ID}" in err


def test_without_addresses_and_context_it_says_what_to_set(cluster, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    assert cluster("run", "--target", "cluster", "--data", "s3://b/p") == 1
    assert "Set KUBE_CONTEXT, or the addresses KFP_HOST and MLFLOW_TRACKING_URI" in capsys.readouterr().err


def test_nothing_is_asked_before_the_context_is_named(cluster, kubeflow, kubernetes, monkeypatch):
    said = []
    monkeypatch.setattr("builtins.print", lambda *words, **_: said.append((words, len(kubeflow.requests))))
    cluster("run", "--target", "kind", "--data", "s3://b/p")
    words, asked_before = said[0]
    assert "kind-dwi-stroke" in words[0] and asked_before == 0


@pytest.mark.parametrize(
    ("endpoint", "service"),
    [
        ("http://seaweedfs.kubeflow.svc.cluster.local:8333", "kubeflow/seaweedfs:8333"),
        ("http://minio.storage.svc", "storage/minio:80"),
    ],
)
def test_an_address_inside_the_cluster_is_forwarded(kubectl, monkeypatch, kubeflow, endpoint, service):
    monkeypatch.setenv("SERVICES", json.dumps({service: kubeflow.port}))
    with connect.connect("kind") as cluster:
        url = cluster.reachable(endpoint)
        assert url.startswith("http://127.0.0.1:")
        assert kubectl()[-1][-2] == f"svc/{service.split('/')[1].split(':')[0]}"


@pytest.mark.parametrize(
    "endpoint", ["https://s3.eu-central-1.amazonaws.com", "http://10.0.0.7:9000", "http://minio.lan"]
)
def test_an_address_outside_is_left_as_it_is(kubectl, endpoint):
    with connect.connect("kind") as cluster:
        assert cluster.reachable(endpoint) == endpoint
    assert kubectl() == []


def test_what_does_not_start_is_not_waited_for_long(kubectl, monkeypatch):
    start = time.monotonic()
    with pytest.raises(StepError, match="cannot be reached"), connect.connect("kind") as cluster:
        cluster.forward("kubeflow", "nothing", 80)
    assert time.monotonic() - start < 5


@pytest.fixture
def squat(monkeypatch):
    """squat(port, seconds): this process takes the port so many seconds from now; `squat.received` is what it got."""
    opened = []

    def start(port: int, seconds: float) -> None:
        def listen() -> None:
            time.sleep(seconds)
            server = socket.create_server(("127.0.0.1", port))
            opened.append(server)
            with contextlib.suppress(OSError):
                client, _ = server.accept()
                opened.append(client)
                start.received += client.recv(1 << 16)

        threading.Thread(target=listen, daemon=True).start()

    start.received = b""
    yield start
    for one in opened:
        one.close()


def test_who_takes_the_port_before_kubectl_listens_is_named_and_sent_nothing(tmp_path, monkeypatch, squat):
    (tmp_path / "kubectl").write_text("#!/bin/sh\nsleep 3; echo address already in use >&2; exit 1\n")
    (tmp_path / "kubectl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    port = free_port()
    squat(port, 0.3)
    named = (
        rf"svc/mlflow in namespace dwi-stroke cannot be reached: port {port} .* is held by process {os.getpid()} .*End"
    )
    with pytest.raises(StepError, match=named), PortForward("ctx", "dwi-stroke", "mlflow", 5000, port):
        pass
    assert squat.received == b""


def test_who_takes_the_port_of_a_forward_that_died_is_sent_nothing(kubectl, monkeypatch, squat):
    monkeypatch.setattr(port_forward, "RESTART_SECONDS", 1.5)
    port = free_port()
    with PortForward("hospital", "kubeflow", "ml-pipeline-ui", 80, port) as forward:
        assert requests.get(forward.url, timeout=5).status_code in (200, 404)
        os.kill(kubectl()[-1][0], signal.SIGKILL)
        squat(port, 0.2)
        time.sleep(0.7)
        with pytest.raises(StepError, match=rf"port {port} .* is held by process {os.getpid()} "):
            requests.post(forward.url, data="a login", timeout=5)
    assert squat.received == b""


def test_on_kind_a_port_that_another_user_holds_is_refused(cluster, kubeflow, monkeypatch, capsys):
    monkeypatch.setattr(port_owner, "users", lambda port: {65534} if port == kubeflow.port else set())
    assert cluster("run", "--target", "kind", "--data", "s3://b/p") == 1
    said = capsys.readouterr().err
    assert f"port {kubeflow.port} on 127.0.0.1 is held by" in said and "of user nobody. Nothing was sent there" in said
    assert kubeflow.requests == []
