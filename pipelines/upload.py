"""Mirror a local folder of scans to a prefix in object storage."""

import hashlib
import logging
import os
import platform
import secrets
import sys
from pathlib import Path

from components.core.errors import StepError
from components.core.storage import Listing, Object, Storage, work_bucket
from components.core.text import shown
from pipelines.atomic_write import identity, read_json, write_json
from pipelines.dicom.dicom_files import is_archive, is_dicom
from pipelines.folder_files import files_of

ALLOW_DELETE = "UPLOAD_DELETE"
ASK_ABOVE = 10, 0.1
"""An upload asks before it removes more objects than this, and a larger share of what is there."""


def upload(folder: Path, state: Path) -> str:
    """Make `s3://<S3_BUCKET>/data/<folder's name>-<digest>` equal to `folder`; return its address.

    The digest is of the folder's path and of this checkout, so that two checkouts share no prefix. Only what changed
    since the last call is sent. What was removed here is removed there, if this checkout put it there.

    Raises:
        StepError: the folder does not exist, is empty or has files that cannot be read, somebody else wrote to the
            prefix, or much would be removed and nobody agreed.
    """
    folder, files = listed(folder)
    name = f"{folder.name}-{hashlib.sha256(f'{_checkout_id(state)}/{folder}'.encode()).hexdigest()[:8]}"
    storage = Storage(f"s3://{work_bucket()}/data/{name}")
    memory = state / "uploads" / f"{name}.json"
    sent = read_json(memory, {})
    there = {o.key: o for o in storage.list()}
    gone = sorted(there.keys() - files.keys())
    _require_own(storage, gone, sent)
    _require_consent(storage, gone, there)
    stale = [
        key
        for key, stamp in files.items()
        if key not in there or there[key].size != stamp[0] or sent.get(key) != [*stamp, there[key].etag]
    ]
    memory.parent.mkdir(parents=True, exist_ok=True)
    write_json(memory, sent | {key: None for key in stale})
    etags = storage.upload(folder, stale)
    storage.delete(gone)
    if stale or gone:

        def different(now: Listing) -> list[str]:
            there = {o.key: o.etag for o in now}
            return sorted({*there.keys() ^ files.keys(), *(k for k in etags if etags[k] != there.get(k))})

        now = storage.list_until(lambda now: not different(now))
        there = {o.key: o for o in now}
        if lost := sorted(files.keys() - there.keys()):
            raise StepError(f"object storage did not keep the name {lost[0]!r}. Rename the file.")
        if wrong := different(now):
            raise StepError(
                f"{storage.uri}/{wrong[0]} differs from what was uploaded: the listing is late, or somebody "
                "else writes there. Run again in a minute."
            )
    write_json(memory, {key: [*stamp, there[key].etag] for key, stamp in files.items()})
    logging.info(
        "%s: %d files sent, %d removed, %d unchanged", storage.uri, len(stale), len(gone), len(files) - len(stale)
    )
    return storage.uri


def listed(folder: Path) -> tuple[Path, dict[str, tuple[int, int]]]:
    """Return the folder, resolved, and its files as `files_of` gives them, without DICOM files and archives.

    Raises:
        StepError: the folder does not exist, is empty, or has a file that cannot be read.
    """
    folder = folder.expanduser().resolve()
    if not folder.is_dir():
        raise StepError(f"DATA={folder} is not a folder. Give a folder of scans, or s3://bucket/prefix.")
    found = files_of(folder)
    archives = {key for key in found if is_archive(folder / key)}
    files = {key: stamp for key, stamp in found.items() if key not in archives and not is_dicom(folder / key)}
    if dicom := len(found) - len(files) - len(archives):
        logging.warning("not uploaded: %d DICOM files, whose headers name patients", dicom)
    if archives:
        logging.warning("not uploaded: %d zips or other archives, which may hold DICOM. Unpack them", len(archives))
    if not files:
        raise StepError(f"DATA={folder} holds no files. Give a folder of scans (see docs/data.md, 'Layouts').")
    return folder, files


def _checkout_id(state: Path) -> str:
    """Return this checkout's own random name; a copy, here or on another machine, makes one of its own."""
    state.mkdir(parents=True, exist_ok=True)
    path, place = state / "checkout.json", f"{platform.node()}:{identity(state)}"
    checkout = read_json(path, {})
    if checkout.get("place") != place:
        checkout = {"id": secrets.token_hex(8), "place": place}
        write_json(path, checkout)
    return checkout["id"]


def _require_own(storage: Storage, gone: list[str], sent: dict) -> None:
    """Raise StepError if this checkout did not put an object there: those of others are never removed."""
    if foreign := [key for key in gone if key not in sent]:
        raise StepError(
            f"{storage.uri}/{shown(foreign[0])} was not put there by this checkout ({len(foreign)} such objects). "
            "Nothing was sent or removed. Remove them yourself if nobody needs them, then run again."
        )


def _require_consent(storage: Storage, gone: list[str], there: dict[str, Object]) -> None:
    """Name what will be removed; ask if that is much.

    Raises:
        StepError: the answer is no, or nobody can be asked.
    """
    if not gone:
        return
    few, share = ASK_ABOVE
    names = ", ".join(shown(key) for key in gone[:5]) + (f" and {len(gone) - 5} more" if len(gone) > 5 else "")
    logging.info("%s: to be removed, as the folder holds them no longer: %s", storage.uri, names)
    if len(gone) <= few or len(gone) <= share * len(there) or os.environ.get(ALLOW_DELETE) == "1":
        return
    what = f"{len(gone)} of {len(there)} objects at {storage.uri} would be removed"
    if not sys.stdin.isatty():
        raise StepError(f"{what}. Is the folder complete, its disk mounted? If so, run again with {ALLOW_DELETE}=1.")
    if input(f"{what}: the folder holds them no longer. Remove them? [y/N] ").strip().casefold() not in ("y", "yes"):
        raise StepError(f"{what}, and the answer was no. Nothing was sent or removed.")
