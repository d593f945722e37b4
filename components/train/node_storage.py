"""Object storage between the train step and its nodes, which share no volume."""

import logging
import os
from pathlib import Path

from components.core.errors import StepError
from components.core.storage import Storage, work_bucket
from components.train.training_inputs import TrainingPaths

INPUTS = ("cases", "slices", "split", "data_report")
HEARTBEAT = "alive"


class NodeStorage:
    """`s3://<S3_BUCKET>/exchange/<name>/`: `in/` for the nodes, `out/` for the step, and the step's heartbeat."""

    def __init__(self, name: str):
        self.storage = Storage(f"s3://{work_bucket()}/exchange/{name}")

    def upload_inputs(self, paths: TrainingPaths) -> None:
        """Upload the step's inputs. Skip files that an earlier try uploaded, and delete its results."""
        sizes = {o.key: o.size for o in self.storage.list()}
        self.storage.delete([key for key in sizes if key.startswith("out/")])
        for name in INPUTS:
            self._upload(f"in/{name}", getattr(paths, name), sizes)

    def download_inputs(self, folder: Path) -> TrainingPaths:
        """Download the inputs into `folder`. The paths of the results are in it too."""
        self._download("in", folder / "in")
        return TrainingPaths(*(folder / "in" / name for name in INPUTS), folder / "model", folder / "curves")

    def upload_results(self, paths: TrainingPaths) -> None:
        """Upload the model and the page with the training curve."""
        self._upload("out/model", paths.model, {})
        self._upload("out/curves", paths.curves, {})

    def download_results(self, paths: TrainingPaths) -> None:
        """Download what `upload_results` uploaded.

        Raises:
            StepError: there are no results.
        """
        self._download("out/model", paths.model)
        paths.curves.write_bytes(self.storage.get("out/curves"))

    def beat(self) -> None:
        """Write a new heartbeat: the step is running."""
        self.storage.put(HEARTBEAT, os.urandom(8))

    def heartbeat(self) -> bytes:
        """Return the newest heartbeat."""
        return self.storage.get(HEARTBEAT)

    def remove(self) -> None:
        """Delete everything."""
        self.storage.delete([o.key for o in self.storage.list()])

    def _upload(self, key: str, path: Path, uploaded: dict[str, int]) -> None:
        if path.is_file():
            self.storage.put(key, path)
            return
        sizes = {f.relative_to(path).as_posix(): f.stat().st_size for f in sorted(path.rglob("*")) if f.is_file()}
        new = [name for name, size in sizes.items() if uploaded.get(f"{key}/{name}") != size]
        logging.info("%s: %d files to upload, %.1f MB", key, len(new), sum(sizes[name] for name in new) / 1e6)
        self._below(key).upload(path, new)

    def _download(self, key: str, folder: Path) -> None:
        storage = self._below(key)
        objects = storage.list()
        if not objects:
            raise StepError(f"{storage.uri} is empty: the training that used it has ended. Run the pipeline again.")
        storage.download(objects, folder)

    def _below(self, key: str) -> Storage:
        return Storage(f"{self.storage.uri}/{key}", self.storage.client)
