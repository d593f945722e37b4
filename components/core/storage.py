"""S3: list, download, upload. The only place that knows where objects live and how to reach them."""

import hashlib
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from components.core.step import StepError, progress

PARALLEL_TRANSFERS = 8
ATTEMPTS = 3


@dataclass(frozen=True)
class Object:
    """One object: key relative to the prefix it was listed under, size in bytes, ETag."""

    key: str
    size: int
    etag: str


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

    def list(self) -> list[Object]:
        """All objects under the prefix, sorted by key."""
        found = []
        try:
            for page in self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=self.prefix):
                for entry in page.get("Contents", []):
                    key = entry["Key"][len(self.prefix) :]
                    if key and not key.endswith("/"):
                        found.append(Object(key, entry["Size"], entry["ETag"].strip('"')))
        except (ClientError, BotoCoreError) as error:
            raise self._mendable(error, "") from error
        return sorted(found, key=lambda o: o.key)

    def download(self, objects: Iterable[Object], folder: Path) -> None:
        """Fetch objects into `folder` in parallel; what an interrupted call fetched is not fetched again."""
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
        for _ in range(ATTEMPTS):
            have = part.stat().st_size if part.exists() else 0
            if have < obj.size:
                self._append(obj, part, have)
            if part.exists() and part.stat().st_size == obj.size:
                break
            if part.exists() and part.stat().st_size > obj.size:
                part.unlink()
        else:
            if obj.size:
                raise StepError(
                    f"{self.uri}/{obj.key} came short {ATTEMPTS} times: it may be changing while it is read. "
                    "Run again once the bucket is still."
                )
            part.touch()
        part.rename(path)

    def _append(self, obj: Object, part: Path, have: int) -> None:
        try:
            body = self.client.get_object(
                Bucket=self.bucket,
                Key=self.prefix + obj.key,
                **({"Range": f"bytes={have}-"} if have else {}),
            )["Body"]
            with part.open("ab") as out:
                for chunk in body.iter_chunks(1 << 20):
                    out.write(chunk)
        except (ClientError, BotoCoreError) as error:
            if isinstance(error, ClientError) or not part.exists():
                raise self._mendable(error, obj.key) from error

    def upload(self, folder: Path, keys: Iterable[str]) -> None:
        """Send files of `folder` to the same keys, in parallel; objects appear whole or not at all."""
        keys = list(keys)
        with ThreadPoolExecutor(PARALLEL_TRANSFERS) as pool:
            sent = pool.map(lambda key: self.put(key, folder / key), keys)
            for _ in progress(sent, total=len(keys), what="uploaded"):
                pass

    def put(self, key: str, source: Path | bytes) -> None:
        try:
            if isinstance(source, bytes):
                self.client.put_object(Bucket=self.bucket, Key=self.prefix + key, Body=source)
            else:
                self.client.upload_file(str(source), self.bucket, self.prefix + key)
        except (ClientError, BotoCoreError, boto3.exceptions.S3UploadFailedError) as error:
            raise self._mendable(error, key) from error

    def get(self, key: str) -> bytes:
        try:
            return self.client.get_object(Bucket=self.bucket, Key=self.prefix + key)["Body"].read()
        except (ClientError, BotoCoreError) as error:
            raise self._mendable(error, key) from error

    def sha256(self, key: str) -> str:
        """Of an object's bytes, read as a stream."""
        h = hashlib.sha256()
        try:
            for chunk in self.client.get_object(Bucket=self.bucket, Key=self.prefix + key)["Body"].iter_chunks(1 << 20):
                h.update(chunk)
        except (ClientError, BotoCoreError) as error:
            raise self._mendable(error, key) from error
        return h.hexdigest()

    def delete(self, keys: Iterable[str]) -> None:
        keys = list(keys)
        for start in range(0, len(keys), 1000):
            batch = [{"Key": self.prefix + key} for key in keys[start : start + 1000]]
            try:
                self.client.delete_objects(Bucket=self.bucket, Delete={"Objects": batch, "Quiet": True})
            except (ClientError, BotoCoreError) as error:
                raise self._mendable(error, batch[0]["Key"]) from error

    def _mendable(self, error: Exception, key: str) -> StepError:
        where = f"{self.uri}/{key}".rstrip("/")
        code = error.response["Error"].get("Code", "") if isinstance(error, ClientError) else ""
        what_to_do = {
            "NoSuchBucket": f"the bucket '{self.bucket}' does not exist. Create it, or correct the name.",
            "NoSuchKey": "there is no such object. Was it removed while the run was going on?",
            "AccessDenied": "access was denied. Give these credentials the right to list and read it.",
            "403": "access was denied. Give these credentials the right to list and read it.",
            "InvalidAccessKeyId": "the access key is not known there. Check AWS_ACCESS_KEY_ID.",
            "SignatureDoesNotMatch": "the secret is wrong. Check AWS_SECRET_ACCESS_KEY.",
        }.get(code, f"{code or type(error).__name__}. Check S3_ENDPOINT_URL and the AWS_* variables, then run again.")
        return StepError(f"{where}: {what_to_do}")


def connect():
    """A client for S3_ENDPOINT_URL (or AWS's own) with the usual AWS_* variables."""
    return boto3.Session().client(
        "s3",
        endpoint_url=os.environ.get("S3_ENDPOINT_URL") or None,
        region_name=os.environ.get("AWS_DEFAULT_REGION") or os.environ.get("AWS_REGION") or "us-east-1",
        config=Config(
            retries={"max_attempts": 8, "mode": "standard"},
            connect_timeout=10,
            read_timeout=60,
            max_pool_connections=2 * PARALLEL_TRANSFERS,
        ),
    )


def work_bucket() -> str:
    """The bucket of checkpoints and uploads (S3_BUCKET)."""
    return os.environ.get("S3_BUCKET", "dwi-stroke")


def scratch() -> Path:
    """A folder for what may be thrown away (SCRATCH_DIR, else the system's)."""
    import tempfile

    folder = Path(os.environ.get("SCRATCH_DIR") or tempfile.gettempdir()) / "dwi-stroke"
    folder.mkdir(parents=True, exist_ok=True)
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


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]
