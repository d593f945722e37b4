"""Segment one scan that is given as the bytes of a NIfTI file."""

from typing import Any

import numpy as np
from torch import nn

from components.artifacts.trained_model import TrainedModel
from components.model.calibration import calibrated
from components.model.inference import predict_volume
from components.model.lesions import lesion_mask
from components.model.uncertainty import assess
from components.scans.adc import in_kept_unit
from components.scans.head import find_head
from components.scans.modality import require_dwi
from components.scans.prediction_mark import PROBABILITY, mark_of_mask
from components.scans.volumes import BadVolume, nifti_bytes, read_nifti_bytes, require_scan

MODALITY_ADVICE = 'If it is a DWI, send "params": {"modality_check": false}.'


def segment_scan(
    network: nn.Module,
    trained: TrainedModel,
    scan: bytes,
    adc: bytes | None = None,
    probability: bool = False,
    modality_check: bool = True,
) -> dict[str, Any]:
    """Return the mask of a scan as a file, its volume with an interval, and why a person should look at it.

    Args:
        network: The trained network.
        trained: Its model.
        scan: A `.nii` or `.nii.gz` file.
        adc: The scan's ADC map, as such a file; None if there is none.
        probability: Return the calibrated lesion probabilities too.
        modality_check: Refuse a scan with the intensities of an ADC map or a b0 image.

    Returns:
        The row that `LesionSegmenter` describes.

    Raises:
        BadVolume: the scan is invalid, or its ADC map is missing.
    """
    for file in (scan,) if adc is None else (scan, adc):
        if not isinstance(file, bytes | bytearray | memoryview):
            raise BadVolume("it is not bytes: send the file in JSON (dataframe_split), as base64")
    volume, geometry = read_nifti_bytes(bytes(scan))
    require_scan(volume)
    adc_map = None
    if adc is not None:
        adc_map, _ = in_kept_unit(*read_nifti_bytes(bytes(adc)), volume, geometry)
    head = find_head(volume, geometry.voxel_mm)
    if modality_check:
        require_dwi(volume, geometry.voxel_mm, head, MODALITY_ADVICE)
    predicted = predict_volume(network, trained, volume, None, adc_map, geometry.voxel_mm, head)
    mask = lesion_mask(predicted, trained, geometry.voxel_mm)
    found = assess(predicted, mask, volume, geometry.voxel_mm, trained, head)

    def stored(data: np.ndarray, mark: str) -> bytes:
        return nifti_bytes(geometry.native(data), geometry.space, mark)

    row = {
        "mask": stored(mask.astype(np.uint8), mark_of_mask(mask)),
        "lesion_ml": found.lesion_ml,
        "lesion_ml_low": found.lesion_ml_low,
        "lesion_ml_high": found.lesion_ml_high,
        "interval_level": found.level,
        "needs_review": "; ".join(found.review) if trained.seen is not None else None,
    }
    if probability:
        row["probability"] = stored(calibrated(predicted, trained).astype(np.float32), PROBABILITY)
    return row
