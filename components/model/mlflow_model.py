"""The registered model: reads a NIfTI file, returns a lesion mask in the scan's own space.

MLflow stores this file as the model's code, and as its data `model.json` with the weights, in `best_model.safetensors`
and `best_model.pth`. Nothing is unpickled: the network is loaded from `best_model.safetensors`.
"""

import json
import threading
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.pyfunc import PythonModel

COLUMNS = ["mask", "lesion_ml", "lesion_ml_low", "lesion_ml_high", "interval_level", "needs_review"]


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
        from components.model.segment_scan import segment_scan
        from components.scans.volumes import BadVolume

        asked = {"probability": False, "modality_check": True, **(params or {})}
        columns = [*COLUMNS, "probability"] if asked["probability"] else COLUMNS
        adcs = model_input["adc"] if "adc" in model_input else [None] * len(model_input)
        rows = []
        for number, (scan, adc) in enumerate(zip(model_input["scan"], adcs, strict=True), start=1):
            try:
                with self.one_at_a_time:
                    rows.append(segment_scan(self.network, self.trained, scan, adc, **asked))
            except Exception as error:
                if not isinstance(error, BadVolume) and not is_out_of_memory(error):
                    raise
                which = f"scan {number} of {len(model_input)}: " if len(model_input) > 1 else ""
                raise Refused(f"{which}{error if isinstance(error, BadVolume) else OUT_OF_MEMORY}") from None
        table = pd.DataFrame(rows, columns=columns)
        return table.astype(object).where(table.notna(), None)  # JSON has no NaN


mlflow.models.set_model(LesionSegmenter())
