"""Lock a file against other processes, or explain that the file system has no locks."""

import fcntl
from pathlib import Path
from typing import TextIO

from components.core.errors import StepError


def lock(file: TextIO, operation: int) -> None:
    """Lock an open file as `fcntl.flock` does.

    Raises:
        BlockingIOError: another process holds it, and `operation` does not wait.
        StepError: the file system has no locks.
    """
    try:
        fcntl.flock(file, operation)
    except BlockingIOError:
        raise
    except OSError as error:
        raise StepError(
            f"{Path(file.name).absolute().parent} lies on a file system without locks ({error.strerror}), as some "
            "network drives are: neither a run nor MLflow's database is safe there. Name a folder on a disk of this "
            "machine for what is kept in .local: make ... STATE=/folder/of/yours, or export STATE."
        ) from error
