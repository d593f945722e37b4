"""The evaluation page: the answers to a clinician's questions about the model, in one self-contained HTML file."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2

from components.artifacts.evaluation import Comparison, TestMetrics
from components.artifacts.headline import against_rule, in_words, not_better, out_of_fold
from components.artifacts.metric_labels import METRIC_LABELS
from components.artifacts.trained_model import TrainedModel
from components.core.html_page import embedded, render
from components.core.intervals import FEWEST
from components.evaluate.agreement import failed_scans, volume_pairs
from components.evaluate.plots import draw_agreement, draw_reliability
from components.evaluate.subgroups import LESION_VOLUME
from components.model.calibration import COUNTED
from components.model.threshold_rule import FACTOR, SMALLEST_ML, SMOOTHING_MM
from components.scans.viewer.page import PLACE, Viewer

PAGE_LIMIT = 950_000
"""Most bytes of the page without the volumes of its viewer."""
MOST_ROWS, MOST_FAILURES = 500, 50
RULE_ROWS = ("dice", "lesion_dice", "lesion_f1", "false_positive_ml_lesion_free")
"""Metrics of both the model and the rule without a network."""
SUBGROUPS = ((LESION_VOLUME, "true lesion volume"), ("site", "site"), ("scanner", "scanner"))


@dataclass(frozen=True)
class Pictures:
    """samples: PNG files of `draw_sample`. failures: case to its picture, a data URI."""

    samples: list[Path]
    failures: dict[str, str]


MACROS = """
{% macro f(value, form='%.3f') %}{{ form|format(value) if value is not none else '–' }}{% endmacro %}
{% macro span(low, high, form='%.3f') %}
{%- if low is none %}–{% else %}{{ form|format(low) }} to {{ form|format(high) }}{% endif %}{% endmacro %}
{% macro unit(label) %}{{ label.long }}{{ ' (' ~ label.unit ~ ')' if label.unit }}{% endmacro %}
{% macro many(n, what) %}{{ n }} {{ what }}{{ 's' if n != 1 }}{% endmacro %}
"""
SUMMARY = """
{% if worse %}<p class="note"><b>{{ worse }}</b></p>{% endif %}
<p>{% if headline %}Where there is a lesion, Dice <b>{{ headline }}</b>{% else
%}No test patient has a lesion{% endif %}; {% if metrics.test_patients_lesion_free
%}where there is none, a false alarm in <b>{{ '%.0f'|format(100 * metrics.test_lesion_free_false_alarm_rate) }} %</b>
of {{ many(metrics.test_patients_lesion_free, 'patient') }}{% else %}no test patient is free of lesions{% endif %}.</p>
<p>{{ many(scans, 'whole scan') }} of {{ many(metrics.test_patients, 'held-out patient') }}, in each scan's own space;
threshold {{ '%.2f'|format(threshold) }}, {% if folds %}the mean of those that each network chose on its own validation
patients.{% else %}chosen on the validation patients.{% endif %}{% if smallest %} Found lesions smaller than
{{ smallest }} are dropped, a size chosen on the validation patients.{% endif %}</p>
{% if folds %}<p class="note">{{ out_of_fold }}</p>{% endif %}
{% if metrics.test_patients < 10 %}<p class="note">Only {{ metrics.test_patients }} test
patient{{ 's' if metrics.test_patients != 1 }}: too few to conclude anything from.</p>{% endif %}
<h2>Summary over patients</h2><table><tr><th>metric</th><th>mean</th><th>std</th><th>95 % interval</th>
<th>median</th><th>quartiles</th></tr>
{% for name, label in labels.items() %}{% if 'test_' ~ name ~ '_median' in metrics %}<tr><td>{{ unit(label) }}</td>
<td class="n">{{ '%.3f'|format(metrics['test_' ~ name ~ '_mean']) }}</td>
<td class="n">{{ '%.3f'|format(metrics['test_' ~ name ~ '_std']) }}</td>
<td class="n">{{ span(metrics.get('test_' ~ name ~ '_ci_low'), metrics.get('test_' ~ name ~ '_ci_high'))
}}</td><td class="n">{{ '%.3f'|format(metrics['test_' ~ name ~ '_median']) }}</td>
<td class="n">{{ span(metrics['test_' ~ name ~ '_q1'], metrics['test_' ~ name ~ '_q3']) }}</td></tr>{% endif %}{%
endfor %}</table>
<p>{{ many(metrics.test_patients, 'patient') }}, each the mean of their scans, with lesion-free scans unless the row
says otherwise. No interval below {{ fewest }} patients. The intervals of Dice, IoU and F1 contain the true mean in at
least 95 % of simulations. The intervals of volumes do so in fewer, because one rare, huge error can decide the mean.
Every run and every promotion uses these same patients, so the numbers of a version that was chosen by them are a
little too good.
{% if unknown_ml %}Volumes in mL are missing for {{ unknown_ml }} scans: their files hold no voxel size.{% endif %}</p>
{% if 'test_rule_dice_mean' in metrics %}<h2>Comparison with a rule without a network</h2>
<p>{{ against_rule }} The rule marks voxels that are {{ factor }} times as bright as the median of the head, smoothed by
{{ smoothing }} mm, in pieces of at least {{ smallest_ml }} mL.</p>
<table><tr><th>metric, mean</th><th>this model</th><th>the rule</th></tr>
{% for name in rule_rows %}{% if 'test_rule_' ~ name ~ '_mean' in metrics %}<tr><td>{{ unit(labels[name]) }}</td>
<td class="n">{{ '%.3f'|format(metrics['test_' ~ name ~ '_mean']) }}</td>
<td class="n">{{ '%.3f'|format(metrics['test_rule_' ~ name ~ '_mean']) }}</td></tr>{% endif %}{% endfor %}
</table>{% endif %}
<h2>Scans without a lesion</h2>
{% if free.scans %}<p>{{ many(free.scans, 'scan') }} of {{ many(free.patients, 'patient') }}: a false lesion in
<b>{{ free.scans_with_false_lesion }} of {{ free.scans }}</b>{% if free.false_positive_ml_mean is not none
%}, {{ '%.2f'|format(free.false_positive_ml_mean) }} mL a scan on average{% endif %}.</p>
{% else %}<p>None among the test scans: false alarms were not tested.</p>{% endif %}
"""
SUBGROUP_TABLES = """
<h2>Results by subgroup: scans with a lesion</h2>
{% for field, title in subgroups %}{% if strata[field].values()|sum('scans') %}
<table><tr><th>{{ title }}</th><th>patients</th><th>scans</th>
<th>Dice</th><th>95 % interval</th><th>lesion F1, any touch</th><th>absolute volume difference (mL)</th></tr>
{% for name, row in strata[field].items() %}<tr><td>{{ name }}</td><td class="n">{{ row.patients }}</td>
<td class="n">{{ row.scans }}</td><td class="n">{{ f(row.dice_mean) }}</td>
<td class="n">{% if 0 < row.patients < fewest %}too few patients{% else %}{{ span(row.dice_ci_low, row.dice_ci_high)
}}{% endif %}</td><td class="n">{{ f(row.lesion_f1_mean) }}</td>
<td class="n">{{ f(row.absolute_volume_difference_ml_mean, '%.2f') }}</td></tr>{% endfor %}</table>
{% else %}<p>The {{ title }} is unknown for all test scans with a lesion.</p>{% endif %}{% endfor %}
<p>Rows of fewer than {{ fewest }} patients have no interval. Rows of fewer than 10 patients are only a hint.</p>
"""
FOLD_TABLE = """
{% if folds %}<h2>Results by fold</h2><p>Each network on the fold that it held out, with its own threshold. The network
learnt from the other folds but one, on which its weights and its threshold were chosen.</p>
<table><tr><th>fold</th><th>patients</th><th>Dice</th><th>95 % interval</th><th>Dice where there is a lesion</th>
<th>lesion F1, any touch</th><th>absolute volume difference (mL)</th><th>lesion count difference</th>
<th>false alarms</th><th>calibration error</th><th>flagged</th><th>failures</th><th>threshold</th></tr>
{% for name, fold in folds.items() %}{% set m = fold.summary %}<tr><td>{{ name }}</td>
<td class="n">{{ m.test_patients }}</td><td class="n">{{ f(m.test_dice_mean) }}</td>
<td class="n">{{ span(m.get('test_dice_ci_low'), m.get('test_dice_ci_high')) }}</td>
<td class="n">{{ f(m.get('test_lesion_dice_mean')) }}</td><td class="n">{{ f(m.test_lesion_f1_mean) }}</td>
<td class="n">{{ f(m.get('test_absolute_volume_difference_ml_mean'), '%.2f') }}</td>
<td class="n">{{ f(m.test_lesion_count_difference_mean, '%.2f') }}</td>
<td class="n">{{ fold.lesion_free.scans_with_false_lesion }} of {{ fold.lesion_free.scans }}</td>
<td class="n">{{ f(fold.calibration.ece_after) }}</td><td class="n">{{ fold.review.flagged }}</td>
<td class="n">{{ fold.review.failures }}</td><td class="n">{{ '%.2f'|format(fold.threshold) }}</td></tr>{% endfor %}
</table><p>All numbers of each fold are in the folder folds of the MLflow run.</p>{% endif %}
"""
AGREEMENT = """
<h2>Are the probabilities correct?</h2>
{% if calibration.ece_before is none %}<p>No voxel of the test scans has a probability of {{ counted }} or more.</p>
{% else %}<p>Expected calibration error <b>{{ f(calibration.ece_before) }}</b> before and
<b>{{ f(calibration.ece_after) }}</b> after calibration{% if calibration.temperature is not none %}
(temperature {{ '%.2f'|format(calibration.temperature) }}, {% if folds %}mean of the networks{% else
%}learnt on the validation patients{% endif %}){% endif %}; 0 is perfect.
Over the voxels of all test scans with a probability of {{ counted }} or more, in 15 bins: voxels below are nearly all
background and would hide errors.</p><img class="full" src="{{ reliability }}" alt="reliability plot">{% endif %}
<h2>Are the volumes correct?</h2>
{% if volume.bias_ml is none %}<p>The voxel sizes are unknown, so there are no volumes in mL.</p>{% else %}
<p>Predicted less true volume is <b>{{ '%+.2f'|format(volume.bias_ml) }} mL</b> on average over
{{ many(pairs, 'patient') }}{% if volume.agreement_low_ml is not none %}; limits of agreement
(1.96 standard deviations) {{ '%+.2f'|format(volume.agreement_low_ml) }} to
{{ '%+.2f'|format(volume.agreement_high_ml) }} mL{% else %}: too few for limits of agreement{% endif %}.</p>
{% if volume.interval_coverage is not none %}<p>The interval of each volume should contain the true volume in
{{ '%.0f'|format(100 * volume.interval_level) }} % of patients; here it did in
<b>{{ '%.0f'|format(100 * volume.interval_coverage) }} %</b> of {{ many(pairs, 'patient') }}. It is learnt from the
validation patients{{ ' of each network' if folds }}, who also decide weights and threshold, and so tends to be
narrow.</p>{% endif %}
<img class="full" src="{{ agreement }}" alt="Bland-Altman plot">{% endif %}
<h2>Are failures flagged for review?</h2>
<p><b>{{ review.flagged }} of {{ many(review.scans, 'scan') }}</b> flagged as “needs review”;
<b>{{ review.failures }}</b> failed ({{ review.failure }}).</p>
<ul><li>Of the {{ review.failures }} that failed, {{ review.failures_flagged }} had been flagged.</li>
<li>Of the {{ review.flagged }} flagged, {{ review.failures_flagged }} failed.</li>
<li>Of the {{ review.scans - review.flagged }} not flagged,
{{ review.failures - review.failures_flagged }} failed.</li></ul>
"""
FAILURES = """
<h2>Failures{% if failures %}, the worst first{% endif %}</h2>
{% if failures %}<p>The slice with the most wrong voxels. Green: truth. Orange: prediction.</p>
<div class="tiles middle">{% for c in failures %}<figure>{% if c.case in shown %}<img src="{{ shown[c.case] }}" alt="">
{% endif %}<figcaption><b>{{ c.case }}</b>: Dice {{ '%.2f'|format(c.dice) }};
{% if c.truth_ml is none %}{{ c.lesions_found }} of {{ many(c.lesions, 'lesion') }} found{% elif c.lesions
%}{{ '%.2f'|format(c.truth_ml) }} mL true, {{ '%.2f'|format(c.predicted_ml) }} mL found{% else
%}no lesion, {{ '%.2f'|format(c.predicted_ml) }} mL found{% endif %};
{{ 'flagged: ' ~ c.needs_review|join('; ') if c.needs_review else 'not flagged' }}</figcaption></figure>
{% endfor %}</div>
{% if failures|length < review.failures %}<p>The worst {{ failures|length }} of {{ review.failures }}; all are in
test_metrics.json.</p>{% endif %}{% else %}<p>None.</p>{% endif %}
<h2>Scans</h2><p>The lowest Dice first.</p>{{ viewer }}
<h2>Pictures</h2><p>Green: truth. Orange: prediction. Radiological view: the patient's left is on the right.</p>
<div class="tiles wide">{% for src in pictures %}<figure><img src="{{ src }}" alt=""></figure>{% endfor %}</div>
"""
CHAMPION = """
<h2>Comparison with the champion{% if comparison.champion %}, version {{ comparison.champion }}{% endif %}</h2>
{% if comparison.reason %}<p class="note">This comparison cannot support a promotion: {{ comparison.reason }}.</p>
{% endif %}{% if comparison.differences %}<p>Both models on the same test patients{%
if comparison.pairs['dice']|length < metrics.test_patients %}, without those whom one of them had seen{% endif
%}. The difference is this model less
the champion.</p>
<table><tr><th>metric</th><th>patients</th><th>difference</th><th>95 % interval</th></tr>
{% for name, label in labels.items() %}{% if name in comparison.differences %}<tr><td>{{ unit(label) }}</td>
<td class="n">{{ comparison.pairs[name]|length }}</td>
<td class="n">{{ '%+.3f'|format(comparison.differences[name].mean) }}</td>
<td class="n">{{ span(comparison.differences[name].ci_low, comparison.differences[name].ci_high)
}}</td></tr>{% endif %}{% endfor %}</table>
{% endif %}
"""
SCANS = """
<h2>Test scans</h2>
<table><tr><th style="min-width:13rem">scan</th><th>Dice</th><th>rule's Dice</th><th>truth (mL)</th>
<th>prediction (mL)</th><th>interval (mL)</th><th>lesions found</th><th>false lesions</th>
<th>lesion F1, any touch</th><th>matched</th>
<th>needs review</th></tr>
{% for c in cases %}<tr><td>{{ c.case }}</td>
<td class="n">{{ '%.3f'|format(c.dice) }}</td><td class="n">{{ f(c.rule_dice) }}</td>
<td class="n">{{ '%.2f'|format(c.truth_ml) if c.truth_ml is not none else '?' }}</td>
<td class="n">{{ '%.2f'|format(c.predicted_ml) if c.predicted_ml is not none else '?' }}</td>
<td class="n">{{ span(c.predicted_ml_low, c.predicted_ml_high, '%.2f') }}</td>
<td class="n">{{ c.lesions_found }} of {{ c.lesions }}</td><td class="n">{{ c.false_lesions }}</td>
<td class="n">{{ '%.3f'|format(c.lesion_f1) }}</td><td class="n">{{ '%.3f'|format(c.lesion_f1_matched) }}</td>
<td>{{ c.needs_review|join('; ') }}</td></tr>{% endfor %}</table>
{% if cases|length < scans %}<p>The first {{ cases|length }} of {{ scans }} scans; all are in test_metrics.json.</p>
{% endif %}
"""
BODY = MACROS + SUMMARY + FOLD_TABLE + SUBGROUP_TABLES + AGREEMENT + FAILURES + CHAMPION + SCANS


def write_page(
    metrics: TestMetrics,
    trained: TrainedModel,
    comparison: Comparison,
    pictures: Pictures,
    viewer: Viewer,
    page: Path,
    folds: Mapping[str, TestMetrics] | None = None,
) -> None:
    """Write the page, without its viewer under 1 MB. Samples become JPEG. Pictures that do not fit are left out.

    folds: Fold to its metrics, of a cross-validation.
    """
    scans, pairs, summary = metrics.cases, volume_pairs(metrics.cases), metrics.summary
    has_bins = metrics.calibration.ece_before is not None
    values: dict[str, Any] = {
        "title": "Evaluation on held-out patients", "cases": scans[:MOST_ROWS], "scans": len(scans),
        "metrics": summary, "threshold": metrics.threshold, "synthetic": metrics.synthetic,
        "smallest": _smallest_lesion(trained), "labels": METRIC_LABELS, "subgroups": SUBGROUPS, "fewest": FEWEST,
        "counted": COUNTED,
        "unknown_ml": sum(scan.truth_ml is None for scan in scans), "pairs": len(pairs),
        "failures": failed_scans(scans)[:MOST_FAILURES], "comparison": comparison,
        "reliability": embedded(draw_reliability(metrics.calibration)) if has_bins else "",
        "agreement": embedded(draw_agreement(pairs, metrics.volume)) if pairs else "",
        "strata": metrics.strata, "calibration": metrics.calibration, "volume": metrics.volume,
        "review": metrics.review, "free": metrics.lesion_free, "rule_rows": RULE_ROWS,
        "factor": FACTOR, "smoothing": SMOOTHING_MM, "smallest_ml": SMALLEST_ML,
        "worse": not_better(summary), "against_rule": against_rule(summary),
        "folds": folds or {}, "out_of_fold": out_of_fold(len(folds or {})),
        "headline": in_words(summary, "test_lesion_dice") if "test_lesion_dice_mean" in summary else "",
        "viewer": PLACE,
    }  # fmt: skip
    left = PAGE_LIMIT - len(render(BODY, pictures=[], shown={}, **values).encode())
    samples, left = _fitting({str(i): _jpeg(path) for i, path in enumerate(pictures.samples)}, left)
    shown, _ = _fitting(pictures.failures, left)
    viewer.write(render(BODY, pictures=list(samples.values()), shown=shown, **values), page)


def _fitting(pictures: dict[str, str], limit: int) -> tuple[dict[str, str], int]:
    """Return the pictures that fit into `limit` bytes, in their order, and the bytes that are left."""
    fit = {}
    for name, picture in pictures.items():
        if len(picture) < limit:
            fit[name] = picture
            limit -= len(picture)
    return fit, limit


def _jpeg(path: Path) -> str:
    image = cv2.imread(str(path))
    if image is None:
        raise ValueError(f"{path} is not a picture")
    jpeg = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 80])[1].tobytes()
    return embedded(jpeg).replace("image/png", "image/jpeg")


def _smallest_lesion(trained: TrainedModel) -> str:
    """Return the size of the smallest found lesion that is kept; "" if all are kept."""
    for size, unit in ((trained.smallest_lesion_ml, "mL"), (trained.smallest_lesion_voxels, "voxels")):
        if size:
            return f"{size:g} {unit}"
    return ""
