"""Compare content with an S3 ETag: the MD5 of the bytes or, of an upload in parts, the MD5 of the parts' MD5s."""

import hashlib
import io
import re
from pathlib import Path
from typing import Any

MIB = 1 << 20
PART = 8 * MIB
"""Size of a part, bytes. boto3 uploads a larger object in parts of this size."""
USUAL_PARTS = tuple(size * MIB for size in (8, 5, 10, 15, 16, 20, 25, 32, 50, 64, 100, 128, 256, 512))
PLAIN, IN_PARTS = re.compile(r"[0-9a-f]{32}", re.IGNORECASE), re.compile(r"([0-9a-f]{32})-(\d+)", re.IGNORECASE)


def is_md5(etag: str) -> bool:
    """Return whether an ETag looks like the MD5 of the bytes; if the server encrypts (KMS), it is not that MD5."""
    return bool(PLAIN.fullmatch(etag))


def is_checksum(etag: str) -> bool:
    """Return whether an ETag has the form of an MD5, or of one of parts."""
    return bool(PLAIN.fullmatch(etag) or IN_PARTS.fullmatch(etag))


def agrees(etag: str, content: Path | bytes) -> bool:
    """Return whether the content matches the ETag; False also if it was uploaded in parts of an unusual size."""
    if is_md5(etag):
        return md5(content) == etag.lower()
    if not (match := IN_PARTS.fullmatch(etag)):
        return False
    size, count = len(content) if isinstance(content, bytes) else content.stat().st_size, int(match[2])
    fitting = (part for part in USUAL_PARTS if -(-size // part) == count)
    return any(_of_parts(content, part) == match[1].lower() for part in fitting)


def md5(content: Path | bytes) -> str:
    """Return the MD5 of a file or of bytes."""
    with _opened(content) as f:
        return hashlib.file_digest(f, _md5).hexdigest()


def _of_parts(content: Path | bytes, size: int) -> str:
    whole = _md5()
    with _opened(content) as f:
        while True:
            part, left = _md5(), size
            while left and (chunk := f.read(min(MIB, left))):
                part.update(chunk)
                left -= len(chunk)
            if left == size:
                return whole.hexdigest()
            whole.update(part.digest())


def _opened(content: Path | bytes) -> io.BytesIO | io.BufferedReader:
    return io.BytesIO(content) if isinstance(content, bytes) else content.open("rb")


def _md5() -> Any:
    return hashlib.md5(usedforsecurity=False)
