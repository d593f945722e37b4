"""What a training costs: seconds of its steps and of its waiting for data, pixels, memory."""

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from functools import cache

import torch

from tests.benchmarks.memory import anonymous_bytes

EVERY_SECONDS = 0.1


@cache
def at_start() -> int:
    """Return this process's memory at the first call, bytes: before it held a scan or a network."""
    return anonymous_bytes(os.getpid())


class Cost:
    """Times the batches that pass through it, and watches this process's memory as long as it is entered.

    On a GPU each batch is waited for, so that steps and loading are told apart.
    """

    def __init__(self) -> None:
        self.step_seconds = self.loading_seconds = self.pixels = self.images = 0.0
        self.memory_bytes = 0
        self._done = threading.Event()

    def batches(self, data: Iterable, size: Callable[[tuple], tuple[int, int]]) -> Iterator:
        """Pass the batches of `data` on; `size` gives the images of a batch and the pixels of an image."""
        waiting = iter(data)
        while True:
            start = time.perf_counter()
            batch = next(waiting, None)
            middle = time.perf_counter()
            if batch is None:
                return
            yield batch
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self.loading_seconds += middle - start
            self.step_seconds += time.perf_counter() - middle
            images, pixels = size(batch)
            self.images += images
            self.pixels += images * pixels

    def __enter__(self) -> "Cost":
        at_start()
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        self._watch = threading.Thread(target=self._look, daemon=True)
        self._watch.start()
        return self

    def __exit__(self, *_) -> None:
        self._done.set()
        self._watch.join()

    def _look(self) -> None:
        while not self._done.wait(EVERY_SECONDS):
            self.memory_bytes = max(self.memory_bytes, anonymous_bytes(os.getpid()) - at_start())

    def as_dict(self) -> dict[str, float]:
        """Return pixels per second of the steps alone and with loading, and the peak of memory, MB.

        On a GPU that is the GPU's memory; else what the process's own memory grew by since its start.
        """
        peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else self.memory_bytes
        both = self.step_seconds + self.loading_seconds
        return {
            "images_per_s": self.images / both,
            "step_pixels_per_s": self.pixels / self.step_seconds,
            "pixels_per_s": self.pixels / both,
            "memory_mb": peak / 1e6,
        }
