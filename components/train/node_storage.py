"""What the nodes of a training and its step hand each other through object storage: they share no volume."""

import logging
import os
from pathlib import Path

from components.core.step import StepError
from components.core.storage import Storage, work_bucket

INPUTS = ("cases", "slices", "split", "report")
ALIVE = "alive"


class Exchange:
    """`s3://<S3_BUCKET>/exchange/<name>/`: `in/` for the nodes, `out/` for the step, and the step's sign of life."""

    def __init__(self, name: str):
        self.storage = Storage(f"s3://{work_bucket()}/exchange/{name}")

    def offer(self, paths: list[Path]) -> None:
        """Send cases, slices, split and report; what an earlier try sent is not sent again, and its results go."""
        there = {o.key: o.size for o in self.storage.list()}
        self.storage.delete([key for key in there if key.startswith("out/")])
        for name, path in zip(INPUTS, paths, strict=True):
            self._send(f"in/{name}", path, there)

    def fetch(self, folder: Path) -> list[Path]:
        """What was offered, below `folder`: cases, slices, split and report."""
        self._receive("in", folder)
        return [folder / name for name in INPUTS]

    def give(self, model: Path, curves: Path) -> None:
        self._send("out/model", model, {})
        self._send("out/curves", curves, {})

    def take(self, model: Path, curves: Path) -> None:
        """Write what was given to these paths."""
        self._receive("out/model", model)
        curves.write_bytes(self.storage.get("out/curves"))

    def live(self) -> None:
        """The step's sign of life, another one at each call."""
        self.storage.put(ALIVE, os.urandom(8))

    def sign_of_life(self) -> bytes:
        return self.storage.get(ALIVE)

    def remove(self) -> None:
        self.storage.delete([o.key for o in self.storage.list()])

    def _send(self, where: str, path: Path, there: dict[str, int]) -> None:
        if path.is_file():
            self.storage.put(where, path)
            return
        sizes = {f.relative_to(path).as_posix(): f.stat().st_size for f in sorted(path.rglob("*")) if f.is_file()}
        new = [key for key, size in sizes.items() if there.get(f"{where}/{key}") != size]
        logging.info("%s: %d files to send, %.1f MB", where, len(new), sum(sizes[key] for key in new) / 1e6)
        self._below(where).upload(path, new)

    def _receive(self, where: str, folder: Path) -> None:
        place = self._below(where)
        objects = place.list()
        if not objects:
            raise StepError(f"there is nothing in {place.uri}: the training that it belongs to has ended. Run again.")
        place.download(objects, folder)

    def _below(self, where: str) -> Storage:
        return Storage(f"{self.storage.uri}/{where}", self.storage.client)
