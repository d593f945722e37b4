"""Pictures of test slices: scan, truth and prediction."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from components.artifacts.evaluation import ScanResult
from components.core.html_page import thumbnail
from components.core.pyplot import plt

SAMPLES = 10
TRUTH, PREDICTION = "#22c55e", "#f97316"


@dataclass(frozen=True)
class Sample:
    """One test slice, its Dice, and the reason of its choice ("best", "typical", "worst")."""

    case: str
    slice: int
    dice: float
    kind: str


def choose_samples(scans: Sequence[ScanResult]) -> list[Sample]:
    """Choose up to ten slices with a true or predicted lesion: three best, four around the median, three worst."""
    ranked = sorted(
        (
            (dice, scan.case, s)
            for scan in scans
            for s, dice in enumerate(scan.slice_dice)
            if scan.slice_has_lesion[s] or scan.slice_has_prediction[s]
        ),
        reverse=True,
    )
    if len(ranked) <= SAMPLES:
        kinds = [
            "best" if i < len(ranked) / 3 else "worst" if i >= 2 * len(ranked) / 3 else "typical"
            for i in range(len(ranked))
        ]
        return [Sample(case, s, d, kind) for (d, case, s), kind in zip(ranked, kinds, strict=True)]
    middle = max(3, min(len(ranked) // 2 - 2, len(ranked) - 7))
    chosen = [(i, "best") for i in range(3)]
    chosen += [(i, "typical") for i in range(middle, middle + 4)]
    chosen += [(i, "worst") for i in range(len(ranked) - 3, len(ranked))]
    return [Sample(ranked[i][1], ranked[i][2], ranked[i][0], kind) for i, kind in chosen]


def draw_sample(sample: Sample, image: np.ndarray, truth: np.ndarray, predicted: np.ndarray, path: Path) -> None:
    """Draw scan, truth and prediction of one slice (X, Y) side by side in radiological view; a PNG at `path`."""
    low, high = np.percentile(image, (1, 99.7))
    figure, axes = plt.subplots(1, 3, figsize=(9, 3.4), layout="constrained")
    layers = (("scan", None, None), ("truth", truth, TRUTH), ("prediction", predicted, PREDICTION))
    for axis, (title, mask, colour) in zip(axes, layers, strict=True):
        axis.imshow(image.T[::-1, ::-1], cmap="gray", vmin=low, vmax=max(high, low + 1e-6))
        if mask is not None and mask.any():
            axis.contourf(mask.T[::-1, ::-1].astype(float), levels=[0.5, 1.5], colors=[colour], alpha=0.35)
            axis.contour(mask.T[::-1, ::-1].astype(float), levels=[0.5], colors=[colour], linewidths=1)
        axis.set_title(title, fontsize=10)
        axis.axis("off")
    figure.suptitle(
        f"{sample.kind}: {sample.case}, slice {sample.slice}, Dice {sample.dice:.2f}", fontsize=11, parse_math=False
    )
    figure.savefig(path, dpi=80)
    plt.close(figure)


def draw_failure(image: np.ndarray, truth: np.ndarray, predicted: np.ndarray) -> str:
    """Draw the slice of a scan (X, Y, S) with the most wrong voxels and both outlines; return a data URI (JPEG)."""
    worst = int((truth ^ predicted).sum((0, 1)).argmax())
    outlines = {_rgb(TRUTH): truth[:, :, worst], _rgb(PREDICTION): predicted[:, :, worst]}
    return thumbnail(image[:, :, worst], outlines, side=240)


def _rgb(colour: str) -> tuple[int, int, int]:
    red, green, blue = bytes.fromhex(colour.removeprefix("#"))
    return red, green, blue
