"""How a training is judged: each validation patient's worth, and the threshold and lesion size that they choose.

`selection` says how. "dice", the user's own: mean Dice of the scans at each epoch, and the threshold with the best mean
Dice. "patients": mean worth of the patients over some epochs, and the threshold nearest to 0.5 that is as good as the
best within one standard error.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage

from components.model.inference import load_model, native_probability, stack_logits
from components.model.lesions import TOUCHING, kept_components, smallest_voxels
from components.model.losses import LOSSES
from components.model.network import AttentionUNet
from components.scans.volumes import read
from components.train.data import CaseSlices

THRESHOLDS = np.arange(1, 20) / 20
SMALLEST = {
    "smallest_lesion_ml": (0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0),
    "smallest_lesion_voxels": (0, 2, 3, 5, 10, 20, 50, 100),
}
"""Sizes to choose from; the largest of them is still a small infarct."""
SMALL = {"smallest_lesion_ml": 0.1, "smallest_lesion_voxels": 5}
"""A larger size must gain lesion-wise F1 too, not Dice alone."""
FALSE_ML = 10.0
"""Volume found in a patient without a lesion that makes the patient worth 0; less costs in proportion."""
SMOOTHED_EPOCHS = 3
FEWEST_PATIENTS = 10
"""Fewer validation patients choose no threshold: it is 0.5."""


@dataclass(frozen=True)
class Score:
    """A validation scan at threshold 0.5. worth: its Dice or, without a lesion, 1 less its false volume over 10 mL."""

    patient: str
    loss: float
    dice: float
    worth: float


def dice(both: int, predicted: int, truth: int) -> float:
    """2 |P and T| / (|P| + |T|); 1 where both are empty."""
    return 2 * both / (predicted + truth) if predicted + truth else 1.0


def worth(both: int, predicted: int, truth: int, voxel_ml: float) -> float:
    """Dice of a scan with a lesion; of one without 1 less its false volume over 10 mL, at least 0."""
    return dice(both, predicted, truth) if truth else max(0.0, 1 - predicted * voxel_ml / FALSE_ML)


def patient_mean(patients: list[str], values: np.ndarray) -> np.ndarray:
    """Values (scans, ...) to the mean of each patient's scans (patients, ...)."""
    values = np.asarray(values)
    return np.stack([values[[p == patient for p in patients]].mean(0) for patient in dict.fromkeys(patients)])


def validate(network: AttentionUNet, cases: list[CaseSlices], loss: str, precision: str) -> list[Score]:
    """Score each whole validation scan, every slice, on the model grid."""
    network.eval()
    scores = []
    for case in cases:
        logits = stack_logits(network, np.load(case.image, mmap_mode="r"), case.order, precision)
        truth = np.load(case.mask)
        value = float(LOSSES[loss](torch.from_numpy(logits), torch.from_numpy(truth).float()))
        predicted = logits > 0
        counts = int((predicted & (truth > 0)).sum()), int(predicted.sum()), int(truth.sum())
        scores.append(Score(case.patient, value, dice(*counts), worth(*counts, case.pixel_ml)))
    return scores


def choose_cut(model: Path, cases: Path, validation: list[CaseSlices]) -> tuple[dict[str, float], float]:
    """What `lesion_mask` needs, chosen on the validation scans in native space; and their mean Dice with it.

    That is the `threshold`; with `cca` then, at this threshold, the smallest lesion to keep, in mL where all these
    scans have a voxel size, else in voxels; of equal ones the smallest. Chosen both at once they fit a few validation
    patients too well.
    """
    network, facts = load_model(model)
    records = {c["case"]: c for c in json.loads((cases / "cases.json").read_text())["cases"]}
    known = all(records[case.case]["voxel_mm"] for case in validation)
    unit = "smallest_lesion_ml" if known else "smallest_lesion_voxels"
    sizes = SMALLEST[unit] if facts.get("cca") else (0,)
    dices, f1s = np.zeros((2, len(validation), len(THRESHOLDS), len(sizes)))
    worths = np.zeros((len(validation), len(THRESHOLDS)))
    for row, case in enumerate(validation):
        slices, record = np.load(case.image, mmap_mode="r"), records[case.case]
        probability = native_probability(network, facts, slices, case.order, case.placement)
        truth = read(cases / record["files"]["mask"])[0] > 0
        voxel_ml = float(np.prod(record["voxel_mm"])) / 1000 if record["voxel_mm"] else case.native_ml
        voxels = [smallest_voxels({unit: size}, record["voxel_mm"]) for size in sizes]
        for column, threshold in enumerate(THRESHOLDS):
            predicted = probability >= threshold
            counts = int((predicted & truth).sum()), int(predicted.sum()), int(truth.sum())
            worths[row, column] = worth(*counts, voxel_ml)
            dices[row, column], f1s[row, column] = _by_size(predicted, truth, voxels)
    patients = [case.patient for case in validation]
    if facts.get("selection") == "patients":
        row = _within_one_standard_error(patient_mean(patients, worths))
    else:
        mean = dices[:, :, 0].mean(0)
        row = min(np.flatnonzero(mean == mean.max()), key=_from_one_half)
    mean, f1 = dices[:, row].mean(0), f1s[:, row].mean(0)
    column = _smallest_worth_keeping(mean, f1, sizes, SMALL[unit])
    cut = {"threshold": float(THRESHOLDS[row])}
    if facts.get("cca"):
        cut[unit] = sizes[column]
    return cut, float(mean[column])


def _from_one_half(row: int) -> float:
    return abs(THRESHOLDS[row] - 0.5)


def _within_one_standard_error(worths: np.ndarray) -> int:
    """Row of the threshold nearest to 0.5 whose mean worth is within one standard error of the best.

    worths: (patients, thresholds). The standard error is that of the best mean.
    """
    middle = int(np.argmin(np.abs(THRESHOLDS - 0.5)))
    if len(worths) < FEWEST_PATIENTS:
        return middle
    mean = worths.mean(0)
    best = int(mean.argmax())
    error = worths[:, best].std(ddof=1) / np.sqrt(len(worths))
    return min(np.flatnonzero(mean >= mean[best] - error), key=_from_one_half)


def _smallest_worth_keeping(dices: np.ndarray, f1s: np.ndarray, sizes: tuple, small: float) -> int:
    """Column of the size with the best mean Dice; one above `small` only where lesion-wise F1 gains too."""
    few = [column for column, size in enumerate(sizes) if size <= small]
    best = max(few, key=lambda column: dices[column])
    better = [c for c in range(len(sizes)) if c not in few and dices[c] > dices[best] and f1s[c] > f1s[best]]
    return max(better, key=lambda column: dices[column], default=best)


def _by_size(predicted: np.ndarray, truth: np.ndarray, voxels: list[float]) -> tuple[list[float], list[float]]:
    """Dice and lesion-wise F1 of the prediction without its components of fewer voxels, for each of these numbers."""
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
