"""Plots of the evaluation page as PNG: reliability of the probabilities, Bland-Altman of the volumes."""

import io

from components.artifacts.evaluation import Calibration, VolumeAgreement
from components.core.pyplot import plt

BEFORE, AFTER, LINE = "#8aa4c8", "#c2410c", "#64748b"
SIZE = (6, 4.4)


def draw_reliability(calibration: Calibration) -> bytes:
    """Draw the share of lesion voxels and voxel counts over the probability, before and after calibration."""
    figure, (axis, below) = plt.subplots(
        2, 1, figsize=(SIZE[0], 5.4), layout="constrained", sharex=True, height_ratios=(3, 1)
    )
    axis.plot((0, 1), (0, 1), color=LINE, linestyle=":", label="perfect calibration")
    for when, colour, marker in (("before", BEFORE, "s"), ("after", AFTER, "o")):
        bins = [b for b in getattr(calibration, f"bins_{when}") if b.voxels]
        fields = ("probability", "lesion", "voxels")
        probability, is_lesion, voxels = ([getattr(b, field) for b in bins] for field in fields)
        error = getattr(calibration, f"ece_{when}")
        axis.plot(probability, is_lesion, color=colour, marker=marker, label=f"{when} calibration: error {error:.3f}")
        below.plot(probability, voxels, color=colour, marker=marker)
    most = max(b.voxels for b in calibration.bins_before + calibration.bins_after)
    axis.set(ylim=(-0.02, 1.02), ylabel="share that is lesion")
    axis.legend(frameon=False)
    below.set(xlabel="predicted probability of lesion", xlim=(-0.02, 1.02))
    below.set(ylabel="voxels", yscale="log", ylim=(1, 5 * most))
    return _png(figure)


def draw_agreement(pairs: dict[str, tuple[float, float]], volume: VolumeAgreement) -> bytes:
    """Draw predicted less true volume over their mean, one dot per patient, with bias and limits of agreement.

    `pairs` is patient to (true, predicted) in mL.
    """
    figure, axis = plt.subplots(figsize=SIZE, layout="constrained")
    means = [(true + predicted) / 2 for true, predicted in pairs.values()]
    axis.axhline(0, color=LINE, linestyle=":")
    axis.scatter(means, [p - t for t, p in pairs.values()], color=AFTER, edgecolor="white", zorder=3)
    lines = (
        (volume.bias_ml, "mean", "-"),
        (volume.agreement_low_ml, "−1.96 SD", "--"),
        (volume.agreement_high_ml, "+1.96 SD", "--"),
    )
    for ml, label, style in lines:
        if ml is not None:
            axis.axhline(ml, color=BEFORE, linestyle=style)
            axis.annotate(
                f"{label} {ml:+.2f}", (1, ml), xycoords=("axes fraction", "data"),
                xytext=(4, 0), textcoords="offset points", va="center", fontsize=9, annotation_clip=False,
            )  # fmt: skip
    axis.set_xscale("symlog", linthresh=1)
    axis.xaxis.set_major_formatter("{x:g}")
    axis.set(xlim=(-0.1, 1.3 * max([1.0, *means])), xlabel="mean of predicted and true volume (mL)")
    axis.margins(y=0.1)
    axis.set_ylabel("predicted less true (mL)")
    return _png(figure)


def _png(figure) -> bytes:
    out = io.BytesIO()
    figure.savefig(out, dpi=90)
    plt.close(figure)
    return out.getvalue()
