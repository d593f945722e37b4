"""A small S3 server in this process that speaks the dialect of one store or another.

with S3StandIn(DIALECTS["MinIO, old"]) as store:
    ...  # talk to store.url
    store.objects, store.requests
"""

import base64
import hashlib
import re
import threading
import zlib
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.sax.saxutils import escape, unescape


@dataclass(frozen=True)
class Dialect:
    """What a store asks for and how it answers.

    batch: which checksum it wants on a batch delete (of "Content-MD5", "x-amz-checksum-crc32"), None where it has no
    batch delete. checksums: whether it knows boto3's own checksums. cuts_at: it names an object that is larger by the
    MD5s of pieces of that size, in bytes, whichever way it came. own_etags: they are no checksum at all.
    """

    batch: tuple[str, ...] | None = ()
    checksums: bool = True
    cuts_at: int = 0
    own_etags: bool = False


MD5, CRC32 = "Content-MD5", "x-amz-checksum-crc32"
DIALECTS = {
    "AWS": Dialect(batch=(MD5, CRC32)),
    "MinIO, old": Dialect(batch=(MD5,)),
    "MinIO, new": Dialect(batch=(MD5, CRC32)),
    "Ceph RGW": Dialect(batch=(MD5,)),
    "SeaweedFS 4.34": Dialect(cuts_at=400),
    "rclone": Dialect(),
    "a store that knows no checksums but MD5": Dialect(batch=(MD5,), checksums=False),
    "a store without batch deletes": Dialect(batch=None),
    "a store with ETags of its own": Dialect(own_etags=True),
}


class S3StandIn:
    """Holds buckets of any name.

    objects: "bucket/key" to bytes. requests: each as "METHOD path". refuses: methods that are denied.
    """

    def __init__(self, dialect: Dialect):
        self.dialect = dialect
        self.objects: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.refuses: set[str] = set()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"store": self}))
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self) -> "S3StandIn":
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self.server.shutdown()
        self.server.server_close()

    def etag(self, content: bytes) -> str:
        whole, cut = hashlib.md5(content).hexdigest(), self.dialect.cuts_at
        if self.dialect.own_etags:
            return f"v1-{whole[:8]}"
        if not cut or len(content) <= cut:
            return whole
        pieces = [hashlib.md5(content[at : at + cut]).digest() for at in range(0, len(content), cut)]
        return f"{hashlib.md5(b''.join(pieces)).hexdigest()}-{len(pieces)}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    store: S3StandIn

    def log_message(self, *_) -> None:
        pass

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.store.requests.append(f"{self.command} {self.path}")
        if self.command in self.store.refuses:
            return self._refuse(403, "AccessDenied")
        sent = [name for name in self.headers if name.lower().startswith(("x-amz-checksum-", "x-amz-sdk-checksum-"))]
        if sent and not self.store.dialect.checksums:
            return self._refuse(501, "NotImplemented")
        if not self._is_intact(body):
            return self._refuse(400, "BadDigest")
        path, query = unquote(urlsplit(self.path).path)[1:], parse_qs(urlsplit(self.path).query, keep_blank_values=True)
        getattr(self, f"_{self.command.lower()}")(path, query, body)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _serve

    def _is_intact(self, body: bytes) -> bool:
        """Whether the checksums that came with a body are its own."""
        right = {MD5: hashlib.md5(body).digest(), CRC32: zlib.crc32(body).to_bytes(4, "big")}
        given = {name: self.headers[name] for name in right if name in self.headers}
        return all(base64.b64decode(value) == right[name] for name, value in given.items())

    def _put(self, path: str, query: dict, body: bytes) -> None:
        self.store.objects[path] = body
        self._answer(200, ETag=f'"{self.store.etag(body)}"')

    def _head(self, path: str, query: dict, body: bytes) -> None:
        content = self.store.objects.get(path)
        if "/" not in path.strip("/"):
            return self._answer(200)
        if content is None:
            return self._answer(404)
        return self._answer(200, content, ETag=f'"{self.store.etag(content)}"')

    def _get(self, path: str, query: dict, body: bytes) -> None:
        if "list-type" not in query:
            content = self.store.objects.get(path)
            return self._refuse(404, "NoSuchKey") if content is None else self._head(path, query, body)
        start = f"{path.strip('/')}/"
        rows = "".join(
            f"<Contents><Key>{escape(quote(key.removeprefix(start)))}</Key><Size>{len(content)}</Size>"
            f'<ETag>"{self.store.etag(content)}"</ETag><LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>'
            for key, content in sorted(self.store.objects.items())
            if key.startswith(start + query.get("prefix", [""])[0])
        )
        told = "<EncodingType>url</EncodingType><IsTruncated>false</IsTruncated>"
        return self._answer(200, f"<ListBucketResult>{told}{rows}</ListBucketResult>".encode())

    def _post(self, path: str, query: dict, body: bytes) -> None:
        wanted = self.store.dialect.batch
        if wanted is None:
            return self._refuse(501, "NotImplemented")
        if wanted and not any(name in self.headers for name in wanted):
            return self._refuse(400, "MissingContentMD5")
        for key in re.findall("<Key>(.*?)</Key>", body.decode()):
            self.store.objects.pop(f"{path.strip('/')}/{unescape(key)}", None)
        return self._answer(200, b"<DeleteResult/>")

    def _delete(self, path: str, query: dict, body: bytes) -> None:
        self.store.objects.pop(path, None)
        self._answer(204)

    def _refuse(self, status: int, code: str) -> None:
        self._answer(status, f"<Error><Code>{code}</Code><Message>as asked</Message></Error>".encode())

    def _answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
