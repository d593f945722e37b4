"""Download the scans of a data set and validate them; each refused scan is listed with its reason."""

import logging
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from components.artifacts.cases import LESION_PATIENTS_NEEDED, REPORT, Case, Cases
from components.artifacts.synthetic import DESCRIPTION, MOST_DESCRIPTION_BYTES, says_synthetic
from components.core.errors import StepError
from components.core.machine import cpus
from components.core.settings import checked
from components.core.step import progress
from components.core.storage import Storage, digest_of, scratch
from components.ingest import participants
from components.ingest.discover import discover
from components.ingest.found_files import Found, FoundCase
from components.ingest.label_masks import Predictions
from components.ingest.report import lesion_text, write_report
from components.ingest.validate import validate
from components.scans.volumes import BadVolume

METADATA = {DESCRIPTION, participants.FILE}
"""Files that are read besides the scans."""


def ingest(
    data_uri: str, data_version: str, cases: Path, page: Path, b_value: float = 0, modality_check: bool = True
) -> None:
    """Download, validate and keep every case under `data_uri`.

    Args:
        data_uri: s3://bucket/prefix of the scans.
        data_version: Digest of the objects there, from fingerprint.
        cases: Folder for `cases.json`, the canonical volumes and the report.
        page: File for a second copy of the report (HTML).
        b_value: b-value of a DWI, s/mm², if there is a b0 but no file with the b-value; 0 if unknown.
        modality_check: Refuse a scan with the intensities of an ADC map or a b0 image.

    Raises:
        StepError: a setting is invalid, the bucket changed since `data_version`, or too few patients have a lesion.
    """
    checked({"b_value": b_value, "modality_check": modality_check})
    storage = Storage(data_uri)
    objects = storage.list_until(lambda listed: digest_of(listed) == data_version)
    if digest_of(objects) != data_version:
        raise StepError(f"{data_uri} changed while the run was starting. Wait for uploads to end, then run again.")
    found = discover(o.key for o in objects)
    wanted = found.wanted | METADATA
    downloads = scratch() / f"ingest-{data_version[:16]}"
    storage.download([o for o in objects if o.key in wanted], downloads)
    validated = check(
        found, downloads, cases, b_value, modality_check, data_uri=data_uri, data_version=data_version
    )  # fmt: skip
    (downloads / participants.FILE).unlink(missing_ok=True)  # it may hold ages and names
    validated.write(cases)
    write_report(validated, cases, page)
    shutil.copy(page, cases / REPORT)
    shutil.rmtree(downloads)
    log_summary(validated)
    require_enough(validated)


def check(
    found: Found, source: Path, target: Path, b_value: float = 0, modality_check: bool = True, *,
    data_uri: str = "", data_version: str = "",
) -> Cases:  # fmt: skip
    """Validate the found cases from the folder `source`, in parallel, and write their volumes to `target`.

    See `ingest` for the other arguments.
    """
    target.mkdir(parents=True, exist_ok=True)
    candidates, predictions = [*found.cases, *found.unclear], Predictions(found.tables, source)
    unclear = {case.name for case in found.unclear}
    refused = {name: why for name, why in found.refused.items() if name not in unclear}
    cases: list[Case] = []

    def attempt(case: FoundCase) -> Case | str:
        try:
            return validate(case, source, target, b_value, modality_check, predictions)
        except BadVolume as reason:
            return str(reason)

    with ThreadPoolExecutor(cpus()) as pool:
        results = progress(pool.map(attempt, candidates), total=len(candidates), what="validated")
        for candidate, result in zip(candidates, results, strict=True):
            if isinstance(result, Case):
                cases.append(result)
            else:
                refused[candidate.name] = result
    table = participants.read_participants(source, {case.patient for case in cases})
    return Cases(
        layout=found.layout,
        cases=[
            case.model_copy(update={"site": table.site.get(case.patient), "scanner": table.scanner.get(case.patient)})
            for case in sorted(cases, key=lambda case: case.case)
        ],
        refused=dict(sorted(refused.items())),
        ignored=[key for key in found.ignored if key not in METADATA],
        notes=table.notes,
        synthetic=is_synthetic_set(source),
        b_value=b_value,
        modality_check=modality_check,
        data_uri=data_uri,
        data_version=data_version,
    )


def log_summary(cases: Cases) -> None:
    """Log refusals, repairs, unlabelled scans and notes, one line each, and the counts."""
    for name, why in cases.refused.items():
        logging.info("refused    %s: %s", name, why)
    for case in cases.cases:
        for repair in case.repairs:
            logging.info("noted      %s: %s", case.case, repair)
    for case in cases.cases:
        if not case.labelled:
            logging.info("unlabelled %s: no mask; kept, but not used for training", case.case)
    for note in cases.notes:
        logging.info("noted      %s", note)
    if cases.ignored:
        shown = ", ".join(cases.ignored[:3]) + (", ..." if len(cases.ignored) > 3 else "")
        logging.info("ignored    %d other files: %s", len(cases.ignored), shown)
    labelled = [case for case in cases.cases if case.labelled]
    logging.info(
        "%d labelled scans of %d patients (%d lesion-free), %d unlabelled, %d refused",
        len(labelled), len({case.patient for case in labelled}),
        sum(lesion_text(case) == "lesion-free" for case in labelled), len(cases.cases) - len(labelled),
        len(cases.refused),
    )  # fmt: skip


def require_enough(cases: Cases) -> None:
    """Raise StepError if fewer than three patients with a lesion are left."""
    patients = {case.patient for case in cases.cases if case.lesion_voxels}
    if len(patients) < LESION_PATIENTS_NEEDED:
        raise StepError(
            f"{LESION_PATIENTS_NEEDED} labelled patients with a lesion are needed (one each to train, to validate and "
            f"to test), {len(patients)} found in {cases.data_uri}; {len(cases.refused)} cases were refused (each named "
            "above). Add scans with masks, or repair the refused ones; then check again: make check-data DATA=folder."
        )


def is_synthetic_set(source: Path) -> bool:
    """Return whether the description of the data set in the folder `source` names it as synthetic."""
    path = source / DESCRIPTION
    if path.is_symlink() or not path.is_file() or path.stat().st_size > MOST_DESCRIPTION_BYTES:
        return False
    try:
        return says_synthetic(path.read_bytes())
    except OSError:
        return False
