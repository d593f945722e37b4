"""The lock that lets one pipeline run at a time use a state folder."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from components.core.errors import StepError
from pipelines.file_lock import lock

FILE = "run.lock"


def is_running(state: Path) -> bool:
    """Return whether a run holds the state folder now."""
    with contextlib.suppress(FileNotFoundError), (state / FILE).open() as file:
        try:
            lock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


@contextlib.contextmanager
def only_run(state: Path) -> Iterator[None]:
    """Hold the state folder for one run.

    Raises:
        StepError: another run holds it, or its file system has no locks.
    """
    state.mkdir(parents=True, exist_ok=True)
    with (state / FILE).open("a+") as file:
        try:
            lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise StepError(
                f"another pipeline run is going on here (process {file.read().strip()}). Wait until it ends."
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
