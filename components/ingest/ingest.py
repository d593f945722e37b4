"""Scans in a bucket become validated cases: canonical, de-identified, each refusal with its reason."""

import json
import logging
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from components.artifacts.cases import LESION_PATIENTS_NEEDED, REPORT
from components.artifacts.synthetic import DESCRIPTION, MOST_DESCRIPTION_BYTES, says_synthetic
from components.core.machine import cpus
from components.core.settings import checked
from components.core.step import StepError, progress
from components.core.storage import Storage, digest_of, scratch
from components.ingest import participants
from components.ingest.discover import discover
from components.ingest.found_files import Case, Found
from components.ingest.label_masks import Predictions
from components.ingest.report import lesion_words, write_report
from components.ingest.validate import Record, validate
from components.scans.volumes import BadVolume

ABOUT = {DESCRIPTION, participants.FILE}
"""What is read besides the scans."""


def ingest(
    data_uri: str, data_version: str, cases: Path, page: Path, b_value: float = 0, modality_check: bool = True
) -> None:
    """Download, validate and keep every case under `data_uri`.

    `b_value`, s/mm², is that of a DWI with a b0 but no file beside it that says it; 0 where it is unknown.
    `modality_check`: refuse a scan whose intensities say that it is no DWI.
    Writes `cases/cases.json`, the canonical volumes and the report beside it, and the report as `page` (HTML).

    Raises:
        StepError: an impossible setting, the bucket changed since `data_version`, or too few patients with a lesion
            are left.
    """
    checked({"b_value": b_value, "modality_check": modality_check})
    storage = Storage(data_uri)
    objects = storage.list_until(lambda listed: digest_of(listed) == data_version)
    if digest_of(objects) != data_version:
        raise StepError(f"{data_uri} changed while the run was starting. Run again once it is still.")
    found = discover(o.key for o in objects)
    wanted = found.wanted | ABOUT
    downloads = scratch() / f"ingest-{data_version[:16]}"
    storage.download([o for o in objects if o.key in wanted], downloads)
    facts = check(found, downloads, cases, b_value, modality_check) | {
        "data_uri": data_uri,
        "data_version": data_version,
    }
    (downloads / participants.FILE).unlink(missing_ok=True)  # ages and names may stand in it
    (cases / "cases.json").write_text(json.dumps(facts, indent=1))
    write_report(facts, cases, page)
    shutil.copy(page, cases / REPORT)
    shutil.rmtree(downloads)
    log_summary(facts)
    require_enough(facts)


def check(found: Found, source: Path, target: Path, b_value: float = 0, modality_check: bool = True) -> dict:
    """Validate the found cases from `source` into `target`, in parallel; the content of `cases.json`."""
    target.mkdir(parents=True, exist_ok=True)
    cases, predictions = [*found.cases, *found.unclear], Predictions(found.tables, source)
    refused = {name: why for name, why in found.refused.items() if name not in {case.name for case in found.unclear}}
    records: list[Record] = []

    def attempt(case: Case) -> Record | str:
        try:
            return validate(case, source, target, b_value, modality_check, predictions)
        except BadVolume as reason:
            return str(reason)

    with ThreadPoolExecutor(cpus()) as pool:
        results = progress(pool.map(attempt, cases), total=len(cases), what="validated")
        for case, result in zip(cases, results, strict=True):
            if isinstance(result, Record):
                records.append(result)
            else:
                refused[case.name] = result
    records.sort(key=lambda record: record.case)
    told = participants.participants(source, {record.patient for record in records})
    for record in records:
        record.site, record.scanner = told.site.get(record.patient), told.scanner.get(record.patient)
    return {
        "layout": found.layout,
        "cases": [record.as_dict() for record in records],
        "refused": dict(sorted(refused.items())),
        "ignored": [key for key in found.ignored if key not in ABOUT],
        "notes": told.notes,
        "synthetic": is_synthetic_set(source),
        "b_value": b_value,
        "modality_check": modality_check,
    }


def log_summary(facts: dict) -> None:
    """What would interest a person, a line each."""
    cases = facts["cases"]
    for name, why in facts["refused"].items():
        logging.info("refused    %s: %s", name, why)
    for case in cases:
        for repair in case["repairs"]:
            logging.info("noted      %s: %s", case["case"], repair)
    for case in cases:
        if not case["labelled"]:
            logging.info("unlabelled %s: no mask; kept, but not for training", case["case"])
    for note in facts["notes"]:
        logging.info("noted      %s", note)
    if facts["ignored"]:
        shown = ", ".join(facts["ignored"][:3]) + (", ..." if len(facts["ignored"]) > 3 else "")
        logging.info("left alone %d other files: %s", len(facts["ignored"]), shown)
    labelled = [c for c in cases if c["labelled"]]
    logging.info(
        "%d labelled scans of %d patients (%d lesion-free), %d unlabelled, %d refused",
        len(labelled), len({c["patient"] for c in labelled}),
        sum(lesion_words(c) == "lesion-free" for c in labelled), len(cases) - len(labelled), len(facts["refused"]),
    )  # fmt: skip


def require_enough(facts: dict) -> None:
    """Raises StepError where fewer than three patients with a lesion are left."""
    patients = {c["patient"] for c in facts["cases"] if c["lesion_voxels"]}
    if len(patients) < LESION_PATIENTS_NEEDED:
        raise StepError(
            f"{LESION_PATIENTS_NEEDED} labelled patients with a lesion are needed (one each to train, to validate and "
            f"to test), {len(patients)} found in {facts['data_uri']}; {len(facts['refused'])} cases were refused "
            "(each named above). Add scans with masks, or mend the refused ones: make check-data DATA=folder."
        )


def is_synthetic_set(source: Path) -> bool:
    """Return whether the data set in the folder `source` says of itself that it is synthetic."""
    path = source / DESCRIPTION
    if path.is_symlink() or not path.is_file() or path.stat().st_size > MOST_DESCRIPTION_BYTES:
        return False
    try:
        return says_synthetic(path.read_bytes())
    except OSError:
        return False
