"""A local folder of scans becomes a prefix in object storage that mirrors it."""

import hashlib
import json
import logging
from collections.abc import Callable
from pathlib import Path

from components.core.step import StepError
from components.core.storage import Storage, work_bucket
from pipelines.files import write_json

SKIPPED = ("Thumbs.db", "__MACOSX")


def upload(folder: Path, state: Path) -> str:
    """Make `s3://<S3_BUCKET>/data/<folder's name>-<digest of its path>` equal to `folder`; its address.

    Only what changed since the last call is sent; what was removed here is removed there.

    Raises:
        StepError: there is no such folder, or it holds no files.
    """
    folder = folder.expanduser().resolve()
    if not folder.is_dir():
        raise StepError(f"DATA={folder} is not a folder. Give a folder of scans, or s3://bucket/prefix.")
    files = files_of(folder)
    if not files:
        raise StepError(f"DATA={folder} holds no files. Give a folder of scans (see README, 'Your own data').")
    name = f"{folder.name}-{hashlib.sha256(str(folder).encode()).hexdigest()[:8]}"
    storage = Storage(f"s3://{work_bucket()}/data/{name}")
    memory = state / "uploads" / f"{name}.json"
    sent = json.loads(memory.read_text()) if memory.exists() else {}
    there = {o.key: o for o in storage.list()}
    stale = [
        key
        for key, stamp in files.items()
        if key not in there or there[key].size != stamp[0] or sent.get(key) != [*stamp, there[key].etag]
    ]
    gone = sorted(there.keys() - files.keys())
    storage.upload(folder, stale)
    storage.delete(gone)
    if stale or gone:
        there = {o.key: o for o in storage.list()}
        if lost := sorted(files.keys() - there.keys()):
            raise StepError(f"object storage did not keep the name {lost[0]!r}. Rename the file.")
        memory.parent.mkdir(parents=True, exist_ok=True)
        write_json(memory, {key: [*stamp, there[key].etag] for key, stamp in files.items()})
    logging.info(
        "%s: %d files sent, %d removed, %d unchanged", storage.uri, len(stale), len(gone), len(files) - len(stale)
    )
    return storage.uri


def files_of(folder: Path, shown: Callable[[Path], str] = str) -> dict[str, tuple[int, int]]:
    """Key to (size, modification time) of the files of a resolved folder, hidden ones aside.

    Links to folders and links that leave the folder are left out and named, as `shown` writes a name.
    """
    files = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if any(part.startswith(".") or part in SKIPPED for part in name.parts):
            continue
        if path.is_symlink() and (path.is_dir() or not path.resolve().is_relative_to(folder)):
            what = "a link to a folder" if path.is_dir() else "a link out of the folder"
            logging.warning("left out: %s is %s. Copy it in, or give its target as DATA.", shown(name), what)
            continue
        if not path.is_file():
            continue
        stat = path.stat()
        files[path.relative_to(folder).as_posix()] = (stat.st_size, stat.st_mtime_ns)
    return files
