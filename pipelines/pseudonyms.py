"""PSEUDONYM_KEY: a folder's scans under names that say nothing, before anything leaves the machine.

What is uploaded, shown and logged from then on is a copy of the folder under `.local/pseudonyms/`: the scans alone,
without header text, of the files beside them the b-value, of participants.tsv the sites and scanners, and of the tables
that `make predict` left which masks are predictions. Which name is whose stands beside it, in a map that is never sent.
"""

import fcntl
import hashlib
import hmac
import logging
import re
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from components.artifacts.synthetic import DESCRIPTION
from components.core.machine import cpus
from components.core.step import StepError, progress
from components.core.storage import file_sha256
from components.core.text import PSEUDONYM, composed, look
from components.ingest import participants
from components.ingest.discover import discover
from components.ingest.file_names import FLAT, SCAN_ENDING, SESSION, SLICE, owner_conflict, session_in_name
from components.ingest.found_files import Found
from components.ingest.ingest import is_synthetic_set
from components.ingest.label_masks import Predictions, display_name
from components.scans.prediction_mark import DIGEST, FIRST_COLUMNS, TABLE
from components.scans.volumes import BadVolume
from pipelines import strip_header
from pipelines.atomic_write import read_json, write_bytes, write_json
from pipelines.file_lock import lock
from pipelines.upload import files_of

VARIABLE, SHORTEST, FEWEST_KINDS = "PSEUDONYM_KEY", 32, 10
BIDS_KIND = re.compile(
    r"[_-](?:(?:dwi|adc|b0|msk|mask|lesion|seg|dseg)\.nii(?:\.gz)?|dwi\.(?:bval|json))$", re.IGNORECASE
)
PLAIN = {"derivatives", "dwi"}
"""Folders that the layout itself names."""


class Pseudonyms:
    """Other names for scans, by HMAC-SHA256: the same name has the same one as long as the key is the same.

    patients: pseudonym to name. spelled: pseudonym to the names that it stands for.
    """

    def __init__(self, key: str):
        self.key = key.encode()
        self.patients: dict[str, str] = {}
        self.spelled: dict[str, set[str]] = defaultdict(set)

    def of(self, kind: str, name: str) -> str:
        digest = hmac.new(self.key, f"{kind}\0{name}".encode("utf-8", "surrogateescape"), hashlib.sha256)
        return f"p{digest.hexdigest()[:16]}"

    def flat(self, key: str) -> str:
        """For a key of the layout images/NAME, masks/NAME; "" where it is none."""
        found = FLAT.match(key)
        if not found:
            return ""
        _, kind, stem, extension = found.groups()
        slice_of = SLICE.match(stem)
        name = slice_of[1] if slice_of else stem
        session_of = SESSION.match(name)
        patient = session_of["patient"] if session_of else name
        new = self._patient(patient, patient, "")
        if session_of:
            new += f"_ses-{self._one('session', f'{patient}/{session_of[2]}')}"
        folders = key.split("/")[:-2]
        return "/".join([*map(self._folder, folders), kind, new + stem[len(name) :] + extension])

    def bids(self, key: str) -> str:
        """For a key of the layout sub-X/ses-Y/dwi/sub-X_ses-Y_dwi, or of a mask among its derivatives; else ""."""
        *folders, file = key.split("/")
        kind, subjects = BIDS_KIND.search(file), [i for i, f in enumerate(folders) if f.casefold().startswith("sub-")]
        if FLAT.match(key) and not subjects:
            return self._predicted(folders, file)
        if not kind or not subjects:
            return ""
        at = subjects[-1]
        subject, *below = folders[at:]
        old, new = [subject], [self._patient(subject, subject[4:], subject[:4])]
        if below and below[0].casefold().startswith("ses-"):
            session = below.pop(0)
            old.append(session)
            new.append(session[:4] + self._one("session", f"{subject[4:]}/{session[4:]}"))
        stem, name = file[: kind.start()], "_".join(new)
        if len(old) == 1 and (session := session_in_name(key)):
            name += f"_ses-{self._one('session', f'{subject[4:]}/{session[4:]}')}"
        if stem != "_".join(old):
            name += f"_{self._one('file', stem)}"
        return "/".join([*map(self._folder, folders[:at]), *new, *map(self._folder, below), name + kind[0]])

    def _predicted(self, folders: list[str], file: str) -> str:
        """For a mask that `make predict` made of a case in BIDS: results/masks/sub-X_ses-Y."""
        stem, ending = SCAN_ENDING.sub("", file), SCAN_ENDING.search(file)[0]
        session_of = SESSION.match(stem)
        subject = session_of["patient"] if session_of else stem
        new = self._patient(subject, subject[4:], subject[:4])
        if session_of:
            new += f"_ses-{self._one('session', f'{subject[4:]}/{session_of[2]}')}"
        return "/".join([*map(self._folder, folders[:-1]), folders[-1], new + ending])

    def folders(self, home: str) -> str:
        """For a folder, "" or with / at its end."""
        return "".join(f"{self._folder(name)}/" for name in home.split("/")[:-1])

    def unclear(self, key: str) -> bool:
        """Whether a new key holds a name that stands for several which look alike: one patient, or two?"""
        return any(len(self.spelled[pseudonym]) > 1 for pseudonym in PSEUDONYM.findall(key))

    def _patient(self, whole: str, name: str, before: str) -> str:
        pseudonym = before + self._one("patient", name)
        self.patients[pseudonym] = whole
        return pseudonym

    def _folder(self, name: str) -> str:
        return name if name.casefold() in PLAIN else self._one("folder", name)

    def _one(self, kind: str, name: str) -> str:
        pseudonym = self.of(kind, look(name))
        self.spelled[pseudonym].add(composed(name))
        return pseudonym


def pseudonymized(data: str, key: str | None, state: Path) -> str:
    """DATA as the pipeline is to see it: with a key, and where it names a folder, a copy under other names.

    Raises:
        StepError: the key is weak, the names are in a bucket already, or a scan cannot be read.
    """
    if key is None:
        return data
    _require_strong(key)
    if data.startswith("s3://"):
        raise StepError(
            f"{VARIABLE} renames what is uploaded, and what is in a bucket is uploaded already, its names with it. "
            f"Give the folder that the scans came from as DATA, or unset {VARIABLE} if those names may be seen."
        )
    folder = Path(data).expanduser().resolve()
    if not data or not folder.is_dir():
        return data
    names, place = Pseudonyms(key), state / "pseudonyms"
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
            f"DATA could not be copied under other names into {place} ({error.strerror}). It needs room there for the "
            "scans, and the right to read DATA. Mend that, and run the same command again."
        ) from None
    return str(copy)


def require_key_if_used_before(data: str, key: str | None, state: Path) -> None:
    """Before an upload: refuse a folder that went under other names before and now comes without the key.

    Where there is no key at all, say what leaves with the scans.

    Raises:
        StepError: a map for this folder exists, and no key is given.
    """
    folder = Path(data).expanduser().resolve()
    if key is not None or not data or data.startswith("s3://") or not folder.is_dir():
        return
    for map_path in (state / "pseudonyms").glob("*.json"):
        if read_json(map_path)["folder"] == str(folder):
            raise StepError(
                f"{VARIABLE} is not set, but this folder went under other names before (map: {map_path}). Without the "
                f"key its names and headers would be uploaded. Export the key and run again; if the names may be "
                "uploaded, move that map away first."
            )
    logging.info(
        "no %s: DATA is uploaded as it stands: file names, headers, all files in it (docs/privacy.md)",
        VARIABLE,
    )


def _require_strong(key: str) -> None:
    """Raise StepError for a key that could be guessed: short, of few characters, or one piece repeated."""
    make_one = f"openssl rand -hex 32 makes a good one; keep it. Or unset {VARIABLE} to keep the names."
    if len(key) < SHORTEST:
        raise StepError(
            f"{VARIABLE} has {len(key)} characters: names can be guessed and tried with so short a key. Give it at "
            f"least {SHORTEST}. {make_one}"
        )
    if len(set(key)) < FEWEST_KINDS or key in (key + key)[1:-1]:
        raise StepError(f"{VARIABLE} is easy to guess: few different characters, or one piece repeated. {make_one}")


def _copy(folder: Path, copy: Path, map_path: Path, names: Pseudonyms) -> None:
    """Make `copy` hold the scans of `folder` under other names, and `map_path` tell which is whose."""
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
        write_bytes(_ready(copy / new), _bare(folder / targets[new], new, map_path))
        made[new] = stamps[new]

    def tell() -> None:
        told = {"folder": str(folder), "patients": before["patients"] | names.patients, "files": targets}
        write_json(map_path, told | {"left_out": left_out, "made": made})
        map_path.chmod(0o600)

    tell()
    try:
        with ThreadPoolExecutor(cpus()) as pool:
            to_make = sorted(targets.keys() - made.keys())
            for _ in progress(pool.map(make, to_make), total=len(to_make), what="renamed"):
                pass
    finally:
        tell()
    kept = {copy / new for new in targets} | _tables(folder, copy, names.patients)
    kept |= _predictions(Predictions(found.tables, folder), copy, targets, names)
    for path in copy.rglob("*"):
        if path.is_file() and path not in kept:
            path.unlink()
    if left_out:
        logging.warning("left out: %d files whose names look like another's, name another patient or session than "
                        "their folder or are of no layout (left_out in %s)", len(left_out), map_path)  # fmt: skip
    logging.info(
        "%s: %d patients go under other names; whose is whose: %s (never sent; keep it, and the key, to yourself)",
        VARIABLE, len(names.patients), map_path,
    )  # fmt: skip


def _scans(files: dict) -> tuple[Found, list[str]]:
    """What is found, and the keys that belong to a scan."""
    try:
        found = discover(files)
    except StepError:
        raise StepError(
            "DATA holds no scans in one of the two layouts of docs/data.md, or both layouts at once. "
            f"Without {VARIABLE}, make check-data says which files it sees; it sends nothing."
        ) from None
    return found, sorted(files.keys() - set(found.ignored))


def _bare(path: Path, new: str, map_path: Path) -> bytes:
    """What is sent of a file: nothing of one that is no scan, which ingest then refuses under its other name."""
    try:
        return strip_header.bare(path)
    except BadVolume as reason:
        logging.warning("%s goes as an empty file, to be refused: %s", new, reason)
        return b""
    except OSError as error:
        raise StepError(f"{new} cannot be read ({error.strerror}). Its own name: {map_path}.") from None


def _tables(folder: Path, copy: Path, patients: dict[str, str]) -> set[Path]:
    """Write what is kept of the two tables beside the scans: where these were taken, and whether they are synthetic."""
    written = set()
    if is_synthetic_set(folder):
        written.add(_ready(copy / DESCRIPTION))
        write_json(copy / DESCRIPTION, {"Name": "synthetic"})
    if (folder / participants.FILE).is_file():
        told = participants.read_participants(folder, patients.values())
        rows = [("participant_id", "site", "scanner")]
        rows += [(new, told.site.get(old, ""), told.scanner.get(old, "")) for new, old in sorted(patients.items())]
        written.add(copy / participants.FILE)
        write_bytes(copy / participants.FILE, "".join("\t".join(row) + "\n" for row in rows).encode())
    return written


def _predictions(predictions: Predictions, copy: Path, targets: dict[str, str], names: Pseudonyms) -> set[Path]:
    """Write what is kept of the tables that `make predict` left: which of the copied masks it made, and digests."""
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
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
