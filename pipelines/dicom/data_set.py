"""Copy a data set of DICOM studies as NIfTI in the layout of BIDS, on this machine, before anything is uploaded.

A patient is a folder NAME, or NAME/ses-Y for a session, at the top of the data set or in images/. The mask of a patient
is masks/NAME.nii.gz, or masks/NAME_ses-Y.nii.gz. The copy has the volumes with their geometry, the b-values, and the
names of the folders. It has nothing else of a DICOM header.
"""

import fcntl
import hashlib
import json
import logging
from collections import defaultdict
from pathlib import Path

from components.core.code_closure import closure_digest
from components.core.errors import StepError
from components.core.step import progress
from components.core.text import shown
from components.ingest.file_names import BIDS_DWI, DERIVED, FLAT, SOURCE
from components.ingest.found_files import in_predictions, prediction_folders
from components.scans.geometry import BadVolume
from components.scans.prediction_mark import TABLE
from pipelines.atomic_write import read_json, write_bytes, write_json
from pipelines.dicom.choose import names_series
from pipelines.dicom.convert import ADC, B0, DWI, SIDECAR_NAME, convert, with_comparable_b0
from pipelines.dicom.dicom_files import dicom_keys, files_below, holds_dicom
from pipelines.dicom.masks import find_masks, table_of_predictions
from pipelines.dicom.owner import LAYOUT, Owner, owner_of_folder
from pipelines.dicom.studies import Study, find_studies
from pipelines.file_lock import lock
from pipelines.folder_files import files_of
from pipelines.image_tags import PINS
from pipelines.kept_tables import write_tables

ASK = "without PSEUDONYM_KEY, make check-data says what; it sends nothing"
TAKEN = "taken"
ENDINGS = {DWI: "dwi.nii.gz", ADC: "adc.nii.gz", B0: "b0.nii.gz", SIDECAR_NAME: "dwi.json"}


def as_nifti(data: str, series: str, state: Path, private: bool = False) -> str:
    """Return the DATA for the pipeline: the copy if `data` is a folder of DICOM studies, else `data`.

    series: SERIES, as in `choose`. private: no message has a name or a word of a header, as with PSEUDONYM_KEY.

    Raises:
        StepError: no study can be converted, SERIES names none of the series, or the copy cannot be written.
    """
    folder = Path(data).expanduser().resolve()
    is_local = bool(data) and not data.startswith("s3://") and folder.is_dir()
    called = (lambda _: f"something in DATA ({ASK})") if private else shown
    keys = list(files_of(folder, called)) if is_local and holds_dicom(folder) else []
    dicom = dicom_keys(folder, [key for key in keys if not SOURCE.search(key)])
    predicted = prediction_folders(keys)
    scans = [key for key in keys if _is_scan(key, predicted)] if dicom else []
    if scans:
        logging.warning(
            "left out: %d DICOM files, because DATA has scans in NIfTI or .npy too (%s). Keep them in two folders.",
            len(dicom), called(scans[0]),
        )  # fmt: skip
    if scans or not dicom:
        if series:
            raise StepError("SERIES chooses among the series of a folder of DICOM, and DATA is none. Leave it out.")
        return data
    place = state / "dicom" / hashlib.sha256(str(folder).encode()).hexdigest()[:16]
    copy = place / folder.name
    try:
        for one in (state, state / "dicom", place, copy):
            one.mkdir(mode=0o700, parents=True, exist_ok=True)
            one.chmod(0o700)
        with (place / "lock").open("w") as file:
            lock(file, fcntl.LOCK_EX)
            wanted = names_series(series)
            lines = _copy(folder, keys, find_studies(folder, dicom, wanted), wanted, copy)
    except StepError:
        if private:
            raise StepError(f"DATA holds DICOM that cannot be converted; {ASK}. Nothing was sent.") from None
        raise
    except OSError as error:
        raise StepError(
            f"DATA could not be converted into {place} ({error.strerror}). Make room there, or set STATE, and check "
            "that you may read DATA. Then run the same command again."
        ) from None
    for line in () if private else lines:
        logging.log(logging.INFO if line.startswith(TAKEN) else logging.WARNING, line)
    if private and (others := sum(not line.startswith(TAKEN) for line in lines)):
        logging.warning("%d DICOM studies or masks refused or left out; %s", others, ASK)
    logging.info("DICOM: converted into %s. Of the headers it has nothing but geometry and b-value.", place)
    return str(copy)


def _is_scan(key: str, predicted: set[str]) -> bool:
    """Return whether a file is a scan in one of the pipeline's layouts: then DATA is not a data set of DICOM."""
    flat = FLAT.match(key)
    if SOURCE.search(key) or DERIVED.search(key) or in_predictions(key, predicted):
        return False
    return bool(BIDS_DWI.match(key)) or (flat is not None and flat["kind"].lower() == "images")


def _copy(folder: Path, keys: list[str], studies: list[Study], wanted: frozenset[str], copy: Path) -> list[str]:
    """Make the copy what it has to be; return a line for what was taken, refused and left out."""
    by_owner: dict[Owner | None, list[Study]] = defaultdict(list)
    for study in studies:
        by_owner[owner_of_folder(study.home)].append(study)
    owners = [whose for whose in by_owner if whose]
    scans, lines = _convert_all(by_owner, wanted, copy)
    if not scans:
        raise StepError(
            "\n".join([f"None of the {len(studies)} DICOM studies of DATA={folder} can be used:", *sorted(lines)])
        )
    masks, left_out = find_masks(folder, keys, owners)
    others = masks | {TABLE: table_of_predictions(folder, keys)}
    others = {key: content for key, content in others.items() if content}
    for key, content in others.items():
        _write(copy / key, content)
    kept = {copy / key for key in (*scans, *others)}
    kept |= write_tables(folder, copy, {whose.subject: whose.name for whose in owners})
    for path in files_below(copy):
        if path not in kept:
            path.unlink()
    return sorted([*lines, *(f"left out   {shown(key)}: {why}" for key, why in left_out.items())])


def _convert_all(
    by_owner: dict[Owner | None, list[Study]], wanted: frozenset[str], copy: Path
) -> tuple[list[str], list[str]]:
    """Convert what changed since the last call; return the keys of all scans, and a line for each study."""
    memory = copy.with_name("made.json")
    before, made = read_json(memory, {}), {}
    lines: list[str] = []
    code = closure_digest("pipelines/dicom/data_set.py", extra=[PINS])
    for whose, studies in progress(list(by_owner.items()), total=len(by_owner), what="converted"):
        home, stamp = studies[0].home, _stamp(studies, wanted, code)
        done = before.get(home)
        try:
            if whose is None:
                raise BadVolume(f"its files are in no folder of one patient. {LAYOUT}")
            if len(studies) > 1:
                raise BadVolume(f"{len(studies)} studies of one patient or session. {LAYOUT}")
            chosen = with_comparable_b0(studies[0].chosen(wanted))
            if not done or done["stamp"] != stamp or not all((copy / key).is_file() for key in done["keys"]):
                files = {whose.scan_key(ENDINGS[name]): content for name, content in convert(chosen).files.items()}
                for key, content in files.items():
                    _write(copy / key, content)
                done = {"stamp": stamp, "keys": sorted(files)}
            made[home] = done
            lines.append(f"{TAKEN}      {shown(whose.named)}: {'; '.join(chosen.notes)}")
            write_json(memory, before | made, 0o600)
        except BadVolume as reason:
            lines += [f"refused    {shown(study.home or '.')}: {reason}" for study in studies]
    write_json(memory, made, 0o600)
    return [key for done in made.values() for key in done["keys"]], lines


def _stamp(studies: list[Study], wanted: frozenset[str], code: str) -> str:
    """Return a digest of what a conversion depends on: the files, SERIES, and `code`, that of our code and pins."""
    paths = sorted(path for study in studies for one in study.series for path in one.files)
    files = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    return hashlib.sha256(json.dumps([files, sorted(wanted), code]).encode()).hexdigest()


def _write(path: Path, content: bytes) -> None:
    """Write a file of the copy; one that has this content keeps its time, so that it is not uploaded again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.is_file() or path.read_bytes() != content:
        write_bytes(path, content)
