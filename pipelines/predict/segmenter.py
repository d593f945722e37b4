"""What a model makes of one scan after another, whichever way it was loaded."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from components.core.errors import OUT_OF_MEMORY, StepError, is_out_of_memory
from components.scans.adc import from_b0
from components.scans.b_value import b_value
from components.scans.head import find_head
from components.scans.modality import require_dwi
from components.scans.prediction_mark import mark_of_mask, stamped
from components.scans.volumes import BadVolume, Geometry, file_bytes, nifti_bytes, read_nifti_bytes, require_scan


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


class Segmenter(ABC):
    """Segment scans with a loaded model.

    `uri` is the model's address, with its version. `synthetic` is true if it was trained with synthetic scans only.
    `sees_adc`: it needs the ADC map too. `parameters`: the names of those that it knows. `b_value_in_training`: s/mm²,
    0 if unknown. `modality_advice`: what to do if a DWI is taken for another image.
    """

    uri: str
    synthetic: bool
    sees_adc: bool
    parameters: set[str]
    b_value_in_training: float
    modality_advice: str

    @abstractmethod
    def _row(self, files: dict[str, bytes], parameters: dict[str, bool]) -> Mapping[str, Any]:
        """Return what the model gives for the file `scan`, and `adc` if it sees it, as `LesionSegmenter` does."""

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
        try:
            blob = file_bytes(scan)
            image, geometry = read_nifti_bytes(blob)
            require_scan(image)
            if modality_check:
                require_dwi(image, geometry.voxel_mm, find_head(image, geometry.voxel_mm), self.modality_advice)
            files, noted = {"scan": blob}, geometry.repairs
            if self.sees_adc:
                adc_blob, said = self._adc(adc, b0, b_values or [], image, geometry)
                files["adc"], noted = adc_blob, noted + said
            row = self._row(files, self._asked(probability))
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
        b = b_value(b_values, self.b_value_in_training)
        computed = from_b0(*read_nifti_bytes(file_bytes(b0)), image, geometry, b.value)
        return nifti_bytes(geometry.native(computed), geometry.space), (*b.notes, f"ADC computed from b0, {b.origin}")


def _number(value) -> float | None:
    return None if value is None or math.isnan(value) else float(value)
