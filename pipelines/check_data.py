"""`make check-data`: what ingest would make of a folder or a prefix; nothing is changed or kept but a page."""

import logging
import tempfile
from pathlib import Path

from components.core.step import StepError
from components.core.storage import Storage
from components.ingest.discover import discover
from components.ingest.ingest import ABOUT, check, log_summary, require_enough
from components.ingest.report import write_report
from pipelines.targets import target
from pipelines.upload import files_of

PAGE = "data-report.html"


def check_data(data: str, state: Path, b_value: float = 0, place: str = "local") -> int:
    """Print and draw what would be ingested, repaired and refused; 0 where a run could start with it.

    `b_value` as for a run; `place` is the target whose storage `s3://` means.

    Raises:
        StepError: nothing there, or no layout recognised.
    """
    with tempfile.TemporaryDirectory() as temporary:
        source, cases = Path(data).expanduser(), Path(temporary) / "cases"
        if data.startswith("s3://"):
            source = Path(temporary) / "downloads"
            with target(place).services(state):
                objects = Storage(data).list()
                found = discover(o.key for o in objects)
                wanted = found.wanted | ABOUT
                Storage(data).download([o for o in objects if o.key in wanted], source)
        elif source.is_dir():
            source = source.resolve()
            found = discover(files_of(source))
        else:
            raise StepError(f"DATA={data} is not a folder. Give a folder of scans, or s3://bucket/prefix.")
        facts = check(found, source, cases, b_value) | {"data_uri": data, "data_version": "not uploaded"}
        state.mkdir(exist_ok=True)
        state.chmod(0o700)  # the page shows scans
        write_report(facts, cases, state / PAGE)
    log_summary(facts)
    logging.info("page with pictures: %s", state / PAGE)
    require_enough(facts)
    return 0
