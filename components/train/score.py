"""How a training is judged: Dice of whole scans, and the threshold and lesion size that validation chooses."""

import json
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage

from components.core.volumes import read
from components.train.data import CaseSlices
from components.unet.inference import load_model, native_probability, stack_logits
from components.unet.lesions import TOUCHING, smallest_voxels
from components.unet.losses import LOSSES
from components.unet.network import AttentionUNet

THRESHOLDS = np.arange(1, 20) / 20
SMALLEST = {
    "smallest_lesion_ml": (0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0),
    "smallest_lesion_voxels": (0, 2, 3, 5, 10, 20, 50, 100),
}
"""Sizes to choose from; the largest of them is still a small infarct."""


def dice(both: int, predicted: int, truth: int) -> float:
    """2 |P and T| / (|P| + |T|); 1 where both are empty."""
    return 2 * both / (predicted + truth) if predicted + truth else 1.0


def validate(network: AttentionUNet, cases: list[CaseSlices], loss: str, precision: str) -> list[tuple[float, float]]:
    """Loss, and Dice at 0.5, of each whole validation scan, every slice, on the model grid."""
    network.eval()
    scores = []
    for case in cases:
        logits = stack_logits(network, np.load(case.image, mmap_mode="r"), case.order, precision)
        truth = np.load(case.mask)
        value = float(LOSSES[loss](torch.from_numpy(logits), torch.from_numpy(truth).float()))
        predicted = logits > 0
        both = int((predicted & (truth > 0)).sum())
        scores.append((value, dice(both, int(predicted.sum()), int(truth.sum()))))
    return scores


def choose_cut(model: Path, cases: Path, validation: list[CaseSlices]) -> tuple[dict[str, float], float]:
    """What `lesion_mask` needs, with the best mean Dice over the validation scans in native space; and that Dice.

    That is the `threshold`, of equal ones the nearest to 0.5; with `cca` then, at this threshold, the smallest lesion
    to keep, in mL where all these scans have a voxel size, else in voxels; of equal ones the smallest. Chosen both at
    once they fit a few validation patients too well: on the demo scans Dice went from 0.57 to 0.67 there, and from
    0.49 to 0.43 on the test patients.
    """
    network, facts = load_model(model)
    records = {c["case"]: c for c in json.loads((cases / "cases.json").read_text())["cases"]}
    known = all(records[case.case]["voxel_mm"] for case in validation)
    unit = "smallest_lesion_ml" if known else "smallest_lesion_voxels"
    sizes = SMALLEST[unit] if facts.get("cca") else (0,)
    scores = np.zeros((len(validation), len(THRESHOLDS), len(sizes)))
    for row, case in enumerate(validation):
        slices, record = np.load(case.image, mmap_mode="r"), records[case.case]
        probability = native_probability(network, facts, slices, case.order, case.native_shape)
        truth = read(cases / record["files"]["mask"])[0] > 0
        voxels = [smallest_voxels({unit: size}, record["voxel_mm"]) for size in sizes]
        for column, threshold in enumerate(THRESHOLDS):
            scores[row, column] = _dices(probability >= threshold, truth, voxels)
    mean = scores.mean(0)
    row = min(np.flatnonzero(mean[:, 0] == mean[:, 0].max()), key=lambda i: abs(THRESHOLDS[i] - 0.5))
    column = mean[row].argmax()
    cut = {"threshold": float(THRESHOLDS[row])}
    if facts.get("cca"):
        cut[unit] = sizes[column]
    return cut, float(mean[row, column])


def _dices(predicted: np.ndarray, truth: np.ndarray, voxels: list[float]) -> list[float]:
    """Dice of the prediction without its components of fewer voxels, for each of these numbers, the first being 0."""
    if len(voxels) == 1:
        return [dice(int((predicted & truth).sum()), int(predicted.sum()), int(truth.sum()))]
    components, count = ndimage.label(predicted, TOUCHING)
    size, hit = (np.bincount(c, minlength=count + 1)[1:] for c in (components.ravel(), components[truth]))
    kept = [size >= least for least in voxels]
    return [dice(int(hit[k].sum()), int(size[k].sum()), int(truth.sum())) for k in kept]
