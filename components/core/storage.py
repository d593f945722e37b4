"""List, download, upload and delete objects of an S3 bucket.

A request that fails for a reason that may pass is tried again for `PATIENCE_SECONDS`. Bytes that do not match their
ETag are never returned.
"""

import base64
import hashlib
import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from boto3.s3.transfer import TransferConfig
from botocore.exceptions import ClientError

from components.core import etag
from components.core.errors import StepError
from components.core.local_files import file_sha256, local_path
from components.core.retry import retry
from components.core.s3_client import ATTEMPTS, PARALLEL_TRANSFERS, connect, server_address
from components.core.step import progress
from components.core.storage_faults import (
    ALTERED,
    BROKEN_ON_THE_WAY,
    FAULTS,
    NothingReceived,
    advice,
    cause,
    error_code,
    may_pass,
)

PATIENCE_SECONDS, SETTLED_SECONDS = 120, 20
SILENT_SECONDS = 2
"""A request that is tried again for a longer time is logged."""
Result = TypeVar("Result")
Content = TypeVar("Content", Path, bytes)


@dataclass(frozen=True)
class Object:
    """One object: key relative to the prefix it was listed under, size in bytes, ETag."""

    key: str
    size: int
    etag: str


Listing = list[Object]


def normal_address(uri: str) -> str:
    """Return an address without the slashes that change nothing: s3://bucket/prefix/ is s3://bucket/prefix."""
    scheme, _, rest = uri.partition("://")
    bucket, _, prefix = rest.partition("/")
    return f"{scheme}://{bucket}/{prefix.strip('/')}".rstrip("/")


class Storage:
    """An S3 bucket and a prefix in it, `s3://bucket/prefix`."""

    def __init__(self, uri: str, client: Any = None):
        scheme, _, rest = uri.partition("://")
        self.bucket, _, prefix = rest.partition("/")
        if scheme != "s3" or not self.bucket:
            raise StepError(f"'{uri}' is not an S3 address. Write it as s3://bucket/prefix.")
        self.prefix = prefix.strip("/") + "/" if prefix.strip("/") else ""
        self.uri = normal_address(uri)
        self.client = client or connect()
        self.patience = PATIENCE_SECONDS

    def list(self) -> Listing:
        """Return all objects under the prefix, sorted by key."""
        return sorted(self._retried("", self._listed), key=lambda o: o.key)

    def find(self, key: str) -> Object | None:
        """Return the object of this key; None if it does not exist."""
        return next((o for o in self._retried(key, lambda: self._listed(key)) if o.key == key), None)

    def _listed(self, start: str = "") -> Listing:
        found, prefix = [], self.prefix + start
        for page in self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix):
            for entry in page.get("Contents", []):
                key = entry["Key"][len(self.prefix) :]
                if key and not key.endswith("/"):
                    found.append(Object(key, entry["Size"], entry["ETag"].strip('"')))
        return found

    def list_until(self, settled: Callable[[Listing], bool]) -> Listing:
        """Return the listing once it is `settled`, or after `SETTLED_SECONDS`: a server may lag behind."""
        deadline = time.monotonic() + SETTLED_SECONDS
        while True:
            objects = self.list()
            if settled(objects) or time.monotonic() > deadline:
                return objects
            time.sleep(1)

    def download(self, objects: Iterable[Object], folder: Path) -> None:
        """Download objects into `folder` in parallel; skip what an interrupted call downloaded.

        Raises:
            StepError: an object is unavailable, or does not match its ETag.
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
        answer: dict = {}

        def read() -> tuple[Path, dict]:
            if part.exists() and part.stat().st_size >= obj.size:  # complete, but it did not match its ETag
                part.unlink()
            part.touch()
            while (have := part.stat().st_size) < obj.size:
                answer.update(self._retried(obj.key, partial(self._append, obj, part, have)))
            return part, {**answer, "ETag": obj.etag}

        if obj.size:
            self._checked(obj.key, read)
        else:
            part.touch()
        part.rename(path)

    def _append(self, obj: Object, part: Path, have: int) -> dict:
        """Add the missing bytes to the file, as many as arrive; return the head of the server's answer."""
        given = {"Range": f"bytes={have}-"} if have else {}
        answer = self.client.get_object(Bucket=self.bucket, Key=self.prefix + obj.key, **given)
        if _etag(answer) not in ("", obj.etag):
            raise StepError(
                f"{self.uri}/{obj.key} changed while it was read. Run again when nobody writes to the bucket."
            )
        try:
            with part.open("ab" if "ContentRange" in answer else "wb") as out:
                for chunk in answer["Body"].iter_chunks(1 << 20):
                    out.write(chunk)
        except BROKEN_ON_THE_WAY:
            if part.stat().st_size <= have:
                raise
        if part.stat().st_size <= have:
            raise NothingReceived()
        return answer

    def upload(self, folder: Path, keys: Iterable[str]) -> dict[str, str]:
        """Upload files of `folder` to the same keys in parallel, and return their ETags. No object is incomplete."""
        keys = list(keys)
        with ThreadPoolExecutor(PARALLEL_TRANSFERS) as pool:
            sent = pool.map(lambda key: (key, self.put(key, folder / key)), keys)
            return dict(progress(sent, total=len(keys), what="uploaded"))

    def put(self, key: str, source: Path | bytes) -> str:
        """Upload a file or bytes, check that they arrived unaltered, and return the ETag."""
        if isinstance(source, Path) and source.stat().st_size < etag.PART:
            source = source.read_bytes()

        for _ in range(ATTEMPTS):
            answer = self._retried(key, lambda: self._send(key, source))
            tag = _etag(answer)
            if _server_encrypts(answer) or not etag.is_checksum(tag) or etag.agrees(tag, source):
                return tag  # if it is not a checksum, the server has checked the MD5 that came with the request
            if not etag.is_md5(tag) and self.sha256(key) == _sha256(source):  # the server uses parts of its own size
                return tag
        raise self._altered_error(key)

    def _send(self, key: str, source: Path | bytes) -> dict:
        where = {"Bucket": self.bucket, "Key": self.prefix + key}
        if isinstance(source, bytes):
            digest = base64.b64encode(bytes.fromhex(etag.md5(source))).decode()
            return self.client.put_object(**where, Body=source, ContentMD5=digest)
        in_parts = TransferConfig(multipart_threshold=etag.PART, multipart_chunksize=etag.PART)
        self.client.upload_file(str(source), *where.values(), Config=in_parts)
        return self.client.head_object(**where)

    def get(self, key: str) -> bytes:
        """Return the content of an object."""

        def read() -> tuple[bytes, dict]:
            answer = self.client.get_object(Bucket=self.bucket, Key=self.prefix + key)
            return answer["Body"].read(), answer

        return self._checked(key, lambda: self._retried(key, read))

    def sha256(self, key: str) -> str:
        """Return the SHA-256 of an object's bytes."""
        head = self._retried(key, lambda: self.client.head_object(Bucket=self.bucket, Key=self.prefix + key))
        with tempfile.TemporaryDirectory(dir=scratch()) as folder:
            self._download_one(Object(key, head["ContentLength"], _etag(head)), Path(folder))
            return file_sha256(local_path(Path(folder), key))

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects."""
        keys = list(keys)
        for start in range(0, len(keys), 1000):
            batch = keys[start : start + 1000]
            if left := self._retried(batch[0], partial(self._delete_at_once, batch)):
                raise StepError(
                    f"s3://{self.bucket}/{left[0].get('Key')} was not removed ({left[0].get('Code')}). "
                    "Give these credentials the right to delete there."
                )

    def _delete_at_once(self, keys: Sequence[str]) -> Sequence[dict]:
        """Delete up to 1000 objects, one by one if the server refuses a batch; return those that remain, and why."""
        where = {"Bucket": self.bucket}
        try:
            batch = {"Objects": [{"Key": self.prefix + key} for key in keys], "Quiet": True}
            return self.client.delete_objects(**where, Delete=batch).get("Errors", [])
        except ClientError as error:
            if may_pass(error):
                raise
        for key in keys:
            self._retried(key, partial(self.client.delete_object, **where, Key=self.prefix + key))
        return []

    def _retried(self, key: str, call: Callable[[], Result]) -> Result:
        """Return the result of a call; try again while it fails for a reason that may pass.

        Raises:
            StepError: the reason does not pass, or has not passed after `patience` seconds.
        """
        altered = 0

        def passes(error: Exception) -> bool:
            nonlocal altered
            altered += isinstance(cause(error), ALTERED)
            return may_pass(error) and altered < ATTEMPTS

        def report(error: Exception, waited: float) -> None:
            if waited > SILENT_SECONDS:
                why, left = error_code(error), self.patience - waited
                logging.warning("%s at %s: %s; trying again for %.0f s", self.uri, server_address(), why, left)

        try:
            return retry(call, may_pass=passes, seconds=self.patience, before_retry=report)
        except FAULTS as error:
            if altered == ATTEMPTS:
                raise self._altered_error(key) from error
            what = advice(error, self.bucket, server_address(), self.patience)
            raise StepError(f"{self.uri}/{key}".rstrip("/") + f": {what}") from error

    def _checked(self, key: str, read: Callable[[], tuple[Content, dict]]) -> Content:
        """Return the content that `read` gives beside the server's answer, once it matches the ETag of that answer.

        If the ETag cannot be computed here (parts of an unusual size, a key of the server), return the content once
        two downloads are equal.
        """
        before = None
        for _ in range(ATTEMPTS):
            content, answer = read()
            if etag.agrees(_etag(answer), content):
                return content
            now = etag.md5(content)
            if now == before and (_server_encrypts(answer) or not etag.is_md5(_etag(answer))):
                return content
            before = now
        raise self._altered_error(key)

    def _altered_error(self, key: str) -> StepError:
        return StepError(
            f"{self.uri}/{key} did not match its checksum (ETag) {ATTEMPTS} times: its bytes were altered on the way "
            "or in the store. Run again; if the error stays, upload the object again."
        )


def _etag(answer: dict) -> str:
    return answer.get("ETag", "").strip('"')


def _server_encrypts(answer: dict) -> bool:
    """Return whether the server encrypts with its own key: the ETag looks like a checksum then, but is not one."""
    return "aws:kms" in answer.get("ServerSideEncryption", "")


def work_bucket() -> str:
    """Return the name of the bucket for checkpoints and uploads (S3_BUCKET)."""
    return os.environ.get("S3_BUCKET", "dwi-stroke")


def scratch() -> Path:
    """Return a folder for temporary files, in SCRATCH_DIR or else in the system's folder, where other users write too.

    Raises:
        StepError: the folder belongs to another user.
    """
    given = os.environ.get("SCRATCH_DIR")
    folder = Path(given or tempfile.gettempdir()) / "dwi-stroke"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not given:
        if folder.lstat().st_uid != os.getuid():
            raise StepError(f"{folder} belongs to another user. Set SCRATCH_DIR to a folder of your own.")
        folder.chmod(0o700)
    return folder


def digest_of(objects: Iterable[Object]) -> str:
    """Return the SHA-256 of the keys, sizes and ETags of all objects."""
    h = hashlib.sha256()
    for o in sorted(objects, key=lambda o: o.key):
        h.update(f"{o.key}\0{o.size}\0{o.etag}\n".encode("utf-8", "surrogateescape"))
    return h.hexdigest()


def _sha256(content: Path | bytes) -> str:
    return hashlib.sha256(content).hexdigest() if isinstance(content, bytes) else file_sha256(content)


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]
