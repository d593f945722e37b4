"""`make check-data`: what ingest would make of a folder or a prefix; nothing is changed or kept but a page."""

import logging
import tempfile
from pathlib import Path

from components.core.step import StepError
from components.core.storage import Storage
from components.ingest.discover import discover
from components.ingest.ingest import ABOUT, check, log_summary, require_enough
from components.ingest.report import write_report
from pipelines.upload import files_of

PAGE = "data-report.html"


def check_data(data: str, state: Path, b_value: float = 0, modality_check: bool = True) -> int:
    """Print and draw what would be ingested, repaired and refused; 0 where a run could start with it.

    `b_value` and `modality_check` as for a run.

    Raises:
        StepError: nothing there, or no layout recognised.
    """
    with tempfile.TemporaryDirectory() as temporary:
        source, target = Path(data).expanduser(), Path(temporary) / "cases"
        if data.startswith("s3://"):
            from pipelines.local.target import use_services

            use_services(state)
            source = Path(temporary) / "downloads"
            objects = Storage(data).list()
            found = discover(o.key for o in objects)
            wanted = {key for case in found.cases for key in case.keys} | ABOUT
            Storage(data).download([o for o in objects if o.key in wanted], source)
        elif source.is_dir():
            source = source.resolve()
            found = discover(files_of(source))
        else:
            raise StepError(f"DATA={data} is not a folder. Give a folder of scans, or s3://bucket/prefix.")
        facts = check(found, source, target, b_value, modality_check) | {
            "data_uri": data,
            "data_version": "not uploaded",
        }
        state.mkdir(exist_ok=True)
        state.chmod(0o700)  # the page shows scans
        write_report(facts, target, state / PAGE)
    log_summary(facts)
    logging.info("page with pictures: %s", state / PAGE)
    require_enough(facts)
    return 0
