"""What surrounds every step: its errors in a person's words, its logs, its end when the run ends."""

import contextlib
import errno
import logging
import os
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterable, Iterator
from typing import TextIO

from tqdm import tqdm

from components.core.text import can_be_shown

ERROR_MARK = "ERROR"
NO_MEMORY = "it does not fit into memory"
NO_ROOM = ("can't allocate memory", "MPS backend out of memory")
TOLD_TO_STOP = 128 + signal.SIGTERM
"""Exit code of a step that SIGTERM ended; a failure's is 1, what a retry needs to tell them apart."""
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NOT_OURS = (errno.EACCES, errno.EPERM, errno.EROFS)


class StepError(Exception):
    """Something that the user can mend: what is wrong, where, and what to do next."""


@contextlib.contextmanager
def step(name: str) -> Iterator[None]:
    """Run one step of the pipeline; on failure the last lines of its log are the reason.

    A `StepError` is printed without a stack; anything else is a fault of ours and keeps its stack,
    with the reason repeated below it. Either way the process ends with exit code 1.
    """
    log_plainly()
    _end_with_the_run()
    try:
        yield
    except StepError as error:
        _fail(name, str(error))
    except Exception as error:  # the outermost door of the process: everything else ends here
        if is_out_of_memory(error):
            _fail(name, "out of memory. Give the step more memory, or lower image_size, batch_size or base_channels.")
        if words := about_the_disk(error):
            _fail(name, words)
        print(without_logins(traceback.format_exc()), end="", flush=True)
        _fail(name, f"unexpected {type(error).__name__}: {error}. This is a fault in the step itself; "
                    "the lines above say where. Please report them.")  # fmt: skip


class PlainStream:
    """A text stream that a terminal or a log reads: nothing that is written steers it or shows a login."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(plain(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str):
        return getattr(self._stream, name)


def plain(text: str) -> str:
    """Return the text without logins in URLs; what steers a terminal, or is no text, stands as `\\x1b`."""
    return without_logins("".join(c if can_be_shown(c) or c in "\n\t" else ascii(c)[1:-1] for c in text))


class Message(logging.Formatter):
    """The message alone; of a library's tries that of one try more."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return _another_try(record) or super().formatMessage(record)


def log_plainly() -> None:
    """All that this process prints or logs becomes plain text; messages go to standard output, a line each."""
    for name in ("stdout", "stderr"):
        if not isinstance(stream := getattr(sys, name), PlainStream):
            setattr(sys, name, PlainStream(stream))
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, force=True)
    for handler in logging.getLogger().handlers:
        handler.setFormatter(Message("%(message)s"))
    for noisy in ("botocore", "boto3", "s3transfer", "urllib3", "mlflow", "alembic", "matplotlib"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def _another_try(record: logging.LogRecord) -> str:
    """What urllib3 says of a request that it sends again, in a sentence; "" for any other message."""
    if not (str(record.msg).startswith("Retrying (%r)") and isinstance(record.args, tuple) and len(record.args) == 3):
        return ""
    left, error, path = record.args
    server = re.search(r"host='([^']+)', port=(\d+)", str(error))
    where = ":".join(server.groups()) if server else f"the server of {path}"
    why = str(error).rpartition(": ")[2].strip("\"')")
    return f"{where} does not answer ({why}); trying again, tries left: {left.total}"


def without_logins(text: str) -> str:
    """The text without the logins that URLs in it may hold."""
    return re.sub(r"(?<=//)[^/\s]+@", "***@", text)


def is_out_of_memory(error: Exception) -> bool:
    """Of Python, of the system, of a GPU, or of torch on a CPU or Apple's GPU, which have no class of their own."""
    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    named = named or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
    named = named or (isinstance(error, ImportError) and "failed to map segment" in str(error))
    return named or (isinstance(error, RuntimeError) and any(words in str(error) for words in NO_ROOM))


@contextlib.contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """Inside, SIGTERM, with which Kubernetes ends a pod, ends the process as Ctrl-C does: it cleans up."""
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(TOLD_TO_STOP))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def about_the_disk(error: BaseException | None) -> str:
    """Where the error, or what it was raised from, is a full disk or a place that is not ours: what to do; else ""."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (*FULL, *NOT_OURS):
            where = f" ({error.filename})" if error.filename else ""
            if error.errno in FULL:
                return f"the disk is full{where}. Make room, then run again: it goes on from here."
            return f"{error.strerror}{where}. Make it yours to read and write, or put it elsewhere, then run again."
        error = error.__cause__ or error.__context__
    return ""


def _fail(name: str, message: str) -> None:
    print(f"{ERROR_MARK} {name}: {without_logins(message)}", flush=True)
    raise SystemExit(1)


def _end_with_the_run() -> None:
    """Where a local run started this process (RUN_PID), end with it, however it ends."""
    run_pid = os.environ.get("RUN_PID")
    if run_pid is None:
        return

    def watch() -> None:
        while True:
            time.sleep(0.5)
            try:
                os.kill(int(run_pid), 0)
            except ProcessLookupError:
                os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True, name="end-with-the-run").start()


def progress(items, total: int | None = None, what: str = ""):
    """A progress bar on a terminal; in a pod's log about ten plain lines in all."""
    if sys.stderr.isatty():
        yield from tqdm(items, total=total, desc=what, leave=False, file=sys.__stderr__)
        return
    total = total if total is not None else len(items)
    shown = -1
    for done, item in enumerate(items, start=1):
        yield item
        if (tenth := done * 10 // max(total, 1)) != shown or done == total:
            shown = tenth
            if total > 1:
                logging.info("%s %d/%d", what, done, total)
