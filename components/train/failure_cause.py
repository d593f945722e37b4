"""Find out why a training of several processes failed: one process fails first, the others fail because of it."""

import re
import signal

from components.core.step import ERROR_MARK
from components.train.data_workers import AGAIN

MARK = f"{ERROR_MARK} train: "
"""Beginning of the log line with a process's error."""
PEER_IS_GONE = re.compile(r"unexpected Dist\w+Error|closed by peer|reset by peer|Broken pipe")
"""Matches the error of a process that lost the connection to another one, which failed before it."""


def first_cause(errors: list[str], exit_codes: list[int]) -> str:
    """Return why the first process failed; "" if it is unknown.

    Args:
        errors: Error messages of the processes, in the order of the log.
        exit_codes: Exit codes of the processes; negative for a signal. torchrun ends the others by SIGTERM.
    """
    own = [error for error in errors if not PEER_IS_GONE.search(error)]
    unexplained = [code for code in exit_codes if code not in (0, 1, -signal.SIGTERM)]
    if own or not unexplained:
        return next(iter(own + errors), "")
    if unexplained[0] == -signal.SIGKILL:
        return ("one of the training processes was killed (SIGKILL): the system does this when memory runs out. Give "
                "the step more memory, or lower batch_size or image_size.")  # fmt: skip
    how = signal.Signals(-unexplained[0]).name if unexplained[0] < 0 else f"exit code {unexplained[0]}"
    return f"one of the training processes ended ({how}); the lines above may show why. {AGAIN}"
