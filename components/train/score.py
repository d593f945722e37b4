"""How a training is judged: Dice of whole scans, and the threshold that the validation patients choose."""

import json
from pathlib import Path

import numpy as np
import torch

from components.core.volumes import read
from components.train.data import CaseSlices
from components.unet.inference import load_model, native_probability, stack_logits
from components.unet.losses import LOSSES
from components.unet.network import AttentionUNet

THRESHOLDS = np.arange(1, 20) / 20


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


def choose_threshold(model: Path, cases: Path, validation: list[CaseSlices]) -> tuple[float, float]:
    """The probability threshold with the best mean Dice over the validation scans in native space, and that Dice.

    Of equal ones the nearest to 0.5.
    """
    network, facts = load_model(model)
    files = {c["case"]: c["files"] for c in json.loads((cases / "cases.json").read_text())["cases"]}
    scores = np.zeros((len(validation), len(THRESHOLDS)))
    for row, case in enumerate(validation):
        slices = np.load(case.image, mmap_mode="r")
        probability = native_probability(network, facts, slices, case.order, case.native_shape)
        truth = read(cases / files[case.case]["mask"])[0] > 0
        for column, threshold in enumerate(THRESHOLDS):
            predicted = probability >= threshold
            scores[row, column] = dice(int((predicted & truth).sum()), int(predicted.sum()), int(truth.sum()))
    mean = scores.mean(0)
    best = min(np.flatnonzero(mean == mean.max()), key=lambda i: abs(THRESHOLDS[i] - 0.5))
    return float(THRESHOLDS[best]), float(mean[best])
