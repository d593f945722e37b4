"""A server that stands before another and does it harm: S3 or MLflow, over HTTP, on loopback.

    with Proxy("http://127.0.0.1:9000") as proxy:
        proxy.plan = lambda request: "reset" if request.method == "PUT" else None
        ...  # talk to proxy.url
        proxy.counts  # {"reset": 3}

A plan names a fault of `FAULTS`, or None, for each request.
"""

import http.client
import re
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple
from urllib.parse import urlsplit

REFUSALS = {
    "500": (500, "InternalError"),
    "503": (503, "SlowDown"),
    "429": (429, "TooManyRequests"),
    "expired": (400, "ExpiredToken"),
    "denied": (403, "AccessDenied"),
}
"""Answers in the server's place."""
LOST = ("lost", "reset", "stall")
"""The request is carried out and its answer lost; or the connection breaks, or falls silent, before it is."""
DAMAGE = ("cut", "flipped", "sent flipped", "sent cut", "stale")
"""The answer's body ends early, or has one bit inverted; the same of the request's; or a listing is an earlier one."""
FAULTS = (*REFUSALS, *LOST, *DAMAGE)
HOP = {"connection", "expect", "transfer-encoding", "content-length"}


class Request(NamedTuple):
    """number counts all requests from 0."""

    number: int
    method: str
    path: str
    body: bytes

    @property
    def is_listing(self) -> bool:
        return "list-type=2" in self.path

    @property
    def is_object(self) -> bool:
        return self.method in ("GET", "PUT") and "?" not in self.path


class Proxy:
    """`url` is where it listens; `stalls` the seconds that a stall lasts; while `gone` nobody is there."""

    def __init__(self, upstream: str, stalls: float = 3):
        self.upstream, self.stalls, self.gone = urlsplit(upstream), stalls, False
        self.plan: Callable[[Request], str | None] = lambda request: None
        self.counts: Counter = Counter()
        self.requests: list[Request] = []
        self.listings: dict[str, tuple] = {}
        self.lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"proxy": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        self.server.handle_error = lambda *_: None  # broken connections are its business
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self) -> "Proxy":
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self.server.shutdown()
        self.server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: Proxy

    def log_message(self, *_) -> None:
        pass

    def _serve(self) -> None:
        proxy, body = self.proxy, self._body()
        with proxy.lock:
            request = Request(len(proxy.requests), self.command, self.path, body)
            proxy.requests.append(request)
            fault = "reset" if proxy.gone else proxy.plan(request)
            if fault:
                proxy.counts["gone" if proxy.gone else fault] += 1
        if fault in REFUSALS:
            status, code = REFUSALS[fault]
            text = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>planned</Message></Error>".encode()
            self._answer(status, [("Content-Type", "application/xml")], b"" if self.command == "HEAD" else text)
        elif fault == "reset":
            self._break()
        elif fault == "stall":
            time.sleep(proxy.stalls)
            self._break()
        elif fault == "sent cut":
            self._forward(body[: len(body) // 2], promised=len(body))
            self._break()
        else:
            self._pass_on(request, fault)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = do_PATCH = _serve

    def _pass_on(self, request: Request, fault: str | None) -> None:
        status, headers, answer = self._forward(_flipped(request.body) if fault == "sent flipped" else request.body)
        if fault == "lost":
            self._break()
            return
        if request.is_listing:
            before = self.proxy.listings.get(request.path)
            if fault == "stale" and before:
                status, headers, answer = before
            else:
                self.proxy.listings[request.path] = (status, headers, answer)
        if fault == "flipped":
            answer = _flipped(answer)
        if fault == "cut":
            self._answer(status, headers, answer[: len(answer) // 2], promised=len(answer))
            self._break()
        else:
            self._answer(status, headers, answer)

    def _body(self) -> bytes:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _forward(self, body: bytes, promised: int | None = None) -> tuple:
        upstream = http.client.HTTPConnection(self.proxy.upstream.hostname, self.proxy.upstream.port, timeout=120)
        try:
            signed = "X-Amz-Signature" in self.path or self.headers.get("Authorization", "").startswith("AWS4")
            upstream.putrequest(self.command, self.path, skip_host=signed, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in HOP and (signed or name.lower() != "host"):
                    upstream.putheader(name, value)
            if body or self.command in ("PUT", "POST", "PATCH"):
                upstream.putheader("Content-Length", str(len(body) if promised is None else promised))
            upstream.endheaders(body)
            if promised is not None and promised != len(body):
                return 0, [], b""
            answer = upstream.getresponse()
            kept = [(n, v) for n, v in answer.getheaders() if n.lower() not in HOP]
            if self.command == "HEAD":
                kept += [("Content-Length", answer.getheader("Content-Length") or "0")]
            return answer.status, kept, answer.read()
        finally:
            upstream.close()

    def _answer(self, status: int, headers: list, body: bytes, promised: int | None = None) -> None:
        self.send_response_only(status)
        for name, value in headers:
            self.send_header(name, value)
        if not any(name == "Content-Length" for name, _ in headers) and status not in (204, 304):
            self.send_header("Content-Length", str(len(body) if promised is None else promised))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def _break(self) -> None:
        """End the connection with a reset."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.shutdown(socket.SHUT_RD)
        self.rfile.close()
        self.wfile = open("/dev/null", "wb")  # noqa: SIM115, PTH123 (what the base class would flush)
        self.connection.close()


def _flipped(body: bytes) -> bytes:
    """With one bit inverted, in the middle."""
    if not body:
        return body
    at = len(body) // 2
    return body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :]


def one_in(
    share: float, random, faults: tuple[str, ...], where=lambda request: True
) -> Callable[[Request], str | None]:
    """A plan that gives a share of the requests one of these faults, each where it can be."""

    def plan(request: Request) -> str | None:
        if not where(request) or random.random() >= share:
            return None
        fault = random.choice(faults)
        if fault == "stale" and not request.is_listing:
            return "reset"
        if fault in ("flipped", "sent flipped", "sent cut") and not _can_be(fault, request):
            return "503"
        return fault

    return plan


def _can_be(fault: str, request: Request) -> bool:
    part = re.search(r"[?&]partNumber=", request.path) is not None
    if fault == "flipped":
        return request.method == "GET" and request.is_object
    return request.method == "PUT" and (request.is_object or part)
