"""The processes that read training slices for a GPU: how many there are, where they meet, what is said of their end.

Each passes its batches on through shared memory, which it hands over at a socket in a folder for temporary files.
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
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 (how large it is: nothing is written there)
SHORT_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm")  # noqa: S108 (multiprocessing makes a folder of its own there)
LOOK_AFTER, PATIENCE = 60, 10
"""Seconds without a batch until it is said, and how often it is said before the step ends."""
TOLD_WITHIN = 5
"""Seconds within which torch is told by the system that a worker has ended, and why."""
READS, AGAIN = "a process that reads training slices", "Run again: training goes on from its last epoch."
NOT_PASSED_ON = 3
"""Exit code of a worker that could not pass a batch on."""
WHAT_TO_DO = {
    signal.SIGKILL: "as a system does whose memory runs out. Give the step more memory, or lower batch_size or "
    "image_size",
    signal.SIGBUS: f"as where {SHARED_MEMORY} is full. Make it larger (docker run --shm-size=8g), or lower batch_size",
}
"""What ended a worker that had no time for a word of its own."""


def with_room(workers: int, batch_bytes: int) -> int:
    """So many workers that what they have ready fits into shared memory and can be passed on; 0: this process reads."""
    if not workers:
        return 0
    if not _meet():
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
    """What a worker does first.

    A SIGTERM to all processes of a training is for its first one, which has a batch to finish. A batch that cannot be
    passed on ends the worker: multiprocessing would drop it, and the training would wait for it for ever.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    multiprocessing.queues.Queue._on_queue_feeder_error = staticmethod(_end)


def read(batches: DataLoader) -> Iterator:
    """The batches.

    Raises:
        StepError: the workers give none for ten minutes, or one ended and the system does not tell why.
    """
    waiting, said = iter(batches), 0
    while True:
        try:
            batch = next(waiting)
        except StopIteration:
            return
        except (EOFError, ConnectionError) as error:  # it ended before what it passed on was taken
            time.sleep(TOLD_WITHIN)
            raise StepError(f"{READS} ended without a word. {AGAIN}") from error
        except RuntimeError as error:
            if "timed out" not in str(error):
                raise
            said += 1
            if said == PATIENCE:
                waited = LOOK_AFTER * PATIENCE
                raise StepError(f"the processes that read the training slices gave none for {waited} seconds. "
                                f"See whether the disk with the step's files answers. {AGAIN}") from None  # fmt: skip
            logging.warning("no training slices were read for %d seconds; waiting", LOOK_AFTER * said)
            continue
        said = 0
        yield batch


@contextlib.contextmanager
def at_work() -> Iterator[None]:
    """Inside, a worker that ends, which torch tells at any moment, is a StepError; at the end no worker is left.

    Raises:
        StepError: which signal or exit code ended it, and what to do.
    """
    try:
        yield
    except RuntimeError as error:
        if why := _why(" ".join(_messages(error))):
            raise StepError(why) from error
        raise
    finally:
        _kill()


def _messages(error: BaseException | None) -> Iterator[str]:
    """What the error says, and what those say that it was raised from: one of them may know more."""
    while error is not None:
        yield str(error)
        error = error.__cause__ or error.__context__


def _why(torch_says: str) -> str:
    """Why a worker ended; "" where torch speaks of something else."""
    if not re.search(r"DataLoader worker \(pid.*(killed by signal|exited unexpectedly)", torch_says):
        return ""
    for number, what in WHAT_TO_DO.items():
        if f"by signal: {signal.strsignal(number)}" in torch_says:
            return f"{READS} was killed ({number.name}), {what}. {AGAIN}"
    if f"exit code {NOT_PASSED_ON}" in torch_says:
        return f"{READS} could not pass them on; the line above says why. {AGAIN}"
    if ended := re.search(r"(?:by signal: |with )(.+?)\.", torch_says):
        return f"{READS} ended ({ended[1]}); the lines above may say why. {AGAIN}"
    return f"{READS} ended without a word. {AGAIN}"


def _end(error: Exception, _) -> None:
    print(f"a batch of training slices cannot be passed on: {type(error).__name__}: {error}", flush=True)
    os._exit(NOT_PASSED_ON)


def _kill() -> None:
    """End the workers. Python would tell them by SIGTERM, which they pass over, and wait for them for ever."""
    before = signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # or torch takes their end for a failure of its own
    try:
        for worker in multiprocessing.active_children():
            worker.kill()
            worker.join(timeout=5)
    finally:
        signal.signal(signal.SIGCHLD, before)


def _meet() -> bool:
    """Whether multiprocessing has a folder for its sockets: the usual one, or one with a shorter path."""
    usual = tempfile.gettempdir()
    for folder in dict.fromkeys((usual, *SHORT_FOLDERS)):
        if _takes_a_socket(folder):
            tempfile.tempdir = folder
            try:
                multiprocessing.util.get_temp_dir()  # made now, and kept for all workers
            finally:
                tempfile.tempdir = usual
            return True
    return False


def _takes_a_socket(folder: str) -> bool:
    """Whether a socket can be made where multiprocessing would: its path may be too long, or the disk takes none."""
    try:
        with tempfile.TemporaryDirectory(prefix="pymp-", dir=folder) as place, socket.socket(socket.AF_UNIX) as door:
            door.bind(f"{place}/listener-12345678")
    except OSError:
        return False
    return True
