"""Download the files of a registered version: its model, and the artifacts of its MLflow run."""

import tempfile
from pathlib import Path
from typing import Any

from components.registry.mlflow_requests import log_while_waiting
from pipelines.models.link_report import NotReached


class VersionFiles:
    """Files of a registered model and of its MLflow run. Each is downloaded once, when it is first needed."""

    def __init__(self, version: Any, folder: Path) -> None:
        self.version, self.folder = version, folder
        self.downloaded: dict[str, Path | NotReached] = {}

    def model(self) -> Path:
        """Return the folder of the registered model."""
        uri = f"models:/{self.version.name}/{self.version.version}"
        return self._download("the registry's storage", artifact_uri=uri)

    def model_file(self, name: str) -> Path:
        """Return a file of the registered model.

        Raises:
            NotReached: it cannot be downloaded or is missing.
        """
        found = next(self.model().rglob(name), None)
        if found is None:
            raise NotReached(f"the registered model has no {name}")
        return found

    def of_run(self, name: str) -> Path:
        """Return an artifact of the MLflow run.

        Raises:
            NotReached: it cannot be downloaded.
        """
        return self.of_other_run(self.version.run_id, name)

    def of_other_run(self, run_id: str, name: str) -> Path:
        """Return an artifact of another MLflow run: that of a network of an ensemble.

        Raises:
            NotReached: it cannot be downloaded.
        """
        return self._download(f"MLflow run {run_id}", run_id=run_id, artifact_path=name)

    def _download(self, where: str, **what: str) -> Path:
        import mlflow

        key = "/".join(what.values())
        if key not in self.downloaded:
            try:
                folder = tempfile.mkdtemp(dir=self.folder)
                with log_while_waiting(" ".join(what.values())):
                    self.downloaded[key] = Path(mlflow.artifacts.download_artifacts(**what, dst_path=folder))
            except Exception as error:  # from MLflow, HTTP or the storage behind it
                reason = " ".join(str(error).split())[:160]
                self.downloaded[key] = NotReached(f"{where} does not give it: {reason}")
        if isinstance(found := self.downloaded[key], NotReached):
            raise found
        return found
