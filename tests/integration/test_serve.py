"""The champion over HTTP: the request that is printed and documented, sent to the server that was started."""

import base64
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import yaml

from components.artifacts.synthetic import TAG, WARNING
from components.core.errors import StepError
from components.registry.tracking import MODEL_NAME
from pipelines.predict.serve import request, serve

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
CHAMPION = f"models:/{MODEL_NAME}@champion"
START_SECONDS = 120


@dataclass
class Server:
    """A process that answers at `url`, and the file that holds what it prints."""

    process: subprocess.Popen
    url: str
    output: Path

    def printed(self) -> str:
        return self.output.read_text()

    def stop(self, by: int = signal.SIGINT, seconds: float = 60) -> int:
        """Send the signal to the server; return its exit code."""
        os.killpg(self.process.pid, by)
        return self.process.wait(timeout=seconds)


@pytest.fixture(scope="module")
def start(servers, tmp_path_factory):
    """start(command, url) -> a server once it answers; those that still run are ended after the last test."""
    started = []

    def make(command: list[str], url: str, cwd: Path = ROOT, **environment: str) -> Server:
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "S3_", "MLFLOW_"))}
        output = tmp_path_factory.mktemp("server") / "output"
        with output.open("w") as file:
            process = subprocess.Popen(
                command, cwd=cwd, env=clean | environment, start_new_session=True, stdout=file, stderr=file
            )
        started.append(process)
        deadline = time.monotonic() + START_SECONDS
        while not _answers(f"{url}/ping"):
            assert process.poll() is None and time.monotonic() < deadline, output.read_text()
            time.sleep(0.2)
        return Server(process, url, output)

    yield make
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture(scope="module")
def shared():
    """What `served` started: it needs a registry, which is empty before each test, only to start."""
    return []


@pytest.fixture
def served(servers, champion, start, free_port, shared):
    """make serve of a champion that takes all for lesion, shared by the tests of this file: its server and version."""
    if not shared or shared[-1][0].process.poll() is not None:
        version, port = champion(bias=100.0), free_port()
        command = [sys.executable, "-m", "pipelines", "serve", "--port", port]
        shared.append((start(command, f"http://127.0.0.1:{port}", **servers), version))
    return shared[-1]


def _answers(url: str) -> bool:
    try:
        return urllib.request.urlopen(url, timeout=5).status == 200
    except OSError:
        return False


def status_of(url: str, content: bytes | None = None, **headers: str) -> int:
    message = urllib.request.Request(url, content, headers)
    try:
        return urllib.request.urlopen(message).status
    except urllib.error.HTTPError as error:
        return error.code


def ask(url: str, body: dict) -> tuple[int, dict]:
    content = json.dumps(body).encode()
    message = urllib.request.Request(f"{url}/invocations", content, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(message) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_the_request_that_is_printed_works_and_a_refused_scan_is_told_in_a_sentence(served, put, tmp_path):
    server, version = served
    url = server.url
    scan = put(tmp_path / "scan.nii.gz")
    sent = subprocess.run(["bash", "-c", request(url, ["scan"])], cwd=tmp_path, capture_output=True, text=True)
    assert sent.returncode == 0 and sent.stderr == ""
    assert "'lesion_ml': 76.8" in sent.stdout and "needs_review" in sent.stdout
    mask = nib.load(tmp_path / "mask.nii.gz")
    assert np.array_equal(mask.affine, nib.load(scan).affine) and np.asarray(mask.dataobj).all()

    put(tmp_path / "scan.nii.gz", np.zeros((32, 32, 4), np.float32))
    sent = subprocess.run(["bash", "-c", request(url, ["scan"])], cwd=tmp_path, capture_output=True, text=True)
    assert "the image is constant (0 everywhere)" in sent.stdout and "Traceback" not in sent.stdout + sent.stderr

    status, answer = ask(url, {"dataframe_split": {"columns": ["scan"], "data": [["bm8gc2Nhbg=="]]}})
    assert (status, answer.keys()) == (400, {"error_code", "message"})
    assert answer["message"].startswith("not readable as NIfTI")

    blob = json.loads((tmp_path / "request.json").read_text())["dataframe_split"]["data"][0][0]
    status, answer = ask(url, {"dataframe_records": [{"scan": blob}]})
    assert status == 400 and "stack_trace" not in answer and blob[:20] not in json.dumps(answer)

    out = server.printed()
    assert re.search(rf"(?ms)^segmenting on \w.*^models:/{MODEL_NAME}/{version} answers at {url}", out)
    assert request(url, ["scan"]) in out
    assert "Traceback" not in out and "SYNTHETIC" not in out


def test_another_form_is_answered_with_the_form_to_send(served, put, tmp_path):
    url = served[0].url
    blob = base64.b64encode(put(tmp_path / "scan.nii.gz").read_bytes()).decode()
    for body in (
        {"inputs": {"scan": [blob]}}, {"inputs": [blob]}, {"instances": [{"scan": blob}]}, {"instances": [blob]},
        {"inputs": [{"scan": {"b64": blob}}], "params": {"probability": True}}, {"scan": blob}, [blob],
    ):  # fmt: skip
        status, answer = ask(url, body)
        assert (status, answer.keys()) == (400, {"error_code", "message"})
        assert '"dataframe_split": {"columns": ["scan"], "data": [["scan in base64"]]}' in answer["message"]
        assert blob[:20] not in answer["message"]
    status, answer = ask(url, {"dataframe_split": {"columns": ["scan"], "data": [[blob]]}})
    assert status == 200 and answer["predictions"][0]["mask"]


def test_what_is_no_request_is_refused_in_words_without_a_stack_trace(served, put, tmp_path):
    server, _ = served
    url = server.url
    blob = base64.b64encode(put(tmp_path / "scan.nii.gz").read_bytes()).decode()
    deep = b'{"dataframe_split": ' + b'{"a":' * 50_000 + b"1" + b"}" * 50_001
    frame = '{"dataframe_split": {"columns": ["scan"], "data": [[%s]]}%s}'
    for body, kind, code, words in (
        (b"[" * 200_000, "application/json", 400, "not valid JSON"),
        (deep, "application/json", 400, "not valid JSON"),
        (b"{", "application/json", 400, "not valid JSON"),
        (b'"dataframe_split"', "application/json", 400, "not sent in the form"),
        (b'{"dataframe_split": 1}', "application/json", 400, "not sent in the form"),
        (b'{"dataframe_split": {}}', "application/json", 400, ""),
        ((frame % ("NaN", "")).encode(), "application/json", 400, ""),
        ((frame % (f'"{blob}"', ', "params": {"probability": "much"}')).encode(), "application/json", 400, ""),
        (b"scan\nAAAA\n", "text/csv", 400, ""),
        (b"PAR1", "application/vnd.apache.parquet", 400, ""),
        (b"scan", "text/plain", 415, ""),
    ):
        message = urllib.request.Request(f"{url}/invocations", body, {"Content-Type": kind})
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(message, timeout=60)
        said = refused.value.read().decode()
        assert (refused.value.code, words in said) == (code, True), (body[:60], refused.value.code, said[:500])
        assert "Traceback" not in said and "stack_trace" not in said, body[:60]
    assert ask(url, json.loads(frame % (f'"{blob}"', "")))[0] == 200
    assert "Traceback" not in server.printed()


def test_a_body_without_end_is_refused_before_it_is_read(served):
    url = served[0].url
    with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2]))) as client:
        client.sendall(b"POST /invocations HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 99999999999\r\n\r\n")
        answer = http.client.HTTPResponse(client, method="POST")
        answer.begin()
        assert answer.status == 413 and "larger than 512 MiB" in answer.read().decode()


@pytest.mark.slow
def test_a_champion_that_learnt_from_synthetic_scans_alone_is_called_so(servers, champion, registry, start, free_port):
    version, port = champion(), free_port()
    for tag, value in TAG.items():
        registry.set_model_version_tag(MODEL_NAME, version, tag, value)
    server = start([sys.executable, "-m", "pipelines", "serve", "--port", port], f"http://127.0.0.1:{port}", **servers)
    server.stop()
    assert f"This model {WARNING}." in server.printed()


def test_probabilities_come_on_request_beside_the_mask(served, put, tmp_path):
    url = served[0].url
    put(tmp_path / "scan.nii.gz")
    subprocess.run(["bash", "-c", request(url, ["scan"])], cwd=tmp_path, check=True, capture_output=True)
    body = json.loads((tmp_path / "request.json").read_text())
    assert "probability" not in ask(url, body)[1]["predictions"][0]
    status, answer = ask(url, body | {"params": {"probability": True}})
    assert status == 200 and answer["predictions"][0]["probability"]


def test_web_pages_are_not_answered(served):
    url = served[0].url
    port = url.rpartition(":")[2]
    assert status_of(f"{url}/ping", Host=f"localhost:{port}") == 200
    for host in ("evil.example", f"evil.example:{port}", "192.168.1.5"):
        assert status_of(f"{url}/ping", Host=host) == status_of(f"{url}/invocations", b"{}", Host=host) == 400
    for origin in ("https://evil.example", "null", url):
        assert status_of(f"{url}/invocations", b"{}", Origin=origin) == 403


def test_on_ctrl_c_it_stops_and_says_so(served):
    server, _ = served
    assert server.stop() == 0
    out = server.printed()
    assert out.endswith("stopped\n") and "Traceback" not in out


def test_a_port_that_is_taken_or_none_is_said_in_words(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(StepError, match=rf"port {port} on 127.0.0.1 is taken .*SERVE_PORT=\d+"):
            serve(CHAMPION, str(port), tmp_path)
    for text in ("80", "http", "70000"):
        with pytest.raises(StepError, match=rf"'{text}', not a port from 1024 to 65535"):
            serve(CHAMPION, text, tmp_path)


def test_the_request_in_the_documentation_is_the_one_that_is_printed():
    assert request("http://127.0.0.1:5001", ["scan"]) in (ROOT / "docs" / "predicting.md").read_text()


def test_for_a_model_that_sees_adc_the_request_sends_both(put, tmp_path):
    put(tmp_path / "scan.nii.gz")
    put(tmp_path / "adc.nii.gz")
    (made, _) = request("http://127.0.0.1:1", ["scan", "adc"]).split("\n", 1)
    subprocess.run(["bash", "-c", made], cwd=tmp_path, check=True)
    split = json.loads((tmp_path / "request.json").read_text())["dataframe_split"]
    assert split["columns"] == ["scan", "adc"] and len(split["data"][0]) == 2


@pytest.mark.slow
def test_the_command_of_the_manifest_serves_the_champion_from_mlflow_alone(
    servers, champion, start, put, free_port, tmp_path
):
    """As in the pod: no S3, and of our code only what comes with the model."""
    champion(bias=100.0)
    (_, service) = yaml.safe_load_all((ROOT / "manifests" / "serving" / "inference-service.yaml").read_text())
    (container,) = service["spec"]["predictor"]["containers"]
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [re.sub("--port=8080", f"--port={port}", word) for word in container["command"]]
    command[0] = str(Path(sys.executable).parent / command[0])
    names = {variable["name"] for variable in container["env"]}
    mlflows = {name: servers[name] for name in ("MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_TOKEN")}
    given = {"__pyfunc_model_path__": CHAMPION, **mlflows}
    assert given.keys() <= names
    home = tmp_path / "home"
    home.mkdir()
    server = start(command, url, home, **given, HOME=str(home), TMPDIR=str(home), PYTHONPATH="")
    put(tmp_path / "scan.nii.gz")
    sent = subprocess.run(["bash", "-c", request(url, ["scan"])], cwd=tmp_path, capture_output=True, text=True)
    assert "'lesion_ml': 76.8" in sent.stdout
    assert server.stop(signal.SIGTERM, seconds=30) in (0, -signal.SIGTERM)
