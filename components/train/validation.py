"""Validation: the score of each scan after an epoch, and the choice of threshold and smallest lesion after training.

The setting `selection` chooses between two ways. "dice" (preset baseline): weights by the mean Dice of the scans, and
the threshold with the best mean Dice. "patients": weights by the mean score of the patients over some epochs, and the
threshold nearest to 0.5 whose mean score is within one standard error of the best.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch import nn

from components.artifacts.cases import Case
from components.artifacts.trained_model import TrainedModel
from components.model.inference import native_probability, stack_logits
from components.model.lesions import TOUCHING, kept_components, smallest_voxels
from components.model.losses import LOSSES
from components.model.network import AttentionUNet
from components.scans.volumes import read
from components.train.data import GridCase

THRESHOLDS = np.arange(1, 20) / 20
SMALLEST = {
    "smallest_lesion_ml": (0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0),
    "smallest_lesion_voxels": (0, 2, 3, 5, 10, 20, 50, 100),
}
"""Sizes to choose from. The largest is still a small infarct."""
SMALL = {"smallest_lesion_ml": 0.1, "smallest_lesion_voxels": 5}
"""A larger size must raise lesion-wise F1 too, not Dice only."""
FALSE_ML = 10.0
"""Volume found in a scan without a lesion that gives the score 0; smaller volumes cost in proportion."""
SMOOTHED_EPOCHS = 3
FEWEST_PATIENTS = 10
"""With fewer validation patients the threshold is 0.5."""


@dataclass(frozen=True)
class ValidatedScan:
    """The results of a validation scan at threshold 0.5."""

    patient: str
    loss: float
    dice: float
    score: float
    """See `scan_score`."""


def dice(both: int, predicted: int, truth: int) -> float:
    """Return 2 |P and T| / (|P| + |T|), from numbers of voxels; 1 if both masks are empty."""
    return 2 * both / (predicted + truth) if predicted + truth else 1.0


def scan_score(both: int, predicted: int, truth: int, voxel_ml: float) -> float:
    """Return the Dice of a scan with a lesion; without one, 1 less the false volume divided by 10 mL, at least 0."""
    return dice(both, predicted, truth) if truth else max(0.0, 1 - predicted * voxel_ml / FALSE_ML)


def patient_mean(patients: list[str], values: np.ndarray) -> np.ndarray:
    """Return the mean of each patient's scans (patients, ...) of values (scans, ...)."""
    values = np.asarray(values)
    return np.stack([values[[p == patient for p in patients]].mean(0) for patient in dict.fromkeys(patients)])


def mean_score(scans: list[ValidatedScan]) -> float:
    """Return the mean score over patients."""
    return float(patient_mean([scan.patient for scan in scans], np.array([scan.score for scan in scans])).mean())


def validate(network: AttentionUNet, cases: Iterable[GridCase], loss: str, precision: str) -> list[ValidatedScan]:
    """Measure each validation scan, with all its slices, on the model grid."""
    network.eval()
    scans = []
    for case in cases:
        logits = stack_logits(network, np.load(case.image, mmap_mode="r"), case.order, precision)
        truth = np.load(case.mask)
        value = float(LOSSES[loss](torch.from_numpy(logits), torch.from_numpy(truth).float()))
        predicted = logits > 0
        counts = int((predicted & (truth > 0)).sum()), int(predicted.sum()), int(truth.sum())
        scans.append(ValidatedScan(case.patient, value, dice(*counts), scan_score(*counts, case.pixel_ml)))
    return scans


def choose_threshold(
    network: nn.Module,
    trained: TrainedModel,
    folder: Path,
    cases: Mapping[str, Case],
    validation: list[GridCase],
) -> tuple[TrainedModel, float]:
    """Choose the threshold on the validation scans in native space; with `cca` then the smallest lesion to keep.

    The smallest lesion is in mL if all these scans have a voxel size, else in voxels; of equally good sizes the
    smallest. Both chosen together would overfit a few patients.

    Args:
        network: The trained network.
        trained: The model without a threshold.
        folder: The scans of `cases`, in native space.
        cases: Name to case.
        validation: The validation cases on the model grid.

    Returns:
        The model with them, and the mean Dice of the scans.
    """
    all_sized = all(cases[scan.case].voxel_mm for scan in validation)
    unit = "smallest_lesion_ml" if all_sized else "smallest_lesion_voxels"
    sizes = SMALLEST[unit] if trained.cca else (0,)
    dices, f1s = np.zeros((2, len(validation), len(THRESHOLDS), len(sizes)))
    scores = np.zeros((len(validation), len(THRESHOLDS)))
    for row, scan in enumerate(validation):
        case = cases[scan.case]
        probability = native_probability(
            network, trained, np.load(scan.image, mmap_mode="r"), scan.order, scan.placement
        )
        truth = read(folder / case.files["mask"])[0] > 0
        voxel_ml = float(np.prod(case.voxel_mm)) / 1000 if case.voxel_mm else scan.native_ml
        voxels = [smallest_voxels(**{unit: size}, voxel_mm=case.voxel_mm) for size in sizes]
        for column, threshold in enumerate(THRESHOLDS):
            predicted = probability >= threshold
            counts = int((predicted & truth).sum()), int(predicted.sum()), int(truth.sum())
            scores[row, column] = scan_score(*counts, voxel_ml)
            dices[row, column], f1s[row, column] = _by_size(predicted, truth, voxels)
    patients = [scan.patient for scan in validation]
    if trained.selection == "patients":
        row = _within_one_standard_error(patient_mean(patients, scores))
    else:
        mean = dices[:, :, 0].mean(0)
        row = min(np.flatnonzero(mean == mean.max()).tolist(), key=_from_one_half)
    mean, f1 = dices[:, row].mean(0), f1s[:, row].mean(0)
    column = _best_size(mean, f1, sizes, SMALL[unit])
    chosen: dict[str, Any] = {"threshold": float(THRESHOLDS[row])}
    if trained.cca:
        chosen |= {unit: sizes[column], "params": {**trained.params, unit: sizes[column]}}
    return trained.model_copy(update=chosen), float(mean[column])


def _from_one_half(row: int) -> float:
    return abs(THRESHOLDS[row] - 0.5)


def _within_one_standard_error(scores: np.ndarray) -> int:
    """Return the index of the threshold nearest to 0.5 whose mean score is within one standard error of the best.

    scores: (patients, thresholds). The standard error is that of the best mean.
    """
    middle = int(np.argmin(np.abs(THRESHOLDS - 0.5)))
    if len(scores) < FEWEST_PATIENTS:
        return middle
    mean = scores.mean(0)
    best = int(mean.argmax())
    error = scores[:, best].std(ddof=1) / np.sqrt(len(scores))
    return min(np.flatnonzero(mean >= mean[best] - error).tolist(), key=_from_one_half)


def _best_size(dices: np.ndarray, f1s: np.ndarray, sizes: tuple, small: float) -> int:
    """Return the index of the size with the best mean Dice; one above `small` must raise lesion-wise F1 too."""
    few = [column for column, size in enumerate(sizes) if size <= small]
    best = max(few, key=lambda column: dices[column])
    better = [c for c in range(len(sizes)) if c not in few and dices[c] > dices[best] and f1s[c] > f1s[best]]
    return max(better, key=lambda column: dices[column], default=best)


def _by_size(predicted: np.ndarray, truth: np.ndarray, voxels: list[float]) -> tuple[list[float], list[float]]:
    """Return Dice and lesion-wise F1 of the prediction without components below each of these numbers of voxels."""
    if len(voxels) == 1:
        return [dice(int((predicted & truth).sum()), int(predicted.sum()), int(truth.sum()))], [0.0]
    components, count = ndimage.label(predicted, TOUCHING)
    lesions, n_true = ndimage.label(truth, TOUCHING)
    size, hit = (np.bincount(c, minlength=count + 1)[1:] for c in (components.ravel(), components[truth]))
    touching = np.unique(np.stack([components[truth & predicted], lesions[truth & predicted]]), axis=1)
    dices, f1s = [], []
    for least in voxels:
        kept = kept_components(size, least)
        found = len(np.unique(touching[1, kept[touching[0] - 1]])) if touching.size else 0
        false = int((kept & (hit == 0)).sum())
        wrong = false + n_true - found
        dices.append(dice(int(hit[kept].sum()), int(size[kept].sum()), int(truth.sum())))
        f1s.append(found / (found + wrong / 2) if found + wrong else 1.0)
    return dices, f1s
