"""The model card as Markdown: complete for the MLflow run, shortened for the description in the registry."""

import re

import jinja2

from components.artifacts.headline import out_of_fold
from components.artifacts.metric_labels import METRIC_LABELS
from components.register.card import Card

DESCRIPTION_LIMIT = 5000
"""Characters of a version's description in MLflow's database. PostgreSQL refuses more."""
GAP = "\u2003\u200b"
"""An em space, and a zero-width space so that MLflow's page does not trim it. An HTML entity would be longer."""
MARKDOWN_CHARACTERS = re.compile(
    r"([\\`*\[\]|~]|(?<![^\W_])_|_(?![^\W_])|(?:(?<=http)|(?<=https)|(?<=ftp)):|(?<=www)\.)", re.IGNORECASE
)
"""Characters that Markdown interprets, also in addresses that become links; not an underscore within a word."""
LINE_STARTS = re.compile(r"^(#|>|[-+](?=[-\s]|$)|\d{1,9}(?=[.)](?:\s|$)))")
"""The start of a line that would become a heading, a quotation, a list or a rule."""

TEMPLATE = """
## Use

{{ card.summary | own }}

**{{ card.release_stage | own }}**

- **Intended use:** {{ card.intended_use | own }}
- **Users:** {{ card.intended_users | own }}
- **Patients:** {{ card.target_population | own }}
- **How to use:** {{ card.how_to_use | own }}
- **Developer:** {{ card.developer | own or "not named" }}. **Contact:** \
{{ card.contact | own or "not named" }}.

## Out of scope

{% for line in card.out_of_scope %}
- {{ line | own }}
{% endfor %}

## Metrics

On {{ card.test_patients }} {% if card.data.synthetic %}**synthetic** {% endif %}held-out patients, whole scans, native
space, mean over patients and its 95 % interval (none below 5 patients); threshold
{{ "%.2f" | format(card.threshold) }}, {% if card.folds %}the mean of those that each network chose on its own
validation patients. {{ card.folds | length | out_of_fold }}{% else %}chosen on the validation patients.{% endif %}


| metric | mean | 95 % interval | median | quartiles |
|---|---:|---:|---:|---:|
{% for name, m in card.eval_metrics.items() %}
| {{ name | label }} | {{ m.mean | number }} | {{ m | interval }} | {{ m.median | number }} | \
{{ m | quartiles }} |
{% endfor %}

{% if card.folds %}
Each network on the fold that it held out, with its own threshold:

| | patients | Dice | 95 % | F1 | difference, mL | threshold |
|---|---:|---:|---:|---:|---:|---:|
{% for name, m in card.folds.items() %}
| {{ name }} | {{ m.patients }} | {{ m.dice_mean | number }} | {{ m | interval("dice_") }} | \
{{ m.lesion_f1_mean | number }} | {{ m.absolute_volume_difference_ml_mean | number }} | {{ m.threshold | number }} |
{% endfor %}

{% endif %}
## Limits

{% for line in card.limits %}
- {{ line }}
{% endfor %}

## Subgroups

{% for name, rows in card.strata.items() %}
By {{ name }}; difference is the absolute volume difference.

| | patients | scans | Dice | 95 % | F1 | difference, mL |
|---|---:|---:|---:|---:|---:|---:|
{% for row, s in rows.items() if s.scans %}
| {{ row }} | {{ s.patients }} | {{ s.scans }} | {{ s.dice_mean | number }} | \
{{ s | interval("dice_") }} | {{ s.lesion_f1_mean | number }} | \
{{ s.absolute_volume_difference_ml_mean | number }} |
{% endfor %}

{% endfor %}
Of {{ card.lesion_free.scans }} scans without a lesion, {{ card.lesion_free.scans_with_false_lesion }} got a false one
({{ card.lesion_free.false_positive_ml_mean | number }} mL on average).

## Reliability

- **Volume, predicted less true:** {{ card.volume.bias_ml | number }} mL (95 % limits of agreement \
{{ card.volume.agreement_low_ml | number }} to {{ card.volume.agreement_high_ml | number }}).
- **A scan's volume interval:** contains {{ card.volume.interval_level | percent }} by design, \
{{ card.volume.interval_coverage | percent }} of the test volumes.
- **Calibration error:** {{ card.calibration.ece_before | number }} before, {{ card.calibration.ece_after | number }} \
after temperature {{ card.calibration.temperature | number }}\
{% if card.folds %} (mean of the networks, each of which has its own){% endif %}.
- **Flagged for review:** {{ card.review.flagged }} of {{ card.review.scans }} scans, among them \
{{ card.review.failures_flagged }} of {{ card.review.failures }} failures ({{ card.review.failure }}).

## Failures

The worst test scans. Pictures are artifacts of the MLflow run. The artifact evaluation.html shows more failures.

{% for f in card.failures %}
- **{{ f.case }}**: Dice {{ f.dice | number }}, lesion F1 {{ f.lesion_f1 | number }}; {{ f.predicted_ml | number }} mL \
predicted, {{ f.truth_ml | number }} mL true; {{ f.lesions_found }} of {{ f.lesions }} lesions found, \
{{ f.false_lesions }} false. Flagged for review: {{ f.needs_review | join("; ") or "no" }}. Pictures: \
{{ f.pictures | join(", ") or "none" }}.
{% endfor %}

## Comparison with the champion

{% if card.comparison.champion %}
This version less version {{ card.comparison.champion }}, on the same test patients.

{% endif %}
{% if card.comparison.reason %}
This comparison cannot support a promotion: {{ card.comparison.reason }}.

{% endif %}
{% if card.comparison.differences %}
| metric | difference | 95 % interval |
|---|---:|---:|
{% for name, m in card.comparison.differences.items() %}
| {{ name | label }} | {{ m.mean | number }} | {{ m | interval }} |
{% endfor %}
{% endif %}

{% if card.parent %}
## Comparison with the parent

The training started from the weights of {{ card.parent.address }} (SHA-256 {{ card.parent.weights_sha256 }}).

{% if card.parent.patients %}
This version less the parent, on {{ card.parent.patients }} of the parent's own test patients.

| metric | difference | 95 % interval |
|---|---:|---:|
{% for name, m in card.parent.differences.items() %}
| {{ name | label }} | {{ m.mean | number }} | {{ m | interval }} |
{% endfor %}
{% else %}
Not measured on the parent's test patients: {{ card.parent.reason }}.
{% endif %}

{% endif %}
## Risks and biases

{% for line in card.known_risks + card.known_biases %}
- {{ line | own }}
{% endfor %}

{{ card.maintenance | own }}

## Inputs and outputs

{% set formats = card.network_data_format %}
{% for direction, tensors in (("input", formats.inputs), ("output", formats.outputs)) %}
{% for name, t in tensors.items() %}
- `{{ name | own }}` ({{ direction }}): {{ t.channel_def.values() | join("; ") }}.
{% endfor %}
{% endfor %}
- Training scans: voxels of {{ card.data.voxel_mm | ranges("mm") }}, {{ card.data.shape | ranges("voxels") }}.

## Data

- **Source:** {{ card.data.data_source }}{% if card.data.synthetic %} (**synthetic**){% endif %}, layout \
{{ card.data.layout }}
- **Labelled:** {{ card.data.patients }} patients, {{ card.data.scans }} scans, {{ card.data.lesion_free_scans }} of \
them lesion-free; {{ card.data.unlabelled_scans }} unlabelled scans not used
{% if card.data.lesion_ml %}
- **Lesions, mL:** median {{ card.data.lesion_ml.median | number }}, quartiles \
{{ card.data.lesion_ml.first_quartile | number }} and {{ card.data.lesion_ml.third_quartile | number }}, \
{{ card.data.lesion_ml.smallest | number }} to {{ card.data.lesion_ml.largest | number }}
{% endif %}
- **Sites:** {{ card.data.sites | listed }}
- **Scanners:** {{ card.data.scanners | listed }}
- **Refused:** {{ card.data.refused | length or "none" }}
{% for case, why in card.data.refused.items() %}
    - {{ case }}: {{ why }}
{% endfor %}

| subset | patients | scans | lesion-free | median lesion, mL |
|---|---:|---:|---:|---:|
{% for name, s in card.subsets.items() %}
| {{ name }} | {{ s.patients }} | {{ s.scans }} | {{ s.lesion_free_scans }} | {{ s.lesion_ml_median | number }} |
{% endfor %}

## Training

{% if card.folds %}{{ card.folds | length }} networks: {% endif %}
Attention U-Net, {{ "%.2f" | format(card.training.model_parameters / 1e6) }} M parameters, on
{{ card.training.hardware }}. {{ card.training.epochs }} epochs\
{% if card.training.seconds %} in {{ "%.0f" | format(card.training.seconds) }} s{% endif %}, the best was
{{ card.training.best_epoch }}.

{% for name, value in card.training.settings.items() %}
- {{ name }}: {{ value }}
{% endfor %}

## Versions

- **This version:** {{ card.version }}
- **Image:** {{ card.versions.image_tag }}
- **Git commit:** {{ card.versions.git_commit or "none: the code was not in a git checkout" }}
{% for name in ("data_version", "cases_sha256", "split_digest", "training_digest", "evaluation_digest", \
"weights_sha256") %}
- **{{ name }}:** {{ card.versions[name] }}
{% endfor %}
{% for name, m in card.folds.items() %}
- **{{ name }}:** training {{ m.training_digest }}, weights {{ m.weights_sha256 }}
{% endfor %}
- **Packages:** {{ card.versions.packages | packages }}
"""


def markdown(card: Card, first: str) -> str:
    """Return the complete card; `first` is its first sentence."""
    first = _opening(card, first)
    return f"# {card.name}\n\n{first}\n{_body(card)}\n\nThe same content for programs: model_card.json.\n"


def description(card: Card, first: str, link: str) -> str:
    """Return the card within `DESCRIPTION_LIMIT`: the first sections that fit, and a `link` to the complete card."""
    first = _opening(card, first)
    sections = re.split(r"\n(?=## )", _add_table_space(_body(card)))[1:]
    names = [section.partition("\n")[0].removeprefix("## ").lower() for section in sections]
    for shown in range(len(sections), -1, -1):
        rest = f"**Only in the complete card: {', '.join(names[shown:])}.** " if shown < len(sections) else ""
        text = "\n".join([first, "", *sections[:shown], "", f"{rest}The complete card: {link}"])
        if len(text) <= DESCRIPTION_LIMIT:
            return text
    return first


def _opening(card: Card, first: str) -> str:
    """Return the first sentence of a card, and for which patients its numbers hold."""
    return f"{first}\n\n{_escaped(card.holds_for)}"


def _add_table_space(text: str) -> str:
    """Add space between columns and below tables, because MLflow's registry page draws none."""
    rows = [re.sub(r" \|(?=.)", f"{GAP}|", row) if row.startswith("| ") else row for row in text.splitlines()]
    return re.sub(r"\|\n\n", "|\n\n&nbsp;\n\n", "\n".join(rows) + "\n\n")


def _body(card: Card) -> str:
    text = TEMPLATES.from_string(TEMPLATE).render(card=card)
    one_line = re.sub(r"(?<=[^\n])\n(?=[\w(])", " ", text)  # MLflow shows a newline in a paragraph as a line break
    return re.sub(r"\n{3,}", "\n\n", one_line).rstrip()


class Markdown(str):
    """Text that needs no escape."""

    __slots__ = ()


def _escaped(value) -> str:
    """Escape text from data: it appears as written, on one line, and not as HTML or Markdown."""
    if isinstance(value, Markdown):
        return value
    text = MARKDOWN_CHARACTERS.sub(r"\\\1", " ".join(str(value).split()).replace("&", "&amp;").replace("<", "&lt;"))
    return LINE_STARTS.sub(lambda m: f"{m[1]}\\" if m[1].isdigit() else f"\\{m[1]}", text)


def _own(text: str) -> Markdown:
    """Return the site's own Markdown on one line, valid within a table too."""
    return Markdown(" ".join(text.split()).replace("|", "\\|"))


def _label(metric: str) -> str:
    """Return the label of a metric, named as in the summary or as in the comparison."""
    if metric == "test_rule_dice":
        return "Dice of the rule without a network"
    label = METRIC_LABELS[metric.removeprefix("test_")]
    return f"{label.long}, {label.unit}" if label.unit else label.long


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _interval(measured, prefix: str = "") -> str:
    low, high = (getattr(measured, f"{prefix}ci_{end}") for end in ("low", "high"))
    return "–" if low is None else f"{low:.3f} to {high:.3f}"


def _quartiles(measured) -> str:
    return f"{measured.q1:.3f} to {measured.q3:.3f}"


def _percent(value: float | None) -> str:
    return "unknown" if value is None else f"{100 * value:.0f} %"


def _ranges(axes: list[list[float]] | None, unit: str) -> str:
    if axes is None:
        return f"unknown {unit}"
    return " × ".join(f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g}" for low, high in axes) + f" {unit}"


def _listed(patients: dict[str, int]) -> str:
    return ", ".join(f"{name} ({count} patients)" for name, count in patients.items()) or "unknown"


def _packages(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())


TEMPLATES = jinja2.Environment(
    trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined, finalize=_escaped,
    autoescape=False,  # noqa: S701 - this is Markdown, and `_escaped` escapes text from data
)  # fmt: skip
TEMPLATES.filters |= {
    "own": _own, "label": _label, "number": _number, "interval": _interval, "quartiles": _quartiles,
    "percent": _percent, "ranges": _ranges, "listed": _listed, "packages": _packages,
    "out_of_fold": out_of_fold,
}  # fmt: skip
