"""The two plots of the evaluation page: reliability of the probabilities, Bland-Altman of the volumes; as PNG."""

import io

from components.core.pyplot import plt

BEFORE, AFTER, LINE = "#8aa4c8", "#c2410c", "#64748b"
SIZE = (6, 4.4)


def draw_reliability(calibration: dict) -> bytes:
    """Share of voxels that are lesion against the probability said, before and after calibration; with how many."""
    figure, (axis, below) = plt.subplots(
        2, 1, figsize=(SIZE[0], 5.4), layout="constrained", sharex=True, height_ratios=(3, 1)
    )
    axis.plot((0, 1), (0, 1), color=LINE, linestyle=":", label="what was said is true")
    for when, colour, marker in (("before", BEFORE, "s"), ("after", AFTER, "o")):
        bins = [b for b in calibration[f"bins_{when}"] if b["voxels"]]
        said, is_lesion, voxels = ([b[name] for b in bins] for name in ("probability", "lesion", "voxels"))
        error = calibration[f"ece_{when}"]
        axis.plot(said, is_lesion, color=colour, marker=marker, label=f"{when} calibration: error {error:.3f}")
        below.plot(said, voxels, color=colour, marker=marker)
    most = max(b["voxels"] for when in ("before", "after") for b in calibration[f"bins_{when}"])
    axis.set(ylim=(-0.02, 1.02), ylabel="share that is lesion")
    axis.legend(frameon=False)
    below.set(xlabel="probability of lesion, as the model says it", xlim=(-0.02, 1.02))
    below.set(ylabel="voxels", yscale="log", ylim=(1, 5 * most))
    return _png(figure)


def draw_agreement(pairs: dict[str, tuple[float, float]], volume: dict) -> bytes:
    """Predicted less true volume against their mean, a dot a patient; bias and limits of agreement."""
    figure, axis = plt.subplots(figsize=SIZE, layout="constrained")
    means = [(true + predicted) / 2 for true, predicted in pairs.values()]
    axis.axhline(0, color=LINE, linestyle=":")
    axis.scatter(means, [p - t for t, p in pairs.values()], color=AFTER, edgecolor="white", zorder=3)
    lines = (("bias_ml", "mean", "-"), ("agreement_low_ml", "−1.96 SD", "--"), ("agreement_high_ml", "+1.96 SD", "--"))
    for name, words, style in lines:
        if volume[name] is not None:
            axis.axhline(volume[name], color=BEFORE, linestyle=style)
            axis.annotate(
                f"{words} {volume[name]:+.2f}", (1, volume[name]), xycoords=("axes fraction", "data"),
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
