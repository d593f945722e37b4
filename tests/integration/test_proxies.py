"""A person's own S3 and MLflow on this machine, and the request of make serve, where a proxy is set for everything."""

import http.server
import os
import re
import shlex
import socket
import subprocess
import threading
from pathlib import Path

import mlflow
import pytest

from components.core.storage import Storage
from pipelines.cluster.api import _proxy
from pipelines.local.services import status, up
from pipelines.predict.serve import request

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
EMPTY = b"<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>"


class Listener(http.server.ThreadingHTTPServer):
    """Answers everything with `status`, and notes what it was asked."""

    def __init__(self, host: str, status: int):
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.asked, self.status = [], status
        super().__init__((host, 0), _Answer)
        threading.Thread(target=self.serve_forever, daemon=True).start()


class _Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.asked.append(f"{self.command} {self.path}")
        body = b"{}" if "mlflow" in self.path or "invocations" in self.path else EMPTY
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_PUT = do_POST = do_GET

    def log_message(self, *_):
        pass


@pytest.fixture
def listen():
    """listen(host, status) -> a listener; all are closed at the end."""
    opened = []

    def make(host: str = "127.0.0.1", status: int = 200) -> Listener:
        try:
            opened.append(Listener(host, status))
        except OSError:
            pytest.skip(f"this machine has no {host}")
        return opened[-1]

    yield make
    for listener in opened:
        listener.shutdown()
        listener.server_close()


@pytest.fixture
def proxy(listen, monkeypatch):
    """What a hospital sets, and no more."""
    for name in [n for n in os.environ if n.lower().endswith("_proxy") or n.startswith(("AWS_", "S3_", "MLFLOW_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "intranet.example")
    proxy = listen(status=503)
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.server_port}")
    return proxy


@pytest.mark.parametrize(("name", "host"), [("127.0.0.1", "127.0.0.1"), ("localhost", "127.0.0.1"), ("[::1]", "::1")])
def test_ones_own_servers_on_this_machine_are_asked_past_the_proxy(name, host, proxy, listen, tmp_path, monkeypatch):
    s3, registry = listen(host), listen(host)
    monkeypatch.setenv("S3_ENDPOINT_URL", f"http://{name}:{s3.server_port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://{name}:{registry.server_port}")
    for variable, value in up(tmp_path / ".local").items():
        monkeypatch.setenv(variable, value)
    assert status(tmp_path / ".local")
    assert Storage("s3://bucket").list() == []
    mlflow.MlflowClient(os.environ["MLFLOW_TRACKING_URI"]).get_experiment("0")
    assert _proxy(os.environ["MLFLOW_TRACKING_URI"]) is None
    assert "GET /health" in registry.asked and any("experiments/get" in line for line in registry.asked)
    assert any("list-type=2" in line for line in s3.asked)
    assert proxy.asked == []


def test_the_printed_request_sends_the_scan_to_no_proxy(proxy, listen, tmp_path):
    (tmp_path / "scan.nii.gz").write_bytes(b"a scan")
    server = listen()
    url = f"http://127.0.0.1:{server.server_port}"
    (tmp_path / ".curlrc").write_text(f'proxy = "{os.environ["http_proxy"]}"\n')
    shell = {**os.environ, "HOME": str(tmp_path)}
    subprocess.run(["bash", "-c", request(url, ["scan"])], cwd=tmp_path, env=shell, capture_output=True)
    assert (server.asked, proxy.asked) == (["POST /invocations"], [])


@pytest.mark.parametrize("page", [p.relative_to(ROOT) for p in (*ROOT.glob("*.md"), *ROOT.glob("*/*.md"))], ids=str)
def test_what_is_documented_goes_past_proxies_too(page):
    lines = [line.strip() for line in (ROOT / page).read_text().splitlines()]
    here = [line for line in lines if re.match(r"curl .*(127\.0\.0\.1|localhost|\[::1\])", line)]
    assert all("--noproxy" in shlex.split(line) for line in here)
    if page.name == "predicting.md":
        assert request("http://127.0.0.1:5001", ["scan"]).splitlines()[1] in here
