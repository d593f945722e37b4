"""The registered model: a NIfTI file in, a lesion mask in that scan's own space out.

MLflow stores this file as the model's code and `best_model.pth` with `model.json` as its data: no pickle.
"""

import json
import threading
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.pyfunc import PythonModel

COLUMNS = ["mask", "lesion_ml", "lesion_ml_low", "lesion_ml_high", "interval_level", "needs_review"]
INSIST = 'If it is a DWI all the same, send "params": {"modality_check": false}.'


class Refused(MlflowException):
    """Which scan cannot be segmented, and why: status 400 over HTTP, where MLflow would add the scan's own bytes."""

    def __init__(self, reason: str):
        super().__init__(reason, INVALID_PARAMETER_VALUE)
        self.reason = reason

    def serialize_as_json(self) -> str:
        return json.dumps({"error_code": self.error_code, "message": self.reason})


class LesionSegmenter(PythonModel):
    """Column `scan` holds `.nii` or `.nii.gz` files as bytes, one a row; any number of rows.

    A model that sees the ADC map too has a column `adc` for it, in any of the usual units.

    Out, row by row: `mask`, a `.nii.gz` file as bytes (uint8, 1 = lesion, with the scan's shape, both forms and their
    codes); `lesion_ml`, its volume in millilitres, and an interval for it, `lesion_ml_low` to `lesion_ml_high` at the
    confidence `interval_level` (None where the model knows none); `needs_review`, why a person should look at it, ""
    where nothing is unusual, None where the model does not know what is usual. With the parameter `probability` also
    `probability`, a calibrated lesion probability for each voxel (float32) as the mask is stored. With `modality_check`
    false a scan is segmented even if its intensities say that it is an ADC map or a b0 image.

    One scan at a time, however many ask: memory stays that of one.
    """

    def load_context(self, context) -> None:
        from components.model.inference import load_model

        folder = Path(context.artifacts["weights"])
        self.network, self.facts = load_model(folder)
        self.one_at_a_time = threading.Lock()

    def predict(self, context, model_input: pd.DataFrame, params: dict | None = None) -> pd.DataFrame:
        """Raises:
        Refused: a scan breaks the input contract, or lacks its ADC map.
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
        return table.astype(object).where(table.notna(), None)  # NaN is no JSON

    def _segment(self, blob: bytes, adc: bytes | None, with_probability: bool, modality_check: bool) -> dict:
        from components.model.calibration import calibrated
        from components.model.inference import predict_volume
        from components.model.lesions import lesion_mask
        from components.model.uncertainty import findings
        from components.scans.adc import in_kept_unit
        from components.scans.head import find_head
        from components.scans.modality import require_dwi
        from components.scans.prediction_mark import PROBABILITY, mark_of_mask
        from components.scans.volumes import BadVolume, nifti_bytes, read_nifti_bytes, require_scan

        for file in (blob,) if adc is None else (blob, adc):
            if not isinstance(file, bytes | bytearray | memoryview):
                raise BadVolume("it did not come as bytes: send the file in JSON (dataframe_split), as base64")
        volume, geometry = read_nifti_bytes(bytes(blob))
        require_scan(volume)
        if adc is not None:
            adc, _ = in_kept_unit(*read_nifti_bytes(bytes(adc)), volume, geometry)
        head = find_head(volume, geometry.voxel_mm)
        if modality_check:
            require_dwi(volume, geometry.voxel_mm, head, INSIST)
        probability = predict_volume(self.network, self.facts, volume, None, adc, geometry.voxel_mm, head)
        mask = lesion_mask(probability, self.facts, geometry.voxel_mm)
        found = findings(probability, mask, volume, geometry.voxel_mm, self.facts, head)

        def stored(data: np.ndarray, mark: str) -> bytes:
            return nifti_bytes(geometry.native(data), geometry.space, mark)

        row = {
            "mask": stored(mask.astype(np.uint8), mark_of_mask(mask)),
            "lesion_ml": found.lesion_ml,
            "lesion_ml_low": found.lesion_ml_low,
            "lesion_ml_high": found.lesion_ml_high,
            "interval_level": found.level,
            "needs_review": "; ".join(found.review) if "seen" in self.facts else None,
        }
        if with_probability:
            row["probability"] = stored(calibrated(probability, self.facts).astype(np.float32), PROBABILITY)
        return row


mlflow.models.set_model(LesionSegmenter())
