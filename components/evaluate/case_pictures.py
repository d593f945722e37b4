"""Pictures of what the model did on the test patients."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from components.core.html_page import thumbnail
from components.core.pyplot import plt

SAMPLES = 10
TRUTH, PREDICTION = "#22c55e", "#f97316"


@dataclass(frozen=True)
class Sample:
    """One test slice: where it is, its Dice, and why it was chosen ("best", "typical", "worst")."""

    case: str
    slice: int
    dice: float
    kind: str


def choose_samples(cases: list[dict]) -> list[Sample]:
    """Up to ten slices that hold a true or a predicted lesion: three best, four around the median, three worst."""
    ranked = sorted(
        (
            (d, c["case"], s)
            for c in cases
            for s, d in enumerate(c["slice_dice"])
            if c["slice_has_lesion"][s] or c["slice_has_prediction"][s]
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
    """Scan, truth and prediction of one slice (X, Y) side by side; radiological view; a PNG at `path`."""
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
    """The slice of a scan (X, Y, S) with the most wrong voxels, truth and prediction outlined; a data URI (JPEG)."""
    worst = int((truth ^ predicted).sum((0, 1)).argmax())
    colours = (tuple(bytes.fromhex(colour[1:])) for colour in (TRUTH, PREDICTION))
    outlines = dict(zip(colours, (truth[:, :, worst], predicted[:, :, worst]), strict=True))
    return thumbnail(image[:, :, worst], outlines, side=240)
