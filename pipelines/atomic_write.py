"""Write small files so that they are complete or do not exist."""

import json
import os
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from components.core.errors import StepError


def identity(folder: Path) -> str:
    """Return an id that tells a folder from its copies and survives a move; "" if the folder does not exist."""
    try:
        found = folder.stat()
    except OSError:
        return ""
    return f"{found.st_dev}:{found.st_ino}"


def write_json(path: Path, content: Any, mode: int = 0o666) -> None:
    """Replace `path` in one step; `mode` as for `write_bytes`."""
    write_bytes(path, json.dumps(content, indent=1).encode(), mode)


def write_bytes(path: Path, content: bytes, mode: int = 0o666) -> None:
    """Replace `path` in one step: after a power cut it holds the old content or the new one, whole."""
    write_parts(path, [content], mode)


def write_parts(path: Path, parts: Iterable[bytes], mode: int = 0o666) -> None:
    """Write the parts, one after another, as `write_bytes` writes one."""
    part = path.with_name(f".{secrets.token_hex(8)}.part")
    try:
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def read_json(path: Path, otherwise: Any = None) -> Any:
    """Return the content of a file that `write_json` wrote; `otherwise` if it does not exist.

    Raises:
        StepError: the file is broken.
    """
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        return otherwise
    except (ValueError, RecursionError):
        raise StepError(
            f"{path} is broken: it is empty or no JSON, as a full disk can leave it. Delete it and run again."
        ) from None
