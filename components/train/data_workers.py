"""The worker processes that read training slices for a GPU: their number, their sockets, and errors when they end.

A worker passes its batches on in shared memory, through a socket in a folder for temporary files.
"""

import contextlib
import logging
import multiprocessing
import multiprocessing.queues
import multiprocessing.util
import os
import re
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from torch.utils.data import DataLoader

from components.core.errors import StepError

PREFETCHED = 4
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 (only its size is read)
SHORT_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm")  # noqa: S108 (multiprocessing makes a folder of its own there)
LOOK_AFTER, PATIENCE = 60, 10
"""Seconds without a batch until a warning, and the number of warnings until the step ends."""
TOLD_WITHIN = 5
"""Seconds within which the system reports to torch that a worker has ended, and why."""
READS, AGAIN = "a process that reads training slices", "Run again: training goes on from its last epoch."
NOT_PASSED_ON = 3
"""Exit code of a worker that could not pass a batch on."""
WHAT_TO_DO = {
    signal.SIGKILL: "as a system does whose memory runs out. Give the step more memory, or lower batch_size or "
    "image_size",
    signal.SIGBUS: f"as where {SHARED_MEMORY} is full. Make it larger (docker run --shm-size=8g), or lower batch_size",
}
"""Signal to explanation and advice, for a worker that could not report an error itself."""


def with_room(workers: int, batch_bytes: int) -> int:
    """Return how many of `workers` have room for their batches in shared memory; 0 if this process has to read."""
    if not workers:
        return 0
    if not _find_socket_folder():
        logging.warning("no folder for temporary files takes a socket, so one process reads the slices: loading is "
                        "slower. Set TMPDIR to a folder on this machine with a short path.")  # fmt: skip
        return 0
    if not SHARED_MEMORY.is_dir():
        return workers
    fit = shutil.disk_usage(SHARED_MEMORY).free // (2 * PREFETCHED * batch_bytes)
    if fit < workers:
        logging.warning("%s has room for the batches of %d processes, not of %d: loading is slower. Make it larger "
                        "(docker run --shm-size=8g).", SHARED_MEMORY, fit, workers)  # fmt: skip
    return min(workers, fit)


def begin(_) -> None:
    """Set up a worker process.

    It ignores SIGTERM, which only the first process of a training handles, after its batch. It ends if a batch cannot
    be passed on: multiprocessing would drop the batch, and the training would wait forever.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    multiprocessing.queues.Queue._on_queue_feeder_error = staticmethod(_end)  # type: ignore[attr-defined]  # a hook for subclasses


def read(batches: DataLoader) -> Iterator:
    """Yield the batches.

    Raises:
        StepError: there was no batch for ten minutes, or a worker ended for an unknown reason.
    """
    waiting, warnings = iter(batches), 0
    while True:
        try:
            batch = next(waiting)
        except StopIteration:
            return
        except (EOFError, ConnectionError) as error:  # it ended before its batch was received
            time.sleep(TOLD_WITHIN)
            raise StepError(f"{READS} ended without a word. {AGAIN}") from error
        except RuntimeError as error:
            if "timed out" not in str(error):
                raise
            warnings += 1
            if warnings == PATIENCE:
                waited = LOOK_AFTER * PATIENCE
                raise StepError(f"the processes that read the training slices gave none for {waited} seconds. "
                                f"See whether the disk with the step's files answers. {AGAIN}") from None  # fmt: skip
            logging.warning("no training slices were read for %d seconds; waiting", LOOK_AFTER * warnings)
            continue
        warnings = 0
        yield batch


@contextlib.contextmanager
def at_work() -> Iterator[None]:
    """Turn torch's errors about an ended worker into a StepError; at the end, kill all workers.

    Raises:
        StepError: a worker ended; with its signal or exit code, and advice.
    """
    try:
        yield
    except RuntimeError as error:
        if why := _worker_end(" ".join(_messages(error))):
            raise StepError(why) from error
        raise
    finally:
        _kill()


def _messages(error: BaseException | None) -> Iterator[str]:
    """Yield the messages of an error and of the errors that caused it."""
    while error is not None:
        yield str(error)
        error = error.__cause__ or error.__context__


def _worker_end(message: str) -> str:
    """Return why a worker ended; "" if torch's message is about something else."""
    if not re.search(r"DataLoader worker \(pid.*(killed by signal|exited unexpectedly)", message):
        return ""
    for number, what in WHAT_TO_DO.items():
        if f"by signal: {signal.strsignal(number)}" in message:
            return f"{READS} was killed ({number.name}), {what}. {AGAIN}"
    if f"exit code {NOT_PASSED_ON}" in message:
        return f"{READS} could not pass them on; the line above says why. {AGAIN}"
    if ended := re.search(r"(?:by signal: |with )(.+?)\.", message):
        return f"{READS} ended ({ended[1]}); the lines above may say why. {AGAIN}"
    return f"{READS} ended without a word. {AGAIN}"


def _end(error: Exception, _) -> None:
    print(f"a batch of training slices cannot be passed on: {type(error).__name__}: {error}", flush=True)
    os._exit(NOT_PASSED_ON)


def _kill() -> None:
    """Kill the workers. Python would send SIGTERM, which they ignore, and wait forever."""
    before = signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # otherwise torch reports their end as a failure
    try:
        for worker in multiprocessing.active_children():
            worker.kill()
            worker.join(timeout=5)
    finally:
        signal.signal(signal.SIGCHLD, before)


def _find_socket_folder() -> bool:
    """Find a folder for multiprocessing's sockets, the usual one or a shorter path; return whether there is one."""
    usual = tempfile.gettempdir()
    for folder in dict.fromkeys((usual, *SHORT_FOLDERS)):
        if _supports_sockets(folder):
            tempfile.tempdir = folder
            try:
                multiprocessing.util.get_temp_dir()  # creates the folder that all workers use
            finally:
                tempfile.tempdir = usual
            return True
    return False


def _supports_sockets(folder: str) -> bool:
    """Return whether a socket can be created there: its path may be too long, or the disk may not support sockets."""
    try:
        with tempfile.TemporaryDirectory(prefix="pymp-", dir=folder) as place, socket.socket(socket.AF_UNIX) as door:
            door.bind(f"{place}/listener-12345678")
    except OSError:
        return False
    return True
