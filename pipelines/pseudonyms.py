"""PSEUDONYM_KEY: copy a folder of scans under pseudonyms before anything leaves the machine.

All that is uploaded, shown and logged then comes from the copy under `.local/pseudonyms/`. The copy has the scans
without header text, the b-values, the sites and scanners of participants.tsv, and the list of masks that are
predictions of `make predict`. A map beside the copy tells which pseudonym is whose. The map is never sent.
"""

import fcntl
import logging
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from components.core.errors import StepError
from components.core.machine import cpus
from components.core.step import progress
from components.core.storage import file_sha256
from components.ingest.discover import discover
from components.ingest.file_names import FLAT, owner_conflict
from components.ingest.found_files import Found
from components.ingest.label_masks import Predictions, display_name
from components.scans.prediction_mark import DIGEST, FIRST_COLUMNS, TABLE
from components.scans.volumes import BadVolume
from pipelines import strip_header
from pipelines.atomic_write import read_json, write_bytes, write_json
from pipelines.file_lock import lock
from pipelines.folder_files import files_of
from pipelines.kept_tables import write_tables
from pipelines.pseudonym_names import PseudonymNames

VARIABLE, SHORTEST, FEWEST_KINDS = "PSEUDONYM_KEY", 32, 10


def pseudonymized(data: str, key: str | None, state: Path) -> str:
    """Return the DATA for the pipeline: if there is a key and DATA is a folder, its copy under pseudonyms.

    Raises:
        StepError: the key is weak, DATA is in a bucket already, or a scan cannot be read.
    """
    if key is None:
        return data
    _require_strong(key)
    if data.startswith("s3://"):
        raise StepError(
            f"{VARIABLE} renames files before the upload. DATA is in a bucket already, with its names. "
            f"Give the folder that the scans came from as DATA, or unset {VARIABLE} if people may see those names."
        )
    folder = Path(data).expanduser().resolve()
    if not data or not folder.is_dir():
        return data
    names, place = PseudonymNames(key), state / "pseudonyms"
    copy = place / names.of("data set", str(folder))
    try:
        for private in (state, place, copy):
            private.mkdir(mode=0o700, parents=True, exist_ok=True)
            private.chmod(0o700)
        with (place / "lock").open("w") as file:
            lock(file, fcntl.LOCK_EX)
            _copy(folder, copy, copy.with_name(f"{copy.name}.json"), names)
    except OSError as error:
        raise StepError(
            f"DATA could not be copied under other names into {place} ({error.strerror}). The copy needs disk space "
            "for the scans there, and the right to read DATA. Fix this, then run the same command again."
        ) from None
    return str(copy)


def require_key_if_used_before(data: str, key: str | None, state: Path) -> None:
    """Refuse to upload a folder without the key if it was uploaded under pseudonyms before.

    If the folder was never uploaded under pseudonyms, log what is uploaded with the scans.

    Raises:
        StepError: there is a map for this folder, but no key.
    """
    folder = Path(data).expanduser().resolve()
    if key is not None or not data or data.startswith("s3://") or not folder.is_dir():
        return
    for map_path in (state / "pseudonyms").glob("*.json"):
        if read_json(map_path)["folder"] == str(folder):
            raise StepError(
                f"{VARIABLE} is not set, but this folder was uploaded under other names before (map: {map_path}). "
                "Without the key its names and headers would be uploaded. Export the key and run again. If the names "
                "may be uploaded, move that map away first."
            )
    logging.info(
        "no %s: DATA is uploaded unchanged: file names, headers, all files in it (docs/privacy.md)",
        VARIABLE,
    )


def _require_strong(key: str) -> None:
    """Raise StepError for a key that is easy to guess: short, with few different characters, or one part repeated."""
    make_one = f"openssl rand -hex 32 makes a good one; keep it. Or unset {VARIABLE} to keep the names."
    if len(key) < SHORTEST:
        raise StepError(
            f"{VARIABLE} has {len(key)} characters. With such a short key, people can find the names by trying. Use at "
            f"least {SHORTEST} characters. {make_one}"
        )
    if len(set(key)) < FEWEST_KINDS or key in (key + key)[1:-1]:
        raise StepError(
            f"{VARIABLE} is easy to guess: it has few different characters, or repeats one part. {make_one}"
        )


def _copy(folder: Path, copy: Path, map_path: Path, names: PseudonymNames) -> None:
    """Copy the scans of `folder` into `copy` under pseudonyms, and write to `map_path` which one is whose."""
    files = files_of(folder, called=lambda _: f"something in DATA (without {VARIABLE}, make check-data says what)")
    found, scans = _scans(files)
    renamed = {key: (names.bids if found.layout == "BIDS" else names.flat)(key) for key in scans}
    alike = Counter(renamed.values())
    targets = {
        new: old
        for old, new in renamed.items()
        if new and alike[new] == 1 and not names.unclear(new) and not owner_conflict(old)
    }
    left_out = sorted(renamed.keys() - targets.values())
    before = read_json(map_path, {"patients": {}, "made": {}})
    made_by = file_sha256(Path(strip_header.__file__))
    stamps = {new: [*files[old], made_by] for new, old in targets.items()}
    made = {new: stamp for new, stamp in before["made"].items() if stamps.get(new) == stamp and (copy / new).exists()}

    def make(new: str) -> None:
        write_bytes(_ready(copy / new), _stripped(folder / targets[new], new, map_path))
        made[new] = stamps[new]

    def write_map() -> None:
        content = {"folder": str(folder), "patients": before["patients"] | names.patients, "files": targets}
        write_json(map_path, content | {"left_out": left_out, "made": made}, 0o600)

    write_map()
    try:
        with ThreadPoolExecutor(cpus()) as pool:
            to_make = sorted(targets.keys() - made.keys())
            for _ in progress(pool.map(make, to_make), total=len(to_make), what="renamed"):
                pass
    finally:
        write_map()
    kept = {copy / new for new in targets} | write_tables(folder, copy, names.patients)
    kept |= _predictions(Predictions(found.tables, folder), copy, targets, names)
    for path in copy.rglob("*"):
        if path.is_file() and path not in kept:
            path.unlink()
    if left_out:
        logging.warning("left out: %d files whose names look like another's, or name another patient or session "
                        "than their folder, or fit no layout (left_out in %s)", len(left_out), map_path)  # fmt: skip
    logging.info(
        "%s: %d patients get other names; which name is whose: %s (never sent; keep it and the key secret)",
        VARIABLE, len(names.patients), map_path,
    )  # fmt: skip


def _scans(files: dict) -> tuple[Found, list[str]]:
    """Return what was found, and the keys of the files that belong to a scan."""
    try:
        found = discover(files)
    except StepError:
        raise StepError(
            "DATA has no scans in one of the two layouts of docs/data.md, or has both layouts. "
            f"Without {VARIABLE}, make check-data lists the files that it sees; it sends nothing."
        ) from None
    return found, sorted(files.keys() - set(found.ignored))


def _stripped(path: Path, new: str, map_path: Path) -> bytes:
    """Return the content to send: nothing if the file is not a scan, so that ingest refuses it by its new name."""
    try:
        return strip_header.stripped(path)
    except BadVolume as reason:
        logging.warning("%s is sent as an empty file, which ingest refuses: %s", new, reason)
        return b""
    except OSError as error:
        raise StepError(f"{new} cannot be read ({error.strerror}). Its own name: {map_path}.") from None


def _predictions(predictions: Predictions, copy: Path, targets: dict[str, str], names: PseudonymNames) -> set[Path]:
    """Write what the copy keeps of the tables of `make predict`: which copied masks are predictions, and digests."""
    written = set()
    for home, listed in predictions.by_folder.items():
        rows = [
            ("", "", f"masks/{new.rsplit('/', 1)[-1]}", listed[display_name(old)] or "")
            for new, old in sorted(targets.items())
            if (at := FLAT.match(old)) and at["parent"] == home and display_name(old) in listed
        ]
        rows += [("", "", "", digest) for digest in sorted(predictions.digests - {row[-1] for row in rows})]
        path = _ready(copy / names.folders(home) / TABLE)
        lines = [",".join(row) for row in ((*FIRST_COLUMNS, "mask", DIGEST), *rows)]
        write_bytes(path, "".join(f"{line}\n" for line in lines).encode())
        written.add(path)
    return written


def _ready(path: Path) -> Path:
    """Return the path after its folder was made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
