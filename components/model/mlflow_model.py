"""The registered model: reads a NIfTI file, returns a lesion mask in the scan's own space.

MLflow stores this file as the model's code, and as its data `model.json` with the weights, in `best_model.safetensors`
and `best_model.pth`. Nothing is unpickled: the network is loaded from `best_model.safetensors`.
"""

import json
import threading
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.pyfunc import PythonModel

COLUMNS = ["mask", "lesion_ml", "lesion_ml_low", "lesion_ml_high", "interval_level", "needs_review"]
MODALITY_ADVICE = 'If it is a DWI, send "params": {"modality_check": false}.'


class Refused(MlflowException):
    """A scan cannot be segmented: status 400 over HTTP. MLflow's own message would contain the bytes of the scan."""

    def __init__(self, reason: str):
        super().__init__(reason, INVALID_PARAMETER_VALUE)
        self.reason = reason

    def serialize_as_json(self) -> str:
        return json.dumps({"error_code": self.error_code, "message": self.reason})


class LesionSegmenter(PythonModel):
    """The model as MLflow calls it.

    Input: the column `scan` holds one `.nii` or `.nii.gz` file per row, as bytes; any number of rows. The column `adc`
    holds the ADC maps, in any of the usual units, for a model that was trained with them.

    Output, one row per scan:
        mask: `.nii.gz` file as bytes (uint8, 1 = lesion), with the scan's shape, sform, qform and their codes.
        lesion_ml: Volume in mL, with the interval `lesion_ml_low` to `lesion_ml_high` at the confidence
            `interval_level`; None if the model has not learnt it.
        needs_review: Why a person should look at the scan; "" if nothing is unusual, None if the model has not learnt
            what is usual.
        probability: With the parameter `probability`: the calibrated lesion probability of each voxel (float32), as a
            file like `mask`.

    With the parameter `modality_check` false, a scan is segmented even if its intensities are those of an ADC map or a
    b0 image. Scans are segmented one at a time, so memory is that of one scan.
    """

    def load_context(self, context: Any) -> None:
        """Load network and `model.json`; MLflow calls this once."""
        from components.model.inference import load_model

        folder = Path(context.artifacts["weights"])
        self.network, self.trained = load_model(folder)
        self.one_at_a_time = threading.Lock()

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict | None = None) -> pd.DataFrame:
        """Segment each row.

        Raises:
            Refused: a scan is invalid, or its ADC map is missing.
        """
        from components.core.errors import OUT_OF_MEMORY, is_out_of_memory
        from components.scans.volumes import BadVolume

        asked = {"probability": False, "modality_check": True, **(params or {})}
        columns = [*COLUMNS, "probability"] if asked["probability"] else COLUMNS
        adcs = model_input["adc"] if "adc" in model_input else [None] * len(model_input)
        rows = []
        for number, (scan, adc) in enumerate(zip(model_input["scan"], adcs, strict=True), start=1):
            try:
                with self.one_at_a_time:
                    rows.append(self._segment(scan, adc, asked["probability"], asked["modality_check"]))
            except Exception as error:
                if not isinstance(error, BadVolume) and not is_out_of_memory(error):
                    raise
                which = f"scan {number} of {len(model_input)}: " if len(model_input) > 1 else ""
                raise Refused(f"{which}{error if isinstance(error, BadVolume) else OUT_OF_MEMORY}") from None
        table = pd.DataFrame(rows, columns=columns)
        return table.astype(object).where(table.notna(), None)  # JSON has no NaN

    def _segment(self, blob: bytes, adc: bytes | None, with_probability: bool, modality_check: bool) -> dict:
        from components.model.calibration import calibrated
        from components.model.inference import predict_volume
        from components.model.lesions import lesion_mask
        from components.model.uncertainty import assess
        from components.scans.adc import in_kept_unit
        from components.scans.head import find_head
        from components.scans.modality import require_dwi
        from components.scans.prediction_mark import PROBABILITY, mark_of_mask
        from components.scans.volumes import BadVolume, nifti_bytes, read_nifti_bytes, require_scan

        for file in (blob,) if adc is None else (blob, adc):
            if not isinstance(file, bytes | bytearray | memoryview):
                raise BadVolume("it is not bytes: send the file in JSON (dataframe_split), as base64")
        volume, geometry = read_nifti_bytes(bytes(blob))
        require_scan(volume)
        adc_map = None
        if adc is not None:
            adc_map, _ = in_kept_unit(*read_nifti_bytes(bytes(adc)), volume, geometry)
        head = find_head(volume, geometry.voxel_mm)
        if modality_check:
            require_dwi(volume, geometry.voxel_mm, head, MODALITY_ADVICE)
        probability = predict_volume(self.network, self.trained, volume, None, adc_map, geometry.voxel_mm, head)
        mask = lesion_mask(probability, self.trained, geometry.voxel_mm)
        found = assess(probability, mask, volume, geometry.voxel_mm, self.trained, head)

        def stored(data: np.ndarray, mark: str) -> bytes:
            return nifti_bytes(geometry.native(data), geometry.space, mark)

        row = {
            "mask": stored(mask.astype(np.uint8), mark_of_mask(mask)),
            "lesion_ml": found.lesion_ml,
            "lesion_ml_low": found.lesion_ml_low,
            "lesion_ml_high": found.lesion_ml_high,
            "interval_level": found.level,
            "needs_review": "; ".join(found.review) if self.trained.seen is not None else None,
        }
        if with_probability:
            row["probability"] = stored(calibrated(probability, self.trained).astype(np.float32), PROBABILITY)
        return row


mlflow.models.set_model(LesionSegmenter())
