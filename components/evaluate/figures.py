"""Pictures of what the model did on the test patients, and the page that holds them."""

from dataclasses import dataclass
from pathlib import Path

import cv2
import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from components.core.page import embedded, render

SAMPLES = 10
TRUTH, PREDICTION = "#22c55e", "#f97316"
PAGE_LIMIT = 950_000


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


BODY = """
<p>{{ scans }} whole scans of {{ metrics.test_patients }} held-out patients, in each scan's own space;
threshold {{ '%.2f'|format(threshold) }}, chosen on the validation patients.</p>
{% if metrics.test_patients < 10 %}<p class="note">Only {{ metrics.test_patients }} test
patient{{ 's' if metrics.test_patients != 1 }}: too few to conclude anything from.</p>{% endif %}
<h2>Summary over patients</h2><table><tr><th>metric</th><th>mean</th><th>std</th><th>95 % interval</th></tr>
{% for name, label in rows %}{% if 'test_' ~ name ~ '_mean' in metrics %}<tr><td>{{ label }}</td>
<td class="n">{{ '%.3f'|format(metrics['test_' ~ name ~ '_mean']) }}</td>
<td class="n">{{ '%.3f'|format(metrics['test_' ~ name ~ '_std']) }}</td>
<td class="n">{{ '%.3f'|format(metrics['test_' ~ name ~ '_ci_low']) }} to
{{ '%.3f'|format(metrics['test_' ~ name ~ '_ci_high']) }}</td></tr>{% endif %}{% endfor %}</table>
{% if unknown_ml %}<p>Volumes in mL are missing for {{ unknown_ml }} scans: their files hold no voxel size.</p>
{% endif %}
<h2>Against the champion{% if comparison.champion %}, version {{ comparison.champion }}{% endif %}</h2>
{% if comparison.reason %}<p class="note">No ground for a promotion: {{ comparison.reason }}.</p>{% endif %}
{% if comparison.differences %}<p>Both models on the same test patients; difference: this model less the champion.</p>
<table><tr><th>metric</th><th>patients</th><th>difference</th><th>95 % interval</th></tr>
{% for name, label in rows %}{% if name in comparison.differences %}<tr><td>{{ label }}</td>
<td class="n">{{ comparison.pairs[name]|length }}</td>
<td class="n">{{ '%+.3f'|format(comparison.differences[name].mean) }}</td>
<td class="n">{{ '%.3f'|format(comparison.differences[name].ci_low) }} to
{{ '%.3f'|format(comparison.differences[name].ci_high) }}</td></tr>{% endif %}{% endfor %}</table>
{% endif %}
<h2>Test scans</h2><table><tr><th>scan</th><th>Dice</th><th>truth (mL)</th><th>prediction (mL)</th>
<th>lesions found</th><th>false lesions</th><th>lesion F1</th></tr>{% for c in cases %}<tr><td>{{ c.case }}</td>
<td class="n">{{ '%.3f'|format(c.dice) }}</td>
<td class="n">{{ '%.2f'|format(c.truth_ml) if c.truth_ml is not none else '?' }}</td>
<td class="n">{{ '%.2f'|format(c.predicted_ml) if c.predicted_ml is not none else '?' }}</td>
<td class="n">{{ c.lesions_found }} of {{ c.lesions }}</td><td class="n">{{ c.false_lesions }}</td>
<td class="n">{{ '%.3f'|format(c.lesion_f1) }}</td></tr>{% endfor %}</table>
{% if cases|length < scans %}<p>The first {{ cases|length }} of {{ scans }} scans; all are in test_metrics.json.</p>
{% endif %}
<h2>Pictures</h2><p>Green: truth. Orange: prediction. Radiological view: the patient's left is on the right.</p>
<div class="tiles wide">{% for src in pictures %}<figure><img src="{{ src }}" alt=""></figure>{% endfor %}</div>
"""
ROWS = (
    ("dice", "Dice"),
    ("iou", "IoU"),
    ("absolute_volume_difference_ml", "Absolute volume difference (mL)"),
    ("lesion_count_difference", "Lesion count difference"),
    ("lesion_f1", "Lesion-wise F1"),
)


def write_page(
    cases: list[dict], metrics: dict, threshold: float, synthetic: bool, pictures: list[Path], page: Path,
    comparison: dict,
):  # fmt: skip
    """The evaluation page, under 1 MB: metrics, the champion on the same patients, the scans, samples as JPEG."""
    facts = {
        "title": "Evaluation on held-out patients", "cases": cases[:500], "scans": len(cases), "metrics": metrics,
        "threshold": threshold, "synthetic": synthetic, "rows": ROWS,
        "comparison": {"differences": None, **comparison},
        "unknown_ml": sum(c["truth_ml"] is None for c in cases),
    }  # fmt: skip
    sources: list[str] = []
    room = PAGE_LIMIT - len(render(BODY, pictures=[], **facts).encode())
    for path in pictures:
        jpeg = cv2.imencode(".jpg", cv2.imread(str(path)), [cv2.IMWRITE_JPEG_QUALITY, 80])[1].tobytes()
        source = embedded(jpeg).replace("image/png", "image/jpeg")
        if len(source) < room:
            room -= len(source)
            sources.append(source)
    page.write_text(render(BODY, pictures=sources, **facts))
