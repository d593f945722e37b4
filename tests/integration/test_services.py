"""The embedded S3 and MLflow servers, for real, over loopback. One pair serves most of the tests."""

import errno
import fcntl
import functools
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import boto3
import pytest
import requests
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import ClientError
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from components.core import port_owner
from components.core.errors import StepError
from components.core.storage import Storage
from pipelines.local import embedded_server, services
from pipelines.local.server_process import ServerProcess, group_members
from pipelines.local.services import MLflow, down, status, up
from pipelines.ports import is_free

S3_VARIABLES = {
    "S3_ENDPOINT_URL",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_DEFAULT_REGION",
    "S3_BUCKET",
    "AWS_CONFIG_FILE",
    "AWS_SHARED_CREDENTIALS_FILE",
}
PATHS_OF_MLFLOW = (
    "/", "/api/2.0/mlflow/experiments/search?max_results=1", "/get-artifact?path=x&run_uuid=y", "/graphql",
    "/login/code", "/health/", "/static-files/../version", "//health",
)  # fmt: skip
MLFLOW_VARIABLES = {"MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_TOKEN", "NETRC"}


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Both services, running, on a machine whose proxy leads nowhere."""
    with pytest.MonkeyPatch.context() as patch:
        for name in os.environ:
            if name.upper().startswith(("AWS_", "S3_", "MLFLOW_")) or name.lower().endswith("_proxy"):
                patch.delenv(name)
        patch.setenv("HTTP_PROXY", f"http://127.0.0.1:{free_port()}")
        patch.setenv("http_proxy", os.environ["HTTP_PROXY"])
        patch.setenv("S3_PORT", str(free_port()))
        patch.setenv("MLFLOW_PORT", str(free_port()))
        state = tmp_path_factory.mktemp("a hospital's laptop? 50% #1 [x]") / ".local"
        try:
            up(state)
            yield state
        finally:
            down(state)


@pytest.fixture
def env(state: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What the steps get; the test's own clients are spared the proxy as they are."""
    env = up(state)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, env[name])
    return env


@pytest.fixture
def other(env: dict[str, str], tmp_path: Path) -> Iterator[Path]:
    """A second, empty state."""
    yield tmp_path / ".local"
    down(tmp_path / ".local")


def test_an_object_goes_in_and_comes_out(env):
    assert set(env) == S3_VARIABLES | MLFLOW_VARIABLES | {"OWN_PORTS", "NO_PROXY", "no_proxy"}
    assert env["S3_BUCKET"] == "dwi-stroke"
    s3(env).put_object(Bucket="dwi-stroke", Key="case-1/dwi.nii.gz", Body=b"voxels")
    assert read(env, "case-1/dwi.nii.gz") == b"voxels"


@pytest.mark.slow
def test_a_file_written_into_the_buckets_folder_is_an_object_within_two_seconds(env, state):
    s3(env).put_object(Bucket="dwi-stroke", Key="runs/1", Body=b"")
    assert keys(env, "runs/") == ["runs/1"]
    (state / "s3/dwi-stroke/runs/2").write_text("written by a step")
    wait_until(lambda: len(keys(env, "runs/")) == 2, seconds=2)
    assert keys(env, "runs/") == ["runs/1", "runs/2"]


def test_strangers_are_refused(env):
    s3(env).put_object(Bucket="dwi-stroke", Key="secret", Body=b"voxels")
    wrong_secret = s3(env | {"AWS_SECRET_ACCESS_KEY": "guessed"})
    wrong_key = s3(env | {"AWS_ACCESS_KEY_ID": "guessed"})
    nobody = s3(env, signature_version=UNSIGNED)
    for client, code in ((wrong_secret, "SignatureDoesNotMatch"), (wrong_key, "InvalidAccessKeyId")):
        with pytest.raises(ClientError, match=code):
            client.list_objects_v2(Bucket="dwi-stroke")
    for request in (
        lambda: nobody.list_buckets(),
        lambda: nobody.list_objects_v2(Bucket="dwi-stroke"),
        lambda: nobody.get_object(Bucket="dwi-stroke", Key="secret"),
        lambda: nobody.put_object(Bucket="dwi-stroke", Key="secret", Body=b""),
        lambda: wrong_secret.get_object(Bucket="dwi-stroke", Key="secret"),
        lambda: wrong_secret.delete_object(Bucket="dwi-stroke", Key="secret"),
    ):
        with pytest.raises(ClientError):
            request()
    assert read(env, "secret") == b"voxels"


def test_an_mlflow_run_keeps_its_artifact_in_s3(env):
    run_id = log_run(env, dice=0.83)
    assert registry(env).get_run(run_id).data.metrics == {"dice": 0.83}
    assert keys(env, "mlflow/") == [f"mlflow/0/{run_id}/artifacts/curve.txt"]


def test_secrets_are_the_owners_alone(env, state):
    assert (state / "credentials.json").stat().st_mode & 0o777 == 0o600
    assert state.stat().st_mode & 0o777 == 0o700
    assert (state / "mlflow-token").stat().st_mode & 0o777 == 0o600
    secrets = [env["AWS_SECRET_ACCESS_KEY"], env["MLFLOW_TRACKING_TOKEN"]]
    assert all(len(secret) >= 40 for secret in secrets)
    assert secrets[0] in (state / "credentials.json").read_text()
    assert secrets[1] == (state / "mlflow-token").read_text()
    for name in ("services.json", "logs/s3.log", "logs/mlflow.log"):
        assert not [secret for secret in secrets if secret in (state / name).read_text()]
    processes = [process for pid in pids(state) for process in group_members(pid)]
    command_lines = [Path("/proc", process, "cmdline").read_text() for process in processes]
    assert len(command_lines) == 3  # rclone, mlflow and its uvicorn
    assert not any(secret in line for line in command_lines for secret in secrets)


def test_only_loopback_is_listened_on(env, state):
    ports = {f"{record['port']:04X}" for record in records(state).values()}
    tables = Path("/proc/net/tcp").read_text() + Path("/proc/net/tcp6").read_text()
    rows = [line.split() for line in tables.splitlines()]
    listening = [row[1].split(":") for row in rows if row[3] == "0A"]
    assert {(address, port) for address, port in listening if port in ports} == {("0100007F", port) for port in ports}


def test_what_is_stored_is_the_owners_alone(env, state):
    s3(env).put_object(Bucket="dwi-stroke", Key="scan", Body=b"voxels")
    log_run(env, dice=0.5)
    assert state.stat().st_mode & 0o777 == 0o700
    private = [state / name for name in ("s3", "s3/dwi-stroke/scan", "mlflow", "mlflow/mlflow.db", "logs/s3.log")]
    assert {path.name: path.stat().st_mode & 0o077 for path in private} == {path.name: 0 for path in private}


def mlflow_answers(env: dict[str, str], path: str, body: dict | None = None, **headers: str) -> tuple[int, str]:
    content = body if body is None else json.dumps(body).encode()
    asked = urllib.request.Request(env["MLFLOW_TRACKING_URI"] + path, content, {"Content-Type": "application/json"})
    asked.add_header("Authorization", f"Bearer {env['MLFLOW_TRACKING_TOKEN']}")
    for name, value in headers.items():
        asked.add_header(name.replace("_", "-"), value)
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(asked) as answer:
            return answer.status, answer.headers.get("Access-Control-Allow-Origin", "")
    except urllib.error.HTTPError as refused:
        return refused.code, refused.headers.get("Access-Control-Allow-Origin", "")


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:{port}", "192.168.1.5:{port}", "10.0.0.1", "127.0.0.1.x"]
)
@pytest.mark.parametrize("path", PATHS_OF_MLFLOW)
def test_mlflow_answers_no_name_that_was_made_to_point_here(host, path, env):
    port = env["MLFLOW_TRACKING_URI"].rpartition(":")[2]
    assert mlflow_answers(env, path, Host=host.format(port=port))[0] == 403


@pytest.mark.parametrize("host", ["localhost:{port}", "127.0.0.1:{port}", "localhost:5055"])
def test_mlflow_answers_this_machine_also_through_a_tunnel(host, env):
    port = env["MLFLOW_TRACKING_URI"].rpartition(":")[2]
    path = "/api/2.0/mlflow/experiments/search?max_results=1"
    assert mlflow_answers(env, path, Host=host.format(port=port)) == (200, "")


FOREIGN_ORIGINS = (
    "https://evil.example", "null", "http://127.0.0.1.evil.example", "http://127.0.0.1", "http://127.0.0.1:1",
    "http://localhost:{port}", "http://[::1]:{port}", "http://me@127.0.0.1:{port}",
)  # fmt: skip


@pytest.mark.sampled(3)
@pytest.mark.parametrize("origin", FOREIGN_ORIGINS)
@pytest.mark.parametrize("api", ["api", "ajax-api"])
def test_a_strangers_page_can_neither_change_nor_read_what_mlflow_has(origin, api, env):
    origin = origin.format(port=env["MLFLOW_TRACKING_URI"].rpartition(":")[2])
    create = f"/{api}/2.0/mlflow/experiments/create"
    assert mlflow_answers(env, create, {"name": f"{origin} {api}"}, Origin=origin)[0] == 403
    assert registry(env).get_experiment_by_name(f"{origin} {api}") is None
    search = f"/{api}/2.0/mlflow/experiments/search?max_results=1"
    assert mlflow_answers(env, search, Origin=origin) == (403, "")
    assert mlflow_answers(env, search, Sec_Fetch_Site="same-site", Sec_Fetch_Mode="no-cors")[0] == 403


def test_mlflow_answers_its_own_page(env):
    search = "/ajax-api/2.0/mlflow/experiments/search?max_results=1"
    own = {"Origin": env["MLFLOW_TRACKING_URI"], "Sec_Fetch_Site": "same-origin"}
    assert mlflow_answers(env, search, **own)[0] == 200
    followed = {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "document"}
    assert mlflow_answers(env, "/", **followed)[0] == 200


@pytest.mark.parametrize(
    "login", ["", "Bearer", "Bearer guessed", "Basic bWU6Z3Vlc3NlZA==", "Basic ?", "Token {token}"]
)
def test_mlflow_answers_nobody_without_its_login(login, env):
    for path in PATHS_OF_MLFLOW:
        assert mlflow_answers(env, path, Authorization=login.format(token=env["MLFLOW_TRACKING_TOKEN"]))[0] == 401
    assert mlflow_answers(env, "/health", Authorization=login)[0] == 200


@pytest.mark.parametrize("location", ["file://{folder}", "{folder}", "s3://dwi-stroke/data", "s3://other/mlflow/x"])
def test_mlflow_keeps_no_artifacts_elsewhere_whoever_asks(location, env, tmp_path):
    s3(env).put_object(Bucket="dwi-stroke", Key="data/scan", Body=b"voxels")
    (tmp_path / "scan").write_text("of somebody")
    location, client, name = location.format(folder=tmp_path), registry(env), uuid.uuid4().hex
    with pytest.raises(MlflowException, match=f"{location} is outside this server's artifacts"):
        client.create_experiment(name, artifact_location=location)
    client.create_registered_model(name)
    with pytest.raises(MlflowException, match=r"outside this server's artifacts|Invalid model version source"):
        client.create_model_version(name, location)
    client.delete_registered_model(name)


@pytest.mark.parametrize("location", ["file://{folder}", "s3://dwi-stroke/data", "mlflow-artifacts:/../data"])
def test_mlflow_neither_reads_nor_writes_where_an_older_one_was_told_to(location, env, state, tmp_path):
    s3(env).put_object(Bucket="dwi-stroke", Key="data/scan", Body=b"voxels")
    (tmp_path / "scan").write_text("voxels")
    run = registry(env).create_run("0").info.run_id
    with closing(sqlite3.connect(state / "mlflow" / "mlflow.db")) as database, database:
        database.execute("update runs set artifact_uri = ? where run_uuid = ?", (location.format(folder=tmp_path), run))
    url, login = env["MLFLOW_TRACKING_URI"], {"Authorization": f"Bearer {env['MLFLOW_TRACKING_TOKEN']}"}
    ask = functools.partial(requests.request, headers=login, timeout=20)
    read = ask("GET", f"{url}/get-artifact?run_uuid={run}&path=scan")
    listed = ask("GET", f"{url}/api/2.0/mlflow/artifacts/list?run_id={run}")
    ask("POST", f"{url}/ajax-api/2.0/mlflow/upload-artifact?run_uuid={run}&path=planted", data=b"x")
    assert (read.status_code, listed.status_code) == (400, 400), read.text + listed.text
    assert "outside this server's artifacts" in read.text and "voxels" not in read.text
    assert keys(env, "data/") == ["data/scan"] and [path.name for path in tmp_path.iterdir()] == ["scan"]


@pytest.mark.slow
def test_a_server_from_before_there_was_a_login_is_started_again_with_one(env, other, monkeypatch):
    export(monkeypatch, {name: env[name] for name in S3_VARIABLES} | {"MLFLOW_PORT": str(free_port())})
    today = MLflow.ensure_running

    def as_before(self, command: list[str], variables: dict[str, str]) -> str:
        command = [word for word in command if word not in ("--app-name", "dwi-stroke")]
        return today(self, command, {name: variables[name] for name in variables.keys() - {"MLFLOW_TRACKING_TOKEN"}})

    with monkeypatch.context() as before:
        before.setattr(MLflow, "ensure_running", as_before)
        older = up(other)
    assert mlflow_answers(older, "/version", Authorization="")[0] == 200
    now = up(other)
    assert now["MLFLOW_TRACKING_URI"] == older["MLFLOW_TRACKING_URI"]
    assert mlflow_answers(now, "/version", Authorization="")[0] == 401
    registry(now).get_experiment("0")


def test_another_login_of_this_machine_reads_no_token(env, state):
    if os.getuid():
        pytest.skip("only root can try as somebody else")
    as_nobody = {"user": 65534, "group": 65534, "extra_groups": []}
    for command in (["cat", state / "mlflow-token"], ["cat", f"/proc/{pids(state)[1]}/environ"]):
        assert subprocess.run(command, **as_nobody, capture_output=True, cwd="/").returncode


def test_up_again_is_quick_and_starts_nothing(env, state, capsys):
    before, began = pids(state), time.monotonic()
    assert up(state) == {name: value for name, value in env.items() if "proxy" not in name.lower()}
    assert time.monotonic() - began < 1
    assert pids(state) == before
    assert all(os.getsid(pid) == pid for pid in before)  # Ctrl-C in the terminal does not reach it
    assert capsys.readouterr().out.splitlines() == [
        f"S3      running  {env['S3_ENDPOINT_URL']}",
        f"MLflow  running  {env['MLFLOW_TRACKING_URI']}",
    ]


def test_status_tells_where_everything_is(env, state, capsys):
    assert status(state)
    s3_line, mlflow_line = capsys.readouterr().out.splitlines()
    s3_pid, mlflow_pid = pids(state)
    assert s3_line == (
        f"S3      running  {env['S3_ENDPOINT_URL']}  pid {s3_pid}  data {state}/s3  log {state}/logs/s3.log"
    )
    assert f"pid {mlflow_pid}  data {state}/mlflow  log {state}/logs/mlflow.log" in mlflow_line


@pytest.mark.slow
def test_down_leaves_the_data_and_no_process(env, state, capsys):
    s3(env).put_object(Bucket="dwi-stroke", Key="kept", Body=b"voxels")
    run_id, groups = log_run(env, dice=0.5), pids(state)

    down(state)
    assert not any(group_members(pid) for pid in groups)
    down(state)
    capsys.readouterr()
    assert not status(state)
    assert [line[:15] for line in capsys.readouterr().out.splitlines()] == ["S3      stopped", "MLflow  stopped"]

    again = up(state)
    assert again.items() <= env.items()
    assert read(again, "kept") == b"voxels"
    assert registry(again).get_run(run_id).data.metrics == {"dice": 0.5}


@pytest.mark.slow
def test_a_crashed_service_is_restarted_and_what_it_left_is_ended(env, state):
    _, mlflow_pid = pids(state)
    os.kill(mlflow_pid, signal.SIGKILL)
    wait_until(lambda: str(mlflow_pid) not in group_members(mlflow_pid))
    assert group_members(mlflow_pid), "its uvicorn should have stayed, holding the port"
    assert not status(state)

    assert up(state)["MLFLOW_TRACKING_URI"] == env["MLFLOW_TRACKING_URI"]
    assert not group_members(mlflow_pid)
    log_run(env, dice=0.1)


@pytest.mark.slow
def test_mlflow_follows_s3_to_another_port(env, other, tmp_path, monkeypatch):
    server = """from http.server import *
class Healthy(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
HTTPServer(("127.0.0.1", int(__import__("sys").argv[7])), Healthy).serve_forever()"""
    (tmp_path / "server.py").write_text(server)
    stand_in(monkeypatch, tmp_path, f'exec "{sys.executable}" "{tmp_path}/server.py" "$@"')
    monkeypatch.setenv("S3_PORT", str(free_port()))
    monkeypatch.setenv("MLFLOW_PORT", str(free_port()))
    before = up(other)
    s3_pid, mlflow_pid = pids(other)
    os.kill(s3_pid, signal.SIGKILL)
    wait_until(lambda: not group_members(s3_pid))

    monkeypatch.setenv("S3_PORT", str(free_port()))
    after = up(other)
    assert after["S3_ENDPOINT_URL"] == f"http://127.0.0.1:{os.environ['S3_PORT']}" != before["S3_ENDPOINT_URL"]
    assert after["MLFLOW_TRACKING_URI"] == before["MLFLOW_TRACKING_URI"]
    assert not group_members(mlflow_pid)
    environment = Path(f"/proc/{pids(other)[1]}/environ").read_text().split("\0")
    assert f"MLFLOW_S3_ENDPOINT_URL={after['S3_ENDPOINT_URL']}" in environment

    monkeypatch.setenv("S3_PORT", str(free_port()))
    assert up(other) == after, "where it runs, it is used"


@pytest.mark.parametrize("variable", ["S3_PORT", "MLFLOW_PORT"])
def test_a_taken_port_is_named_with_a_free_one(variable, env, other, monkeypatch):
    ours = S3_VARIABLES if variable == "MLFLOW_PORT" else {"MLFLOW_TRACKING_URI"}
    export(monkeypatch, {name: env[name] for name in ours})
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setenv(variable, str(port))
        with pytest.raises(StepError) as error:
            up(other)
    message = f"port {port} on 127.0.0.1 is taken by another program. Free it, or choose another: make up {variable}="
    assert str(error.value).startswith(message)
    suggested = int(str(error.value).removeprefix(message))
    socket.create_server(("127.0.0.1", suggested)).close()


@pytest.fixture
def squatter(tmp_path):
    """squatter(port, seconds) -> a file with what it was sent: it listens there so many seconds from now."""
    code = """import socket, sys, time
time.sleep(float(sys.argv[2]))
server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
while True:
    client, _ = server.accept()
    open(sys.argv[3], "ab").write(client.recv(1 << 16))
    client.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\n{}")
    client.close()"""
    received, started, python = tmp_path / "received", [], sys.executable  # which `stand_in` replaces
    received.touch()

    def start(port: int, seconds: float) -> Path:
        command = [python, "-c", code, str(port), str(seconds), str(received)]
        started.append(subprocess.Popen(command, start_new_session=True))
        return received

    yield start
    for process in started:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_who_takes_the_port_while_a_server_starts_is_sent_nothing(env, other, tmp_path, monkeypatch, squatter, capsys):
    export(monkeypatch, {name: env[name] for name in S3_VARIABLES})
    port = free_port()
    monkeypatch.setenv("MLFLOW_PORT", str(port))
    stand_in(monkeypatch, tmp_path, "sleep 60")
    monkeypatch.setattr(services.MLflow, "prepare", lambda _: None)  # the port is free until then
    received = squatter(port, 1)
    with pytest.raises(
        StepError, match=rf"MLflow: port {port} .* is held by process \d+ \(python.*\) of user .*not by"
    ):
        up(other)
    assert not status(other)
    assert received.read_bytes() == b"" and not group_members(records(other)["mlflow"]["pid"])


@pytest.mark.slow
def test_who_takes_the_port_of_a_server_that_lives_on_is_named_and_sent_nothing(
    env, other, tmp_path, monkeypatch, squatter, capsys
):
    export(monkeypatch, {name: env[name] for name in S3_VARIABLES})
    port = free_port()
    monkeypatch.setenv("MLFLOW_PORT", str(port))
    stand_in(
        monkeypatch,
        tmp_path,
        f'"{sys.executable}" -m http.server --bind 127.0.0.1 --directory /proc/self/net {port} & wait; sleep 60',
    )
    monkeypatch.setattr(services.MLflow, "health", "/")
    up(other)
    (worker,) = port_owner.programs(port)
    os.kill(worker, signal.SIGKILL)
    wait_until(lambda: is_free(port))
    received = squatter(port, 0)
    wait_until(lambda: not is_free(port))
    already_asked = received.read_bytes()
    capsys.readouterr()
    assert not status(other)
    assert f"port {port} on 127.0.0.1 is held by process" in capsys.readouterr().out
    with pytest.raises(StepError, match=r"not by what was started here\. Nothing was sent there\. End that program"):
        up(other)
    assert received.read_bytes() == already_asked == b""


@pytest.mark.parametrize("text", ["http", "80", "70000", "-1"])
def test_what_is_no_port_is_named(text, env, other, monkeypatch):
    monkeypatch.setenv("S3_PORT", text)
    with pytest.raises(
        StepError, match=f"S3_PORT is '{text}', not a port from 1024 to 65535. Choose one: make up S3_PORT=9000"
    ):
        up(other)


def test_the_users_own_servers_are_used_as_they_are(env, other, monkeypatch, capsys):
    export(monkeypatch, env)
    ours = {"NO_PROXY", "no_proxy", "NETRC"}
    assert up(other) == {name: value for name, value in env.items() if name not in ours} | {"OWN_PORTS": ""}
    assert status(other)
    out = capsys.readouterr().out
    assert out.count(f"S3      external  {env['S3_ENDPOINT_URL']}\n") == 2
    assert out.count(f"MLflow  external  {env['MLFLOW_TRACKING_URI']}\n") == 2
    assert {path.name for path in other.iterdir()} == {"logs", "services.lock"}


def test_the_users_own_s3_may_be_named_as_aws_tools_do_and_gets_the_bucket(env, other, monkeypatch):
    export(monkeypatch, {name: env[name] for name in env if name != "S3_ENDPOINT_URL"})
    monkeypatch.setenv("AWS_ENDPOINT_URL", env["S3_ENDPOINT_URL"])
    monkeypatch.setenv("S3_BUCKET", "another-bucket")
    assert up(other)["S3_ENDPOINT_URL"] == env["S3_ENDPOINT_URL"]
    s3(env).put_object(Bucket="another-bucket", Key="x", Body=b"")


def test_an_s3_that_does_not_answer_is_named_without_its_login(env, other, monkeypatch, capsys):
    port = free_port()
    export(monkeypatch, env | {"S3_ENDPOINT_URL": f"http://me:hunter2@127.0.0.1:{port}"})
    began = time.monotonic()
    with pytest.raises(StepError) as error:
        up(other)
    assert time.monotonic() - began < 15
    for word in (
        "bucket dwi-stroke (S3_BUCKET)",
        f"http://***@127.0.0.1:{port}",
        "Correct S3_BUCKET, S3_ENDPOINT_URL",
    ):
        assert word in str(error.value)
    assert not status(other)
    assert "hunter2" not in str(error.value) + capsys.readouterr().out


def test_a_bucket_that_is_refused_is_named(env, other, monkeypatch):
    export(monkeypatch, env | {"AWS_SECRET_ACCESS_KEY": "outdated"})
    with pytest.raises(StepError, match=rf"bucket dwi-stroke \(S3_BUCKET\) on {env['S3_ENDPOINT_URL']} .*Forbidden"):
        up(other)


@pytest.mark.parametrize("name", ["no", "Not_A_Bucket"])
def test_a_bucket_name_that_s3_does_not_allow_is_named(name, env, state, monkeypatch):
    monkeypatch.setenv("S3_BUCKET", name)
    with pytest.raises(StepError, match=rf"bucket {name} \(S3_BUCKET\) on .* Correct S3_BUCKET$"):
        up(state)


@pytest.mark.parametrize(
    "uri", ["http://me:hunter2@127.0.0.1:{port}", "http://127.0.0.1:{port}/prefix/", "http://[::1"]
)
def test_an_mlflow_that_does_not_answer_is_named_without_its_login(uri, env, other, monkeypatch):
    export(monkeypatch, env | {"MLFLOW_TRACKING_URI": uri.format(port=free_port())})
    with pytest.raises(StepError, match=r"no MLflow at http.*\(MLFLOW_TRACKING_URI\)\. Start it, correct") as error:
        up(other)
    assert "hunter2" not in str(error.value)


def test_a_login_in_the_address_of_mlflow_is_taken_out_of_it(env, other, monkeypatch):
    export(monkeypatch, env | {"MLFLOW_TRACKING_URI": env["MLFLOW_TRACKING_URI"].replace("//", "//me:hunter%402@")})
    found = up(other)
    assert found["MLFLOW_TRACKING_URI"] == env["MLFLOW_TRACKING_URI"]
    assert (found["MLFLOW_TRACKING_USERNAME"], found["MLFLOW_TRACKING_PASSWORD"]) == ("me", "hunter@2")


@pytest.mark.parametrize("folder", ["./mlruns", "file:///srv/mlruns"])
def test_a_folder_in_the_place_of_mlflow_is_named(folder, env, other, monkeypatch):
    export(monkeypatch, env | {"MLFLOW_TRACKING_URI": folder})
    with pytest.raises(StepError, match=f"^MLFLOW_TRACKING_URI={folder} names a folder"):
        up(other)


@pytest.mark.parametrize("name", ["AWS_PROFILE", "AWS_DEFAULT_PROFILE"])
def test_a_profile_that_is_not_there_is_named_with_those_that_are(name, env, other, tmp_path, monkeypatch):
    (tmp_path / "config").write_text("[profile hospital]\nregion = eu-central-1\n")
    export(monkeypatch, env | {"AWS_CONFIG_FILE": str(tmp_path / "config"), name: "old-hospital"})
    said = rf"\(old-hospital\) could not be found\. Correct or unset {name}\. .*: hospital"
    for ask in (lambda: up(other), lambda: Storage("s3://dwi-stroke")):
        with pytest.raises(StepError, match=said):
            ask()


@pytest.mark.parametrize("content", ["no configuration", "[default]\ns3 =\n  use_accelerate_endpoint = true\n"])
def test_a_persons_aws_files_do_not_reach_the_s3_that_is_started_here(content, env, state, tmp_path, monkeypatch):
    (tmp_path / ".aws").mkdir()
    for name in ("config", "credentials"):
        (tmp_path / ".aws" / name).write_text(content)
    monkeypatch.setenv("HOME", str(tmp_path))
    export(monkeypatch, {name: value for name, value in up(state).items() if name in S3_VARIABLES})
    Storage("s3://dwi-stroke").list()
    Storage("s3://dwi-stroke").put("sent", b"a scan")


@pytest.mark.slow
def test_what_a_shell_says_of_other_servers_does_not_reach_these(env, other, tmp_path, monkeypatch):
    foreign = {
        "MLFLOW_REGISTRY_URI": "sqlite:////nowhere.db", "MLFLOW_TRACKING_TOKEN": "planted", "AWS_PROFILE": "planted",
        "MLFLOW_EXPERIMENT_ID": "7", "RCLONE_CONFIG": "/nowhere",
    }  # fmt: skip
    export(monkeypatch, foreign | {"S3_PORT": str(free_port()), "MLFLOW_PORT": str(free_port())})
    monkeypatch.setattr(services.environment, "_named", set())
    found = up(other)
    assert found.keys() - {"NO_PROXY", "no_proxy"} == S3_VARIABLES | MLFLOW_VARIABLES | {"OWN_PORTS"}
    assert found["MLFLOW_TRACKING_TOKEN"] != "planted"
    assert not foreign.keys() & os.environ.keys()
    for pid in pids(other):
        environment = dict(line.partition("=")[::2] for line in Path(f"/proc/{pid}/environ").read_text().split("\0"))
        assert not foreign.items() & environment.items() and environment["PYTHONUTF8"] == "1"
        assert environment.get("MLFLOW_TRACKING_TOKEN") in (None, found["MLFLOW_TRACKING_TOKEN"])


@pytest.mark.slow
def test_what_answers_but_is_not_mlflow_is_refused(env, other, monkeypatch):
    export(monkeypatch, env | {"MLFLOW_TRACKING_URI": env["S3_ENDPOINT_URL"]})
    with pytest.raises(StepError, match="no MLflow at"):
        up(other)


@pytest.mark.slow
def test_a_service_that_dies_while_starting_shows_the_end_of_its_log(env, other, tmp_path, monkeypatch):
    export(monkeypatch, {name: env[name] for name in S3_VARIABLES})
    monkeypatch.setenv("MLFLOW_PORT", str(free_port()))
    stand_in(monkeypatch, tmp_path, "seq 20; echo out of luck >&2; exit 1")
    with pytest.raises(StepError) as error:
        up(other)
    first, *tail, last = str(error.value).splitlines()
    url = f"http://127.0.0.1:{os.environ['MLFLOW_PORT']}"
    assert first == f"MLflow stopped while starting on {url}. Its log, {other}/logs/mlflow.log, ends:"
    assert tail == [f"    {line}" for line in (14, 15, 16, 17, 18, 19, 20, "out of luck")]
    assert last == "Correct that and run make up again"


@pytest.mark.slow
def test_a_service_that_stays_silent_is_given_up(env, other, tmp_path, monkeypatch):
    export(monkeypatch, {name: env[name] for name in S3_VARIABLES})
    monkeypatch.setenv("MLFLOW_PORT", str(free_port()))
    stand_in(monkeypatch, tmp_path, "sleep 60")
    monkeypatch.setattr(embedded_server, "START_SECONDS", 0.5)
    with pytest.raises(StepError, match="MLflow was silent for"):
        up(other)
    assert not group_members(records(other)["mlflow"]["pid"])


def test_damaged_state_is_named(env, other):
    other.mkdir()
    (other / "services.json").write_text("{")
    with pytest.raises(StepError, match=r"services\.json is broken.*Delete it"):
        up(other)
    (other / "services.json").unlink()


@pytest.mark.slow
def test_two_at_once_start_one(env, other, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", env["MLFLOW_TRACKING_URI"])
    monkeypatch.setenv("S3_PORT", str(free_port()))
    with ThreadPoolExecutor() as pool:
        first, second = pool.map(up, [other, other])
    assert first == second
    assert (other / "logs/s3.log").read_text().count("===") == 1


def test_a_recycled_pid_is_spared(env, other):
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as stranger:
        born = group_members(stranger.pid)[str(stranger.pid)]
        recycled = ServerProcess(stranger.pid, 9000, "", {str(stranger.pid): born + 1000})
        other.mkdir()
        (other / "services.json").write_text(json.dumps({"s3": vars(recycled)}))
        assert not status(other)
        down(other)
        assert stranger.poll() is None
        stranger.kill()


def test_a_copy_of_the_folder_has_no_say_over_the_originals_servers(env, state, tmp_path, capsys):
    copy = tmp_path / "copy"
    copy.mkdir(mode=0o700)
    for name in ("services.json", "credentials.json"):
        shutil.copy(state / name, copy / name)
    before = pids(state)
    capsys.readouterr()
    assert not status(copy)
    down(copy)
    assert "running" not in capsys.readouterr().out
    assert pids(state) == before and all(map(group_members, before))
    assert status(state)


def test_the_folder_by_another_path_is_the_same_folder(env, state, tmp_path):
    (tmp_path / "link").symlink_to(state)
    assert status(tmp_path / "link")


@pytest.mark.slow
def test_a_server_of_a_package_that_was_upgraded_is_started_again(env, other, tmp_path, monkeypatch):
    export(monkeypatch, {name: env[name] for name in env if name.startswith("MLFLOW_")})
    monkeypatch.setenv("S3_PORT", str(free_port()))
    up(other)
    before = records(other)["s3"]["pid"]
    monkeypatch.setattr(embedded_server, "version", lambda package: "the next")
    up(other)
    assert records(other)["s3"]["pid"] != before
    assert not group_members(before)


@pytest.fixture
def orphaned(env, other, monkeypatch, capsys):
    """Servers of a state folder that was removed while they ran, and a shell that stands in one of its folders."""
    monkeypatch.setenv("S3_PORT", str(free_port()))
    monkeypatch.setenv("MLFLOW_PORT", str(free_port()))
    up(other)
    before = pids(other)
    with subprocess.Popen(["sh", "-c", "sleep 600; : mlflow"], cwd=other / "mlflow", start_new_session=True) as shell:
        shutil.rmtree(other)
        capsys.readouterr()
        yield before
        assert shell.poll() is None, "a stranger in the folder was ended"
        os.killpg(shell.pid, signal.SIGKILL)


@pytest.mark.slow
def test_servers_whose_folder_was_removed_are_started_again(orphaned, other, capsys):
    assert not status(other)
    assert capsys.readouterr().out.count("running without its folder") == 2
    again = up(other)
    assert "a server whose folder, " in capsys.readouterr().out
    assert not any(map(group_members, orphaned)) and not {*orphaned} & {*pids(other)}
    s3(again).put_object(Bucket="dwi-stroke", Key="x", Body=b"")
    assert status(other)


@pytest.mark.slow
def test_down_stops_servers_whose_folder_was_removed(orphaned, other):
    down(other)
    assert not any(map(group_members, orphaned))


@pytest.mark.parametrize("act", [up, down])
def test_a_file_system_without_locks_is_named_with_a_way_out(act, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(StepError, match=rf"{tmp_path} lies on a file system without locks .*STATE="):
        act(tmp_path)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def export(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def stand_in(monkeypatch: pytest.MonkeyPatch, folder: Path, script: str) -> None:
    """Has a shell script started in the place of `python -m mlflow server`."""
    (folder / "python").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "python").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(folder / "python"))


def records(state: Path) -> dict[str, dict]:
    return json.loads((state / "services.json").read_text())


def pids(state: Path) -> list[int]:
    return [records(state)[name]["pid"] for name in ("s3", "mlflow")]


def wait_until(condition, seconds: float = 5) -> None:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)


def s3(env: dict[str, str], **config):
    return boto3.Session(
        env["AWS_ACCESS_KEY_ID"], env["AWS_SECRET_ACCESS_KEY"], region_name=env["AWS_DEFAULT_REGION"]
    ).client("s3", endpoint_url=env["S3_ENDPOINT_URL"], config=Config(retries={"total_max_attempts": 1}, **config))


def read(env: dict[str, str], key: str) -> bytes:
    return s3(env).get_object(Bucket=env["S3_BUCKET"], Key=key)["Body"].read()


def keys(env: dict[str, str], prefix: str) -> list[str]:
    return [item["Key"] for item in s3(env).list_objects_v2(Bucket=env["S3_BUCKET"], Prefix=prefix)["Contents"]]


def registry(env: dict[str, str]) -> MlflowClient:
    """A client that brings its login with it, so that no test depends on another's variables."""
    return MlflowClient(env["MLFLOW_TRACKING_URI"].replace("//", f"//me:{env['MLFLOW_TRACKING_TOKEN']}@"))


def log_run(env: dict[str, str], **metrics: float) -> str:
    """A finished run with one artifact; its id."""
    client = registry(env)
    run_id = client.create_run("0").info.run_id
    for name, value in metrics.items():
        client.log_metric(run_id, name, value)
    client.log_text(run_id, "0.9, 0.5, 0.3", "curve.txt")
    client.set_terminated(run_id)
    return run_id
