"""A registered model that was packed with this code into an image: no registry, no MLflow."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from components.core.errors import StepError
from components.core.local_files import file_sha256, local_path
from components.model.inference import load_model
from components.model.segment_scan import segment_scan
from pipelines.predict.segmenter import Segmenter

FACTS, CARD, MODEL = "package.json", "model_card.md", "model"
"""The files of a package: its facts, the model card, and the folder of the trained model."""


class Package(BaseModel):
    """What is known about the packed version."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    image: str
    """The image's name, with its tag."""
    uri: str
    """The version's address in the registry."""
    version: str
    model_sha256: str
    """The registry's digest of the version."""
    code_sha256: str
    """The digest of the code that segments."""
    commit: str
    synthetic: bool
    files: dict[str, str]
    """The SHA-256 of each file of the package."""

    @staticmethod
    def read(folder: Path) -> "Package":
        """Read the facts of the package in a folder, and check its files.

        Raises:
            StepError: a file is missing or was altered.
        """
        again = "Load the image again, or build it again: make package."
        try:
            package = Package.model_validate_json((folder / FACTS).read_bytes())
        except (OSError, ValidationError) as error:
            raise StepError(f"{folder / FACTS} cannot be read ({type(error).__name__}). {again}") from None
        for name, digest in package.files.items():
            path = local_path(folder, name)
            if not path.is_file() or file_sha256(path) != digest:
                raise StepError(f"{path} is not the file that was packed. {again}")
        return package


class PackedSegmenter(Segmenter):
    """Segment scans with the model of a package.

    Raises:
        StepError: a file of the package is missing or was altered.
    """

    modality_advice = "If it is a DWI: --no-modality-check."

    def __init__(self, folder: Path):
        package = Package.read(folder)
        self.uri, self.synthetic = package.uri, package.synthetic
        self.network, self.trained = load_model(folder / MODEL)
        self.sees_adc = "adc" in self.trained.inputs
        self.parameters = {"probability", "modality_check"}
        self.b_value_in_training = float(self.trained.params.get("b_value", 0))

    def _row(self, files: dict[str, bytes], parameters: dict[str, bool]) -> Mapping[str, Any]:
        return segment_scan(self.network, self.trained, files["scan"], files.get("adc"), **parameters)
