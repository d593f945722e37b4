"""S3: list, download, upload. The only place that knows where objects live and how to reach them.

What may pass is tried again, for `PATIENCE_SECONDS`; bytes that are not those of their ETag are never handed on.
"""

import base64
import hashlib
import logging
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import boto3
from boto3.exceptions import S3UploadFailedError
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, ConnectTimeoutError, ProfileNotFound, ReadTimeoutError

from components.core import etag
from components.core.loopback import is_here
from components.core.port_owner import guard
from components.core.step import StepError, progress, without_logins
from components.core.storage_faults import (
    ALTERED,
    BROKEN_ON_THE_WAY,
    FAULTS,
    CameShort,
    may_pass,
    named,
    unknown_profile,
    what_to_do,
)  # fmt: skip

PARALLEL_TRANSFERS = 8
ATTEMPTS = 3
PATIENCE_SECONDS, LONGEST_PAUSE_SECONDS, SETTLED_SECONDS = 120, 10, 20
CONNECT_SECONDS, ANSWER_SECONDS, SAID_AFTER_SECONDS = 10, 60, 20
Result = TypeVar("Result")


@dataclass(frozen=True)
class Object:
    """One object: key relative to the prefix it was listed under, size in bytes, ETag."""

    key: str
    size: int
    etag: str


Listing = list[Object]


class Storage:
    """An S3 bucket and a prefix in it, `s3://bucket/prefix`."""

    def __init__(self, uri: str, client=None):
        scheme, _, rest = uri.partition("://")
        self.bucket, _, prefix = rest.partition("/")
        if scheme != "s3" or not self.bucket:
            raise StepError(f"'{uri}' is not an S3 address. Write it as s3://bucket/prefix.")
        self.prefix = prefix.strip("/") + "/" if prefix.strip("/") else ""
        self.uri = f"s3://{self.bucket}/{self.prefix}".rstrip("/")
        self.client = client or connect()
        self.patience = PATIENCE_SECONDS

    def list(self) -> Listing:
        """All objects under the prefix, sorted by key."""
        return sorted(self._patiently("", self._listed), key=lambda o: o.key)

    def find(self, key: str) -> Object | None:
        """Return the object of this key; None where there is none."""
        return next((o for o in self._patiently(key, lambda: self._listed(key)) if o.key == key), None)

    def _listed(self, start: str = "") -> Listing:
        found, prefix = [], self.prefix + start
        for page in self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix):
            for entry in page.get("Contents", []):
                key = entry["Key"][len(self.prefix) :]
                if key and not key.endswith("/"):
                    found.append(Object(key, entry["Size"], entry["ETag"].strip('"')))
        return found

    def list_until(self, settled: Callable[[Listing], bool]) -> Listing:
        """The listing once it is `settled`, or after `SETTLED_SECONDS`: a server may show what was there before."""
        deadline = time.monotonic() + SETTLED_SECONDS
        while True:
            objects = self.list()
            if settled(objects) or time.monotonic() > deadline:
                return objects
            time.sleep(1)

    def download(self, objects: Iterable[Object], folder: Path) -> None:
        """Fetch objects into `folder` in parallel; what an interrupted call fetched is not fetched again.

        Raises:
            StepError: one is not to be had, or is not what its ETag says.
        """
        objects = list(objects)
        with ThreadPoolExecutor(PARALLEL_TRANSFERS) as pool:
            done = pool.map(lambda o: self._download_one(o, folder), objects)
            for _ in progress(done, total=len(objects), what="downloaded"):
                pass

    def _download_one(self, obj: Object, folder: Path) -> None:
        path = local_path(folder, obj.key)
        part = path.with_name(f"{path.name}.{_short(obj.etag)}.part")
        if path.exists() and path.stat().st_size == obj.size:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        if part.is_symlink() or (part.exists() and part.stat().st_size >= obj.size):
            part.unlink()
        answer = {}

        def read() -> tuple[Path, dict]:
            if part.exists() and part.stat().st_size >= obj.size:  # and is not what it should be
                part.unlink()
            part.touch()
            while (have := part.stat().st_size) < obj.size:
                self._patiently(obj.key, lambda have=have: answer.update(self._append(obj, part, have)))
            return part, {**answer, "ETag": obj.etag}

        if obj.size:
            self._checked(obj.key, read)
        else:
            part.touch()
        part.rename(path)

    def _append(self, obj: Object, part: Path, have: int) -> dict:
        """Fetch what is missing, as far as it comes; the answer's head."""
        given = {"Range": f"bytes={have}-"} if have else {}
        answer = self.client.get_object(Bucket=self.bucket, Key=self.prefix + obj.key, **given)
        if _etag(answer) not in ("", obj.etag):
            raise StepError(f"{self.uri}/{obj.key} changed while it was read. Run again once the bucket is still.")
        try:
            with part.open("ab" if "ContentRange" in answer else "wb") as out:
                for chunk in answer["Body"].iter_chunks(1 << 20):
                    out.write(chunk)
        except BROKEN_ON_THE_WAY:
            if part.stat().st_size <= have:
                raise
        if part.stat().st_size <= have:
            raise CameShort()
        return answer

    def upload(self, folder: Path, keys: Iterable[str]) -> dict[str, str]:
        """Send files of `folder` to the same keys, in parallel; objects appear whole or not at all. Their ETags."""
        keys = list(keys)
        with ThreadPoolExecutor(PARALLEL_TRANSFERS) as pool:
            sent = pool.map(lambda key: (key, self.put(key, folder / key)), keys)
            return dict(progress(sent, total=len(keys), what="uploaded"))

    def put(self, key: str, source: Path | bytes) -> str:
        """Send it, and see that it arrived as it is; its ETag."""
        if isinstance(source, Path) and source.stat().st_size < etag.PART:
            source = source.read_bytes()

        for _ in range(ATTEMPTS):
            answer = self._patiently(key, lambda: self._send(key, source))
            tag = _etag(answer)
            if _own_key(answer) or not etag.is_checksum(tag) or etag.agrees(tag, source):
                return tag  # where it is no checksum, the server has checked the MD5 that came with it
            if not etag.is_md5(tag) and self.sha256(key) == _sha256(source):  # the store cuts objects its own way
                return tag
        raise self._altered(key)

    def _send(self, key: str, source: Path | bytes) -> dict:
        where = {"Bucket": self.bucket, "Key": self.prefix + key}
        if isinstance(source, bytes):
            digest = base64.b64encode(bytes.fromhex(etag.md5(source))).decode()
            return self.client.put_object(**where, Body=source, ContentMD5=digest)
        in_parts = TransferConfig(multipart_threshold=etag.PART, multipart_chunksize=etag.PART)
        self.client.upload_file(str(source), *where.values(), Config=in_parts)
        return self.client.head_object(**where)

    def get(self, key: str) -> bytes:
        def read() -> tuple[bytes, dict]:
            answer = self.client.get_object(Bucket=self.bucket, Key=self.prefix + key)
            return answer["Body"].read(), answer

        return self._checked(key, lambda: self._patiently(key, read))

    def sha256(self, key: str) -> str:
        """Of an object's bytes."""
        head = self._patiently(key, lambda: self.client.head_object(Bucket=self.bucket, Key=self.prefix + key))
        with tempfile.TemporaryDirectory(dir=scratch()) as folder:
            self._download_one(Object(key, head["ContentLength"], _etag(head)), Path(folder))
            return file_sha256(local_path(Path(folder), key))

    def delete(self, keys: Iterable[str]) -> None:
        keys = list(keys)
        for start in range(0, len(keys), 1000):
            batch = keys[start : start + 1000]
            if left := self._patiently(batch[0], lambda batch=batch: self._delete_at_once(batch)):
                raise StepError(
                    f"s3://{self.bucket}/{left[0].get('Key')} was not removed ({left[0].get('Code')}). "
                    "Give these credentials the right to delete there."
                )

    def _delete_at_once(self, keys: Sequence[str]) -> Sequence[dict]:
        """Delete up to 1000 objects, one by one where the store refuses a batch; what it did not remove, and why."""
        where = {"Bucket": self.bucket}
        try:
            batch = {"Objects": [{"Key": self.prefix + key} for key in keys], "Quiet": True}
            return self.client.delete_objects(**where, Delete=batch).get("Errors", [])
        except ClientError as error:
            if may_pass(error):
                raise
        for key in keys:
            self._patiently(key, lambda key=key: self.client.delete_object(**where, Key=self.prefix + key))
        return []

    def _patiently(self, key: str, call: Callable[[], Result]) -> Result:
        """The call's result; while it fails with what may pass, it is tried again.

        Raises:
            StepError: it does not pass, or has not for `patience` seconds.
        """
        deadline, pause, altered = time.monotonic() + self.patience, 0.5, 0
        while True:
            try:
                return call()
            except FAULTS as fault:
                error = fault.__context__ if isinstance(fault, S3UploadFailedError) and fault.__context__ else fault
                altered += isinstance(error, ALTERED)
                if altered == ATTEMPTS:
                    raise self._altered(key) from error
                if not may_pass(error) or time.monotonic() + pause > deadline:
                    raise self._said(error, key) from error
                left = deadline - time.monotonic()
                if pause > 2 or self.patience - left > SAID_AFTER_SECONDS:
                    at = without_logins(os.environ.get("S3_ENDPOINT_URL") or "AWS")
                    logging.warning("%s at %s: %s; trying again for %.0f s", self.uri, at, named(error), left)
            time.sleep(pause * random.uniform(0.5, 1))  # noqa: S311 (spreads requests, keeps no secret)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    def _checked(self, key: str, read: Callable[[], tuple[Result, dict]]) -> Result:
        """The content that `read` gives beside the server's answer, once it is what the answer's ETag says.

        Where that is no checksum that can be computed here (parts of another size, a server's own key), once the same
        came twice.
        """
        before = None
        for _ in range(ATTEMPTS):
            content, answer = read()
            if etag.agrees(_etag(answer), content):
                return content
            now = etag.md5(content)
            if now == before and (_own_key(answer) or not etag.is_md5(_etag(answer))):
                return content
            before = now
        raise self._altered(key)

    def _said(self, error: Exception, key: str) -> StepError:
        return StepError(f"{self.uri}/{key}".rstrip("/") + f": {what_to_do(error, self.bucket, self.patience)}")

    def _altered(self, key: str) -> StepError:
        return StepError(
            f"{self.uri}/{key} is not what its checksum (ETag) says, {ATTEMPTS} times: its bytes were altered on the "
            "way or in the store. Run again; if it is the same then, store the object anew."
        )


def _etag(answer: dict) -> str:
    return answer.get("ETag", "").strip('"')


def _own_key(answer: dict) -> bool:
    """Whether the server encrypts with a key of its own: the ETag is then no checksum, though it looks like one."""
    return "aws:kms" in answer.get("ServerSideEncryption", "")


def connect():
    """Return a client for S3_ENDPOINT_URL (or AWS's own) with the usual AWS_* variables.

    Stores other than AWS may not know the checksums that boto3 sends since 1.36: they get them only where the user's
    AWS_REQUEST_CHECKSUM_CALCULATION says so. Every transfer is checked against its ETag in any case.

    Raises:
        StepError: AWS_PROFILE names no profile, or ~/.aws cannot be used.
    """
    guard()
    endpoint = os.environ.get("S3_ENDPOINT_URL") or None
    try:
        session = boto3.Session()
        client = session.client(
            "s3",
            endpoint_url=endpoint,
            region_name=os.environ.get("AWS_DEFAULT_REGION")
            or os.environ.get("AWS_REGION")
            or session.region_name
            or "us-east-1",
            config=Config(
                retries={"total_max_attempts": ATTEMPTS, "mode": "standard"},  # what is left is for Storage's patience
                connect_timeout=CONNECT_SECONDS,
                read_timeout=ANSWER_SECONDS,
                max_pool_connections=2 * PARALLEL_TRANSFERS,
                request_checksum_calculation=_checksums("AWS_REQUEST_CHECKSUM_CALCULATION", endpoint),
                response_checksum_validation=_checksums("AWS_RESPONSE_CHECKSUM_VALIDATION", endpoint),
                proxies={} if endpoint and is_here(endpoint) else None,
            ),
        )
    except ProfileNotFound as error:
        raise StepError(unknown_profile(error)) from error
    except (BotoCoreError, ValueError) as error:
        raise StepError(f"no client for S3: {error}. Correct S3_ENDPOINT_URL, AWS_* or ~/.aws.") from error
    client.meta.events.register("needs-retry.s3", _say_what_is_waited_for)
    client.meta.events.register("before-sign.s3.DeleteObjects", _with_md5)
    return client


def _say_what_is_waited_for(caught_exception: Exception | None, endpoint, **_) -> None:
    if isinstance(caught_exception, ConnectTimeoutError | ReadTimeoutError):
        logging.warning("S3 at %s: %s", without_logins(endpoint.host), named(caught_exception))


def _checksums(variable: str, endpoint: str | None) -> str | None:
    """What boto3 is told of its checksums: nothing where the user's variable, or AWS itself, decides."""
    return "when_required" if endpoint and not os.environ.get(variable) else None


def _with_md5(request, **_) -> None:
    """Send a batch delete with Content-MD5 alone, which every store takes and older ones ask for."""
    for name in [name for name in request.headers if name.lower().startswith(("x-amz-checksum-", "x-amz-sdk-check"))]:
        del request.headers[name]
    body = request.body if isinstance(request.body, bytes) else str(request.body).encode()
    request.headers["Content-MD5"] = base64.b64encode(bytes.fromhex(etag.md5(body))).decode()


def work_bucket() -> str:
    """The bucket of checkpoints and uploads (S3_BUCKET)."""
    return os.environ.get("S3_BUCKET", "dwi-stroke")


def scratch() -> Path:
    """Return a folder for temporary files, in SCRATCH_DIR, else in the system's, where other logins write too.

    Raises:
        StepError: another login made the folder of that name.
    """
    given = os.environ.get("SCRATCH_DIR")
    folder = Path(given or tempfile.gettempdir()) / "dwi-stroke"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not given:
        if folder.lstat().st_uid != os.getuid():
            raise StepError(f"{folder} belongs to another login. Set SCRATCH_DIR to a folder of your own.")
        folder.chmod(0o700)
    return folder


def local_path(folder: Path, key: str) -> Path:
    """Where a key lands below `folder`.

    Raises:
        StepError: the key would land outside of it.
    """
    path = folder / key
    if not path.resolve().is_relative_to(folder.resolve()):
        raise StepError(f"the key '{key}' points outside of its folder. Rename the object.")
    return path


def digest_of(objects: Iterable[Object]) -> str:
    """SHA-256 over every key, size and ETag."""
    h = hashlib.sha256()
    for o in sorted(objects, key=lambda o: o.key):
        h.update(f"{o.key}\0{o.size}\0{o.etag}\n".encode("utf-8", "surrogateescape"))
    return h.hexdigest()


def file_sha256(path: Path) -> str:
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def _sha256(content: Path | bytes) -> str:
    return hashlib.sha256(content).hexdigest() if isinstance(content, bytes) else file_sha256(content)


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]
