"""`make check-data`: show what ingest would do with a folder or a prefix; only a page is written.

Before a run uploads a folder, a shorter check tells whether the run would stop in ingest.
"""

import logging
import tempfile
from pathlib import Path

from components.artifacts.cases import LESION_PATIENTS_NEEDED, Cases
from components.core.errors import StepError
from components.core.settings import Settings
from components.core.storage import Storage
from components.core.text import shown
from components.ingest.discover import Found, discover
from components.ingest.ingest import METADATA, check, log_summary, require_enough
from components.ingest.label_masks import Predictions
from components.ingest.report import write_report
from components.ingest.validate import validate
from components.scans.volumes import BadVolume
from components.split.assignment import assign, lesion_sizes, linked_patients
from pipelines.pipeline import folds_asked
from pipelines.power_report import power_report
from pipelines.target import target
from pipelines.upload import files_of, listed

PAGE = "data-report.html"
NOT_UPLOADED, MOST_SHOWN = "not uploaded", 1000


def check_data(data: str, state: Path, settings: Settings | None = None, place: str = "local") -> int:
    """Print and draw what would be ingested, repaired and refused, and what a test on the patients can show.

    `settings` are those of a run; `place` is the target with the storage for `s3://`.

    Returns:
        0 if a run could start with it.

    Raises:
        StepError: there is nothing, or no known layout, or too few patients.
    """
    settings = settings or Settings()
    with tempfile.TemporaryDirectory() as temporary:
        source, cases = Path(data).expanduser(), Path(temporary) / "cases"
        if data.startswith("s3://"):
            source = Path(temporary) / "downloads"
            with target(place).services(state):
                objects = Storage(data).list()
                found = discover(o.key for o in objects)
                wanted = found.wanted | METADATA
                Storage(data).download([o for o in objects if o.key in wanted], source)
        elif source.is_dir():
            source = source.resolve()
            found = discover(files_of(source))
        else:
            raise StepError(f"DATA={data} is not a folder. Give a folder of scans, or s3://bucket/prefix.")
        validated = check(
            found, source, cases, settings.b_value, settings.modality_check,
            data_uri=shown(data, MOST_SHOWN), data_version=NOT_UPLOADED,
        )  # fmt: skip
        state.mkdir(exist_ok=True)
        state.chmod(0o700)  # the page shows scans
        write_report(validated, cases, state / PAGE)
    log_summary(validated)
    logging.info("page with pictures: %s", state / PAGE)
    require_enough(validated)
    for line in _power(validated, settings):
        logging.info("%s", line)
    return 0


def _power(cases: Cases, settings: Settings) -> list[str]:
    """Return lines about what a first split of these cases can show."""
    learnable = cases.learnable(settings.inputs)
    groups = linked_patients(learnable)
    ratios = (settings.train_ratio, settings.val_ratio, settings.test_ratio)
    subset_of = assign(groups, lesion_sizes(groups, learnable), ratios, settings.random_seed)
    tested = sum(subset == "test" for subset in subset_of.values())
    return power_report(tested, len(subset_of), cases.synthetic, settings.test_ratio)


def require_learnable(data: str, settings: Settings) -> None:
    """Check before the upload that a run could train with the folder `data`.

    It reads only as many scans as it needs: three if all are good, with FOLDS one for each fold. The steps check scans
    that are in a bucket already, and our own demo scans (no `data`).

    Raises:
        StepError: there is nothing, or no known layout, or too few patients with a lesion (and an ADC map, where the
            settings ask for it) are left; each refusal is logged first.
    """
    if not data or data.startswith("s3://"):
        return
    folder, files = listed(Path(data))
    found, folds = discover(files), folds_asked()
    needed = max(LESION_PATIENTS_NEEDED, folds)
    with tempfile.TemporaryDirectory() as temporary:
        if _is_enough(found, folder, Path(temporary), settings, needed):
            return
        validated = check(
            found, folder, Path(temporary) / "cases", settings.b_value, settings.modality_check,
            data_uri=shown(data, MOST_SHOWN), data_version=NOT_UPLOADED,
        )  # fmt: skip
        log_summary(validated)
        require_enough(validated)
        patients = {case.patient for case in validated.learnable(settings.inputs) if case.lesion_voxels}
        if len(patients) < needed:
            raise StepError(
                f"FOLDS={folds} needs {folds} different patients with a lesion (one in each fold), {len(patients)} "
                "found. Add labelled scans, or ask for fewer folds."
            )


def _is_enough(found: Found, source: Path, target: Path, settings: Settings, needed: int) -> bool:
    patients: set[str] = set()
    predictions = Predictions(found.tables, source)
    for case in found.cases:
        try:
            given = settings.b_value, settings.modality_check, predictions
            record = validate(case, source, target, *given) if case.mask else None
        except BadVolume:
            continue
        if record and record.lesion_voxels and (settings.inputs == "dwi" or "adc" in record.files):
            patients.add(record.patient)
        if len(patients) >= needed:
            return True
    return False
