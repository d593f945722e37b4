"""Nothing is sent to a program that took the port of a server of ours."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import boto3
import pytest
import requests
import urllib3
from botocore.config import Config
from mlflow import MlflowClient
from urllib3.util import connection

from components.core import port_owner
from components.core.errors import StepError

NOBODY = 65534
SERVER = """
import os, socket, sys
host, port, user, ends, received = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], sys.argv[5]
file = open(received, "ab", buffering=0)
if user != os.getuid():
    os.setgroups([])
    os.setgid(user)
    os.setuid(user)
six = ":" in host
server = socket.create_server((host, port), family=socket.AF_INET6 if six else socket.AF_INET, dualstack_ipv6=six)
print("listening", flush=True)
while True:
    client, _ = server.accept()
    if ends == "ends":
        server.close()
    client.settimeout(5)
    got = b""
    while b"a scan" not in got and (data := client.recv(1 << 16)):
        got += data
        file.write(data)
    if got:
        client.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\nConnection: close\\r\\n\\r\\n{}")
    client.close()
"""
as_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can start a program as another user")


@pytest.fixture
def port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@pytest.fixture
def received(tmp_path):
    """A file with what was sent to the program."""
    path = tmp_path / "received"
    path.touch()
    return path


@pytest.fixture
def serve(port, received) -> Iterator[Callable[..., subprocess.Popen]]:
    """serve(user=None, host="127.0.0.1", ends="stays", wrapped=False) -> a program that listens on the port.

    It leads a process group of its own, or `wrapped` is the child of the shell that does.
    """
    started = []

    def make(user: int | None = None, host: str = "127.0.0.1", ends: str = "stays", wrapped: bool = False):
        user = os.getuid() if user is None else user
        command = [sys.executable, "-c", SERVER, host, str(port), str(user), ends, str(received)]
        if wrapped:
            command = ["sh", "-c", '"$@"; exit 0', "sh", *command]
        process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.PIPE)
        started.append(process)
        assert process.stdout.readline() == b"listening\n"
        return process

    yield make
    for process in started:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.fixture
def guarded(monkeypatch):
    monkeypatch.setattr(connection, "create_connection", connection.create_connection)
    port_owner.guard()


@pytest.mark.parametrize("wrapped", [False, True], ids=["the leader", "its child"])
def test_a_port_is_served_by_the_group_that_listens(serve, port, wrapped):
    assert not port_owner.is_served_by(os.getpgid(0), port)
    assert port_owner.is_served_by(serve(wrapped=wrapped).pid, port)


def test_another_program_of_the_same_user_is_named(serve, port):
    other = serve()
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as ours:
        with pytest.raises(StepError, match=rf"port {port} .* is held by process {other.pid} \(python.*\) of user \w+"):
            port_owner.is_served_by(ours.pid, port)
        ours.kill()


@as_root
def test_another_users_program_is_named_by_its_user(serve, port):
    serve(NOBODY)
    with pytest.raises(StepError, match=r"of user nobody, not by what was started here\. Nothing was sent there"):
        port_owner.is_served_by(os.getpgid(0), port)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "::1"])
def test_a_program_on_other_addresses_is_not_the_one_on_loopback(serve, port, host):
    serve(host=host)
    assert not port_owner.is_served_by(os.getpgid(0), port)


def test_a_dual_stack_socket_on_loopback_is_seen(serve, port):
    assert port_owner.is_served_by(serve(host="::ffff:127.0.0.1").pid, port)


def _ask_through_requests(port: int) -> None:
    requests.post(f"http://127.0.0.1:{port}", data="a scan", auth=("me", "secret"), timeout=5)


def _ask_through_urllib3(port: int) -> None:
    urllib3.PoolManager().request("POST", f"http://127.0.0.1:{port}", body="a scan", retries=False)


def _ask_through_boto3(port: int) -> None:
    config = Config(retries={"total_max_attempts": 1}, proxies={})
    session = boto3.Session("key", "secret", region_name="us-east-1")
    client = session.client("s3", endpoint_url=f"http://127.0.0.1:{port}", config=config)
    client.put_object(Bucket="b", Key="k", Body=b"a scan")


def _ask_through_mlflow(port: int) -> None:
    MlflowClient(f"http://127.0.0.1:{port}").create_run("0", tags={"scan": "a scan"})


ASK = [_ask_through_requests, _ask_through_urllib3, _ask_through_boto3, _ask_through_mlflow]


@as_root
@pytest.mark.parametrize("ask", ASK)
def test_a_stranger_on_a_port_of_ours_is_sent_nothing(serve, port, received, guarded, monkeypatch, ask):
    monkeypatch.setenv(port_owner.OWN_PORTS, f"1 {port}")
    serve(NOBODY)
    with pytest.raises(Exception, match=rf"port {port} on 127.0.0.1 is held by .* of user nobody"):
        ask(port)
    time.sleep(0.2)
    assert received.read_bytes() == b""


@as_root
def test_without_the_guard_the_stranger_reads_all(serve, port, received):
    serve(NOBODY)
    _ask_through_requests(port)
    assert b"a scan" in received.read_bytes()


@as_root
def test_a_stranger_that_stops_listening_at_once_is_sent_nothing(serve, port, received, guarded, monkeypatch):
    monkeypatch.setenv(port_owner.OWN_PORTS, str(port))
    serve(NOBODY, ends="ends")
    with pytest.raises((requests.ConnectionError, StepError)):
        _ask_through_requests(port)
    time.sleep(0.2)
    assert received.read_bytes() == b""


def test_our_own_programs_are_asked_also_after_they_were_started_again(serve, port, received, guarded, monkeypatch):
    monkeypatch.setenv(port_owner.OWN_PORTS, str(port))
    for _ in range(2):
        server = serve()
        _ask_through_requests(port)
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
    assert received.read_bytes().count(b"a scan") == 2


@as_root
def test_other_ports_are_asked_whoever_listens(serve, port, received, guarded, monkeypatch):
    monkeypatch.setenv(port_owner.OWN_PORTS, str(port + 1))
    serve(NOBODY)
    _ask_through_requests(port)
    assert b"a scan" in received.read_bytes()


def test_the_guard_is_put_up_once(guarded):
    once = connection.create_connection
    port_owner.guard()
    assert connection.create_connection is once


def test_on_a_port_of_one_program_no_other_of_the_same_user_is_asked(serve, port, received, guarded):
    port_owner.own(port, os.getpgid(0))
    serve()
    with pytest.raises(StepError, match=rf"port {port} .* is held by process \d+ .* not by what was started here"):
        _ask_through_requests(port)
    assert received.read_bytes() == b""
    port_owner.disown(port)
    _ask_through_requests(port)
    assert b"a scan" in received.read_bytes()


def test_the_program_of_a_port_is_asked(serve, port, received, guarded):
    port_owner.own(port, serve(wrapped=True).pid)
    _ask_through_requests(port)
    assert b"a scan" in received.read_bytes()
    port_owner.disown(port)


@as_root
def test_a_program_of_root_or_of_nobody_else_is_no_stranger(serve, port):
    port_owner.refuse_strangers(port)
    serve(NOBODY)
    with pytest.raises(StepError, match=r"held by process \d+ \(python.*\) of user nobody\. .* End that program"):
        port_owner.refuse_strangers(port)


def test_a_socket_of_root_is_no_stranger(serve, port, monkeypatch):
    serve()
    monkeypatch.setattr(port_owner, "users", lambda port: {0})
    port_owner.refuse_strangers(port)


class TestWithoutProc:
    """As on macOS, where lsof tells a person of their own programs alone."""

    @pytest.fixture(autouse=True)
    def macos(self, monkeypatch, tmp_path):
        monkeypatch.setattr(port_owner, "PROC", tmp_path)

    @pytest.fixture
    def lsof(self, monkeypatch, tmp_path):
        """An lsof that lists these processes."""

        def put(*processes: int) -> None:
            folder = tmp_path / "bin"
            folder.mkdir()
            (folder / "lsof").write_text("#!/bin/sh\n" + "".join(f"echo {p}\n" for p in processes))
            (folder / "lsof").chmod(0o755)
            monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

        return put

    def test_our_server_is_known_by_lsof(self, serve, port, lsof):
        server = serve()
        lsof(server.pid)
        assert port_owner.is_served_by(server.pid, port)

    def test_what_lsof_does_not_list_is_another_users(self, serve, port, lsof):
        lsof()
        assert not port_owner.is_served_by(os.getpgid(0), port)
        server = serve()
        with pytest.raises(StepError, match="held by a program of another user"):
            port_owner.is_served_by(server.pid, port)
        with pytest.raises(StepError, match="Nothing was sent there"):
            port_owner.refuse_strangers(port)

    def test_without_lsof_it_is_refused_in_words(self, port, monkeypatch, tmp_path):
        monkeypatch.setenv("PATH", str(tmp_path))
        with pytest.raises(StepError, match=re.escape("lsof is not on the PATH. Install lsof.")):
            port_owner.is_served_by(os.getpgid(0), port)


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    "module",
    ["fingerprint.fingerprint", "ingest.ingest", "train.train", "evaluate.evaluate", "register.register"],
)
def test_what_a_step_reaches_over_http_is_guarded(module):
    """In a process of its own, as a step is: with its module MLflow's client is guarded; S3's when it is made."""
    code = f"""
import os
from components.{module} import *
from components.core import port_owner
from components.core.s3_client import connect
os.environ["S3_ENDPOINT_URL"] = "http://127.0.0.1:9"
connect()
from urllib3.util import connection
print(connection.create_connection in port_owner._guarded)
"""
    variables = os.environ | {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
    done = subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "True"
