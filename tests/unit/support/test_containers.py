"""The errors of a run in containers where something is missing. The run itself: tests/e2e/test_containers.py."""

import io
import socket
import sys
import threading
from pathlib import Path

import pytest

from components.core.errors import StepError
from tests.support.containers import ContainerRun
from tests.support.sandbox import Sandbox, user

SERVICES = {"S3_ENDPOINT_URL": "http://127.0.0.1:9000", "MLFLOW_TRACKING_URI": "http://127.0.0.1:5000"}


@pytest.fixture
def docker(tmp_path, monkeypatch):
    """docker("exit 1"): the only program on the PATH is a docker that does this."""

    def put(script: str) -> None:
        (tmp_path / "tools").mkdir(exist_ok=True)
        (tmp_path / "tools/docker").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "tools/docker").chmod(0o755)

    monkeypatch.setenv("PATH", str(tmp_path / "tools"))
    return put


def execute(folder: Path, **services: str) -> None:
    ContainerRun("run", folder, SERVICES | services, io.StringIO()).execute({}, folder / "root", folder / "cache")


def test_without_docker_it_says_where_to_get_it(tmp_path, docker):
    with pytest.raises(StepError, match=r"not installed: https://docs\.docker\.com"):
        execute(tmp_path)


def test_an_engine_that_does_not_answer_is_quoted(tmp_path, docker):
    docker("echo 'permission denied while trying to connect' >&2; exit 1")
    with pytest.raises(StepError, match=r"does not answer[^\0]*permission denied"):
        execute(tmp_path)


def test_an_image_that_is_not_built_is_named(tmp_path, docker):
    docker('[ "$1" = info ]')
    with pytest.raises(StepError, match=r"dwi-stroke/components:\w{16} is not built yet[^\0]*make images"):
        execute(tmp_path)


def test_services_elsewhere_are_refused(tmp_path, docker):
    docker("true")
    with pytest.raises(StepError, match="Unset S3_ENDPOINT_URL"):
        execute(tmp_path, S3_ENDPOINT_URL="https://s3.example.org:9000")


def test_a_sandbox_that_does_not_start_says_why(docker):
    docker("echo 'no space left on device' >&2; exit 125")
    with pytest.raises(StepError, match="no space left on device"), Sandbox("name", "image", [9000]):
        pass


def test_steps_are_never_root(monkeypatch):
    for uid, expected in ((0, "10001:10001"), (1000, "1000:100")):
        monkeypatch.setattr("os.getuid", lambda uid=uid: uid)
        monkeypatch.setattr("os.getgid", lambda uid=uid: uid // 10)
        assert user() == expected


def test_what_comes_to_an_open_port_of_the_sandbox_reaches_the_service_and_back(tmp_path, docker):
    """The stand-in engine runs the idle program here, in the folder of its socket, on a port of its own."""
    with socket.create_server(("127.0.0.1", 0)) as service, socket.create_server(("127.0.0.1", 0)) as probe:
        port, inside = service.getsockname()[1], probe.getsockname()[1]
        probe.close()
        docker(STAND_IN.replace("PYTHON", sys.executable).replace("INSIDE", str(inside)))
        threading.Thread(target=answer, args=(service,), daemon=True).start()
        with Sandbox("name", "image", [port]), socket.create_connection(("127.0.0.1", inside), 5) as client:
            client.sendall(b"question " * 100_000)
            client.shutdown(socket.SHUT_WR)
            received = b"".join(iter(lambda: client.recv(1 << 16), b""))
    assert received == b"QUESTION " * 100_000


STAND_IN = """
[ "$1" = run ] || exit 0
while [ "$1" != --volume ]; do shift; done
PYTHON -c 'import sys
program, place, sys.argv[1:] = sys.argv[1], sys.argv[2], ["INSIDE"]
exec(program.replace("/run.sock", place))' "$6" "${2%:*}" >/dev/null 2>&1 &
"""


def answer(service: socket.socket) -> None:
    connection, _ = service.accept()
    with connection:
        question = b"".join(iter(lambda: connection.recv(1 << 16), b""))
        connection.sendall(question.upper())
