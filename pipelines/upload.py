"""A local folder of scans becomes a prefix in object storage that mirrors it."""

import hashlib
import json
import logging
from collections.abc import Callable
from pathlib import Path

from components.core.step import StepError
from components.core.storage import Listing, Storage, work_bucket
from components.core.words import shown
from components.ingest.discover import unfit
from pipelines.files import write_json

SKIPPED = ("Thumbs.db", "__MACOSX")


def upload(folder: Path, state: Path) -> str:
    """Make `s3://<S3_BUCKET>/data/<folder's name>-<digest of its path>` equal to `folder`; its address.

    Only what changed since the last call is sent; what was removed here is removed there.

    Raises:
        StepError: there is no such folder, or it holds no files.
    """
    folder, files = listed(folder)
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
    etags = storage.upload(folder, stale)
    storage.delete(gone)
    if stale or gone:

        def unlike(now: Listing) -> list[str]:
            there = {o.key: o.etag for o in now}
            return sorted({*there.keys() ^ files.keys(), *(k for k in etags if etags[k] != there.get(k))})

        now = storage.list_until(lambda now: not unlike(now))
        there = {o.key: o for o in now}
        if lost := sorted(files.keys() - there.keys()):
            raise StepError(f"object storage did not keep the name {lost[0]!r}. Rename the file.")
        if wrong := unlike(now):
            raise StepError(
                f"{storage.uri}/{wrong[0]} is listed otherwise than it was left: the listing lags behind, or somebody "
                "else writes there. Run again in a minute."
            )
        memory.parent.mkdir(parents=True, exist_ok=True)
        write_json(memory, {key: [*stamp, there[key].etag] for key, stamp in files.items()})
    logging.info(
        "%s: %d files sent, %d removed, %d unchanged", storage.uri, len(stale), len(gone), len(files) - len(stale)
    )
    return storage.uri


def listed(folder: Path) -> tuple[Path, dict[str, tuple[int, int]]]:
    """The folder, resolved, and its files as `files_of` gives them.

    Raises:
        StepError: there is no such folder, or it holds no files.
    """
    folder = folder.expanduser().resolve()
    if not folder.is_dir():
        raise StepError(f"DATA={folder} is not a folder. Give a folder of scans, or s3://bucket/prefix.")
    files = files_of(folder)
    if not files:
        raise StepError(f"DATA={folder} holds no files. Give a folder of scans (see README, 'Your own data').")
    return folder, files


def files_of(folder: Path, called: Callable[[str], str] = shown) -> dict[str, tuple[int, int]]:
    """Key to (size, modification time) of the files of a resolved folder, hidden ones aside.

    Left out with a line: links to folders, out of the folder and to nothing; names that no object can have. In
    such a line a name stands as `called` writes it.
    """
    files = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if any(part.startswith(".") or part in SKIPPED for part in name.parts):
            continue
        if path.is_symlink() and (what := _no_good_link(path, folder)):
            advice = "Copy it in, or give its target as DATA."
            logging.warning("left out: %s is %s. %s", called(name.as_posix()), what, advice)
            continue
        if not path.is_file():
            continue
        if why := unfit(name.as_posix()):
            logging.warning("left out: %s: %s", called(name.as_posix()), why)
            continue
        stat = path.stat()
        files[path.relative_to(folder).as_posix()] = (stat.st_size, stat.st_mtime_ns)
    return files


def _no_good_link(path: Path, folder: Path) -> str | None:
    if path.is_dir():
        return "a link to a folder"
    if not path.exists():
        return "a link to nothing"
    return None if path.resolve().is_relative_to(folder) else "a link out of the folder"
