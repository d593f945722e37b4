"""The registered model: a NIfTI file in, a lesion mask in that scan's own space out.

MLflow stores this file as the model's code and `best_model.pth` with `model.json` as its data: no pickle.
"""

from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
from mlflow.pyfunc import PythonModel

MIN_SLICES = 3


class LesionSegmenter(PythonModel):
    """Column `scan` holds `.nii` or `.nii.gz` files as bytes, one a row; any number of rows.

    A model that sees the ADC map too has a column `adc` for it, in any of the usual units.

    Out, row by row: `mask`, a `.nii.gz` file as bytes (uint8, 1 = lesion, the scan's shape and affine), and
    `lesion_ml`, its volume in millilitres.
    """

    def load_context(self, context) -> None:
        from components.unet.inference import load_model

        folder = Path(context.artifacts["weights"])
        self.network, self.facts = load_model(folder)

    def predict(self, context, model_input: pd.DataFrame, params: dict | None = None) -> pd.DataFrame:
        adcs = model_input["adc"] if "adc" in model_input else [None] * len(model_input)
        rows = [self._segment(bytes(scan), adc) for scan, adc in zip(model_input["scan"], adcs, strict=True)]
        return pd.DataFrame(rows, columns=["mask", "lesion_ml"])

    def _segment(self, blob: bytes, adc: bytes | None) -> tuple[bytes, float]:
        from components.core.adc import in_kept_unit
        from components.core.volumes import BadVolume, nifti_bytes, read_nifti_bytes
        from components.unet.inference import predict_volume
        from components.unet.lesions import lesion_mask

        volume, geometry = read_nifti_bytes(blob)
        if not np.isfinite(volume).all() or volume.min() == volume.max():
            raise BadVolume("the scan is constant, or holds values that are NaN or infinite")
        if volume.shape[2] < MIN_SLICES:
            raise BadVolume(f"{volume.shape[2]} slices, at least {MIN_SLICES} are needed")
        if adc is not None:
            adc, _ = in_kept_unit(*read_nifti_bytes(bytes(adc)), volume, geometry)
        probability = predict_volume(self.network, self.facts, volume, adc=adc)
        mask = lesion_mask(probability, self.facts, geometry.voxel_mm)
        ml = float(mask.sum() * np.prod(geometry.voxel_mm) / 1000)
        return nifti_bytes(geometry.native(mask.astype(np.uint8)), geometry.affine), ml


mlflow.models.set_model(LesionSegmenter())
