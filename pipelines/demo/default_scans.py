"""The scans of a command without DATA: the synthetic demo scans, made once."""

import logging
from pathlib import Path


def demo_scans(state: Path) -> Path:
    """Return the folder of the demo scans below the state folder; write it where it does not exist."""
    from pipelines.demo.scans import write_demo_scans  # half a second of imports, needed without DATA only

    folder = state / "demo-scans"
    logging.info(
        "no DATA given: using SYNTHETIC demo scans in %s (not patients: the numbers show that the pipeline works, and "
        "are not a result)", folder,
    )  # fmt: skip
    write_demo_scans(folder)
    return folder
