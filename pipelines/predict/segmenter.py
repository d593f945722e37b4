"""A registered model, loaded once, and what it makes of one scan after another."""

import ast
import logging
import math
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from components.artifacts.synthetic import is_synthetic
from components.core.code_closure import MODEL, closure_digest
from components.core.errors import OUT_OF_MEMORY, StepError, is_out_of_memory
from components.core.step import without_logins
from components.core.text import shown
from components.ingest.validate import MODALITY_ADVICE
from components.scans.adc import from_b0
from components.scans.b_value import b_value
from components.scans.head import find_head
from components.scans.modality import require_dwi
from components.scans.prediction_mark import mark_of_mask, stamped
from components.scans.volumes import BadVolume, Geometry, file_bytes, nifti_bytes, read_nifti_bytes, require_scan
from pipelines.image_tags import ROOT
from pipelines.models.registry import CHAMPION, no_champion
from pipelines.predict.verified_model import fetch
from pipelines.target import target
from pipelines.target_name import as_argument


@dataclass(frozen=True)
class Prediction:
    """The prediction for a scan. A value is None if the model is too old to give it.

    mask and probability: `.nii.gz` files in the scan's own space. review: why a person should check it, "" if nothing
    is unusual.
    image, lesion: the scan and its mask as arrays (X, Y, S) in RAS+, for a picture. voxel_mm: their voxel size.
    noted: what was assumed about the scan or repaired in its header, one line each.
    """

    mask: bytes
    probability: bytes | None
    lesion_ml: float
    lesion_ml_low: float | None
    lesion_ml_high: float | None
    level: float | None
    review: str | None
    image: np.ndarray
    lesion: np.ndarray
    voxel_mm: tuple[float, float, float] | None = None
    noted: tuple[str, ...] = ()

    @property
    def volume(self) -> str:
        """Return the volume as text: "12.30 mL of lesion (90 % interval 10.10 to 15.00)"."""
        text = f"{self.lesion_ml:.2f} mL of lesion" if self.lesion.any() else "no lesion predicted, 0.00 mL of lesion"
        if self.level is None or self.lesion_ml_low is None or self.lesion_ml_high is None:
            return text
        return f"{text} ({100 * self.level:.0f} % interval {self.lesion_ml_low:.2f} to {self.lesion_ml_high:.2f})"


class Segmenter:
    """Segment scans with a registered model: `Segmenter("models:/dwi-attention-unet@champion", state)`.

    `uri` is the address of the version that an alias means. `place` is the target with the registry; a loaded model
    needs no registry. `digest` confirms a model for which the registry has no digest. `synthetic` is true if the model
    was trained with synthetic scans only.

    Raises:
        StepError: there is no such model, or it differs from the registered one. Then none of its code ran.
    """

    def __init__(self, uri: str, state: Path, place: str = "local", digest: str = ""):
        self._folder = tempfile.TemporaryDirectory()
        os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"
        with target(place).tracking(state):
            tags = self._load(uri, place, digest)
        from components.model.device import in_words

        logging.info("segmenting on %s", in_words())
        self.synthetic = is_synthetic(tags)
        _say_if_code_differs(self.uri, tags)
        self.columns = self.model.metadata.get_input_schema().input_names()
        self.sees_adc = "adc" in self.columns
        self.parameters = {parameter.name for parameter in self.model.metadata.get_params_schema() or ()}

    def _load(self, uri: str, place: str, digest: str) -> dict[str, str]:
        """Fetch the model, verify it and load it; return the tags of the version."""
        import mlflow
        from mlflow.exceptions import MlflowException

        client = mlflow.MlflowClient()
        if uri.strip().rstrip("/") == CHAMPION and (message := no_champion(client, place)):
            raise StepError(message)
        try:
            stored, self.uri, tags = fetch(client, uri, Path(self._folder.name), place, digest)
            _replace_entry_of_older_code(stored)
            self.model = mlflow.pyfunc.load_model(str(stored))
        except (MlflowException, OSError, ImportError) as error:
            raise StepError(
                f"no model {without_logins(shown(uri))}: {shown(str(error), 200)}. Run make pipeline-run"
                f"{as_argument(place)} first, or name another: MODEL=models:/dwi-attention-unet/1."
            ) from None
        return tags

    @property
    def named(self) -> str:
        """Return the model's address, and that it was trained with synthetic scans only if so."""
        return f"{self.uri} (learnt from SYNTHETIC scans alone)" if self.synthetic else self.uri

    @property
    def gives_probabilities(self) -> bool:
        """Return whether the model is new enough to give probabilities."""
        return "probability" in self.parameters

    def require_probabilities(self) -> None:
        """Raise StepError if the model is too old to give probabilities."""
        if not self.gives_probabilities:
            raise StepError(
                f"{self.uri} is too old to give probabilities. Leave PROBABILITY out, or register a new model."
            )

    def segment(
        self,
        scan: Path,
        adc: Path | None = None,
        b0: Path | None = None,
        b_values: list[Path] | None = None,
        probability: bool = False,
        modality_check: bool = True,
    ) -> Prediction:
        """Return the prediction for a NIfTI file. If there is no ADC map, it is computed from `b0`.

        `b_values` are the files beside the scan that can hold its b-value. Without one, the b-value of the training is
        used. `modality_check`: refuse a scan whose intensities show that it is not a DWI.

        Raises:
            BadVolume: the scan breaks the input contract, with the reason.
        """
        import pandas as pd

        try:
            blob = file_bytes(scan)
            image, geometry = read_nifti_bytes(blob)
            require_scan(image)
            if modality_check:
                require_dwi(image, geometry.voxel_mm, find_head(image, geometry.voxel_mm), MODALITY_ADVICE)
            columns, noted = {"scan": [blob]}, geometry.repairs
            if self.sees_adc:
                adc_blob, said = self._adc(adc, b0, b_values or [], image, geometry)
                columns["adc"], noted = [adc_blob], noted + said
            row = self.model.predict(pd.DataFrame(columns), params=self._asked(probability)).iloc[0]
        except OSError as error:
            raise BadVolume(f"it cannot be read ({error.strerror})") from None
        except Exception as error:  # the model's own refusal; its code is loaded with it, and so is its class
            if type(error).__name__ in ("BadVolume", "Refused"):
                raise BadVolume(str(error)) from None
            if is_out_of_memory(error):
                raise BadVolume(OUT_OF_MEMORY) from None
            raise
        low, high, level = (_number(row.get(c)) for c in ("lesion_ml_low", "lesion_ml_high", "interval_level"))
        lesion, _ = read_nifti_bytes(row["mask"])
        mask = stamped(row["mask"], mark_of_mask(lesion))  # that of an old model has no mark yet
        return Prediction(
            mask, row.get("probability"), float(row["lesion_ml"]), low, high, level,
            row.get("needs_review"), image, lesion > 0, geometry.voxel_mm, noted,
        )  # fmt: skip

    def _asked(self, probability: bool) -> dict[str, bool]:
        """Return the parameters for the model that it knows. The modality was checked here, for older models too."""
        asked = {"modality_check": False} | ({"probability": True} if probability else {})
        return {name: value for name, value in asked.items() if name in self.parameters}

    def _adc(
        self, adc: Path | None, b0: Path | None, b_values: list[Path], image: np.ndarray, geometry: Geometry
    ) -> tuple[bytes, tuple[str, ...]]:
        """Return the ADC map as a file, and the lines to note about it."""
        if adc:
            return file_bytes(adc), ()
        if not b0:
            raise BadVolume(
                "the model needs the ADC map, and there is neither an ADC map nor a b0 from which to compute it"
            )
        b = b_value(b_values, _b_value_in_training(self.model))
        computed = from_b0(*read_nifti_bytes(file_bytes(b0)), image, geometry, b.value)
        return nifti_bytes(geometry.native(computed), geometry.space), (*b.notes, f"ADC computed from b0, {b.origin}")


def _say_if_code_differs(uri: str, tags: dict[str, str]) -> None:
    """The modules of this checkout are in use already, and MLflow loads a model's own only where there are none."""
    if "code_sha256" in tags and tags["code_sha256"] != closure_digest(MODEL):
        logging.warning(
            "%s was registered with other code than this checkout's, which segments here: masks may differ from those "
            "it was measured by. make lineage names the commit.", uri,
        )  # fmt: skip


def _replace_entry_of_older_code(model: Path) -> None:
    """Let a model whose entry file imports modules that this checkout has under other names run with this checkout's.

    The modules of `components` are those of this checkout in any case: see `_say_if_code_differs`.
    """
    from mlflow.models import Model

    name = Model.load(str(model)).flavors["python_function"].get("model_code_path")
    if not name or not (entry := model / Path(name).name).is_file():
        return
    imported = {n.module for n in ast.walk(ast.parse(entry.read_bytes())) if isinstance(n, ast.ImportFrom) and n.module}
    ours = {module for module in imported if module.startswith("components.")}
    if not all((ROOT / Path(*module.split(".")).with_suffix(".py")).is_file() for module in ours):
        shutil.copy(ROOT / MODEL, entry)


def _b_value_in_training(model) -> float:
    """Return the setting b_value of the model's training, s/mm²; 0 if unknown."""
    trained = getattr(model.unwrap_python_model(), "trained", None)
    return float(trained.params.get("b_value", 0)) if trained else 0.0


def _number(value) -> float | None:
    return None if value is None or math.isnan(value) else float(value)
