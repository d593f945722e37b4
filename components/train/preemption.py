"""SIGTERM, with which a pod is preempted and a local run stops its step, ends a training between two batches."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterable, Iterator

from components.core.step import SIGTERM_EXIT_CODE


class Preempted(SystemExit):
    """The end of the process, once what was learnt is kept; its exit code is none of a failure."""

    def __init__(self):
        super().__init__(SIGTERM_EXIT_CODE)


@contextlib.contextmanager
def between_items() -> Iterator[Callable[[Iterable], Iterator]]:
    """Inside, SIGTERM is taken note of: `watched(items)` then raises `Preempted` in the place of the next item."""
    told = threading.Event()

    def watched(items: Iterable) -> Iterator:
        for item in items:
            if told.is_set():
                raise Preempted
            yield item
        if told.is_set():
            raise Preempted

    before = signal.signal(signal.SIGTERM, lambda *_: told.set())
    try:
        yield watched
    finally:
        signal.signal(signal.SIGTERM, before)
    if told.is_set():
        raise Preempted
