"""A small HTTP server that the stand-ins for the APIs of a cluster share."""

import contextlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit


class Server:
    """`with Server() as server:` an HTTP server on 127.0.0.1.

    `requests` and `headers` are what it got; it gives the answers in `faults` first, then those of `route`.
    """

    def __init__(self):
        self.requests: list[str] = []
        self.headers: list[dict] = []
        self.faults: list[tuple[int, str | bytes]] = []

    def __enter__(self):
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self):
                length = int(self.headers.get("Content-Length") or 0)
                body = self.rfile.read(length)
                outer.requests.append(f"{self.command} {urlsplit(self.path).path}")
                outer.headers.append(dict(self.headers))
                status, content = outer.faults.pop(0) if outer.faults else outer.route(self.command, self.path, body)
                data = content.encode() if isinstance(content, str) else content
                self.send_response(status)
                if 300 <= status < 400:
                    self.send_header("Location", "/dex/auth")
                self.send_header("Content-Type", "text/html" if data.startswith(b"<") else "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                with contextlib.suppress(BrokenPipeError):
                    self.wfile.write(data)

            do_GET = do_POST = do_DELETE = do_PATCH = answer

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.vanish()

    def vanish(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def route(self, method: str, path: str, body: bytes) -> tuple[int, str | bytes]:
        raise NotImplementedError
