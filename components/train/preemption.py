"""SIGTERM, with which a pod is preempted and a local run stops its step, ends a training between two batches."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterable, Iterator

from components.core.step import SIGTERM_EXIT_CODE


class Preempted(SystemExit):
    """Ends the process after the progress was saved, with the exit code of SIGTERM."""

    def __init__(self):
        super().__init__(SIGTERM_EXIT_CODE)


@contextlib.contextmanager
def between_items() -> Iterator[Callable[[Iterable], Iterator]]:
    """Catch SIGTERM inside: `watched(items)` then raises `Preempted` instead of the next item."""
    stopped = threading.Event()

    def watched(items: Iterable) -> Iterator:
        for item in items:
            if stopped.is_set():
                raise Preempted
            yield item
        if stopped.is_set():
            raise Preempted

    before = signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    try:
        yield watched
    finally:
        signal.signal(signal.SIGTERM, before)
    if stopped.is_set():
        raise Preempted
