"""Run a step: report its errors, keep its log plain, and end it when the run ends."""

import contextlib
import logging
import os
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterable, Iterator, Sized
from typing import Any, TextIO, TypeVar

from tqdm import tqdm

from components.core.errors import StepError, disk_advice, is_out_of_memory
from components.core.text import can_be_shown

Item = TypeVar("Item")
ERROR_MARK = "ERROR"
SIGTERM_EXIT_CODE = 128 + signal.SIGTERM
"""Exit code of a step that SIGTERM ended. A retry distinguishes it from a failure, which has exit code 1."""


@contextlib.contextmanager
def step(name: str) -> Iterator[None]:
    """Run one step of the pipeline; if it fails, the last lines of its log give the reason.

    A `StepError` is printed without a stack. Any other error is a fault of this code: it is printed with its stack, and
    the reason below it. In both cases the process ends with exit code 1.
    """
    log_plainly()
    _end_with_the_run()
    try:
        yield
    except StepError as error:
        _fail(name, str(error))
    except Exception as error:
        if is_out_of_memory(error):
            _fail(name, "out of memory. Give the step more memory, or lower image_size, batch_size or base_channels.")
        if advice := disk_advice(error):
            _fail(name, advice)
        print(without_logins(traceback.format_exc()), end="", flush=True)
        _fail(name, f"unexpected {type(error).__name__}: {error}. This is a fault in the code of the step; "
                    "the lines above show where. Please report them.")  # fmt: skip


class PlainStream:
    """A text stream for a terminal or a log: it writes no control characters and no logins."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> int:
        """Write the text without control characters and logins; return its length."""
        self._stream.write(plain(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write several texts."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def plain(text: str) -> str:
    """Return the text without logins in URLs; control characters and invalid text become escapes such as `\\x1b`."""
    return without_logins("".join(c if can_be_shown(c) or c in "\n\t" else ascii(c)[1:-1] for c in text))


class PlainFormatter(logging.Formatter):
    """Show the message alone; rewrite urllib3's message about a retry as a sentence."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Return the line for a log record."""
        return _retry_message(record) or super().formatMessage(record)


def log_plainly() -> None:
    """Make all output of this process plain text; log messages go to standard output, one line each."""
    for name in ("stdout", "stderr"):
        if not isinstance(stream := getattr(sys, name), PlainStream):
            setattr(sys, name, PlainStream(stream))
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, force=True)
    for handler in logging.getLogger().handlers:
        handler.setFormatter(PlainFormatter("%(message)s"))
    for library in ("botocore", "boto3", "s3transfer", "urllib3", "mlflow", "alembic", "matplotlib"):
        logging.getLogger(library).setLevel(logging.WARNING)


def _retry_message(record: logging.LogRecord) -> str:
    """Return a sentence for urllib3's message that it sends a request again; "" for any other message."""
    if not (str(record.msg).startswith("Retrying (%r)") and isinstance(record.args, tuple) and len(record.args) == 3):
        return ""
    left, error, path = record.args
    server = re.search(r"host='([^']+)', port=(\d+)", str(error))
    where = ":".join(server.groups()) if server else f"the server of {path}"
    why = str(error).rpartition(": ")[2].strip("\"')")
    return f"{where} does not answer ({why}); trying again, tries left: {getattr(left, 'total', left)}"


def without_logins(text: str) -> str:
    """Return the text without the logins in its URLs."""
    return re.sub(r"(?<=//)[^/\s]+@", "***@", text)


@contextlib.contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """Let SIGTERM, which Kubernetes sends to end a pod, end the process as Ctrl-C does: with cleaning up."""
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(SIGTERM_EXIT_CODE))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _fail(name: str, message: str) -> None:
    print(f"{ERROR_MARK} {name}: {without_logins(message)}", flush=True)
    raise SystemExit(1)


def _end_with_the_run() -> None:
    """End this process when the local run that started it (RUN_PID) has ended for any reason."""
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


def progress(items: Iterable[Item], total: int | None = None, what: str = "") -> Iterator[Item]:
    """Yield the items, and show a progress bar on a terminal, or about ten plain lines in a log."""
    if sys.stderr.isatty():
        yield from tqdm(items, total=total, desc=what, leave=False, file=sys.__stderr__)
        return
    if total is None:
        total = len(items) if isinstance(items, Sized) else 0
    shown = -1
    for done, item in enumerate(items, start=1):
        yield item
        if (tenth := done * 10 // max(total, 1)) != shown or done == total:
            shown = tenth
            if total > 1:
                logging.info("%s %d/%d", what, done, total)
