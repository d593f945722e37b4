"""Print the log of a run on this machine, from the file that the run writes."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

from components.core.errors import StepError
from pipelines.local.run_lock import is_running
from pipelines.pipeline import EVERY_STEP, STEP_HEADING

LOG = "log.txt"
POLL_SECONDS = 0.2


def newest_run(state: Path) -> str:
    """Return the name of the run that started last."""
    return max(path.parent for path in (state / "runs").glob(f"*/{LOG}")).name


def print_log(run: str, step: str, follow: bool, state: Path) -> None:
    """Print the log of a run, or of one step; with `follow` until the run is over.

    Raises:
        StepError: the log is gone, or does not mention the step.
    """
    log = state / "runs" / run / LOG
    if not log.exists():
        raise StepError(f"{log} is gone.")
    current, shown = "", False
    for line in _lines(log, lambda: follow and is_running(state) and run == newest_run(state)):
        heading, _, name = line.partition(" ")
        if heading == STEP_HEADING and name in EVERY_STEP:
            current = name
        if not step or current == step:
            print(line, flush=True)
            shown = True
    if not shown:
        raise StepError(f"{log} has no line of {step or 'any step'}: it came from cache, or has not begun.")


def _lines(log: Path, is_growing: Callable[[], bool]) -> Iterator[str]:
    """Yield the lines of a file, and those that are added while it grows."""
    with log.open() as text:
        line = ""
        while True:
            more = is_growing()
            while piece := text.readline():
                line += piece
                if line.endswith("\n"):
                    yield line.rstrip("\n")
                    line = ""
            if not more:
                break
            time.sleep(POLL_SECONDS)
        if line:
            yield line
