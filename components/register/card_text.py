"""The model card as markdown: whole for the MLflow run, and as much of it as a registry entry holds."""

import re

import jinja2

from components.register.card import Card

DESCRIPTION_LIMIT = 5000
"""Characters of a version's description in MLflow's database (a PostgreSQL server refuses more)."""
METRICS = {
    "test_lesion_dice": "Dice, patients with a lesion",
    "test_dice": "Dice, all patients",
    "test_rule_dice": "Dice of the rule without a network",
    "test_iou": "IoU",
    "test_lesion_f1": "Lesion-wise F1, any touch",
    "test_lesion_f1_matched": "Lesion-wise F1, matched",
    "test_surface_distance_95_mm": "Surface distance, 95 %, mm",
    "test_absolute_volume_difference_ml": "Absolute volume difference, mL",
    "test_relative_volume_difference": "Relative volume difference",
    "test_lesion_count_difference": "Lesion count difference",
}
GAP = "\u2003\u200b"
"""An em space, and a zero-width one that keeps MLflow's page from trimming it: an entity would take thrice the room."""
MARKS = re.compile(
    r"([\\`*\[\]|~]|(?<![^\W_])_|_(?![^\W_])|(?:(?<=http)|(?<=https)|(?<=ftp)):|(?<=www)\.)", re.IGNORECASE
)
"""What markdown would take for its own, an address that it would make a link of too; no underscore within a word."""
BEGINNINGS = re.compile(r"^(#|>|[-+](?=[-\s]|$)|\d{1,9}(?=[.)](?:\s|$)))")
"""What would make a heading, a quotation, a list or a rule of a name that a line begins with."""

TEMPLATE = """
## Use

{{ card.summary | own }}

**{{ card.release_stage | own }}**

- **For:** {{ card.intended_use | own }}
- **By:** {{ card.intended_users | own }}
- **Of:** {{ card.target_population | own }}
- **How:** {{ card.how_to_use | own }}
- **Made by:** {{ card.developer | own or "nobody is named" }}. **Ask:** {{ card.contact | own or "nobody is named" }}.

## Not for

{% for line in card.out_of_scope %}
- {{ line | own }}
{% endfor %}

## Metrics

On {{ card.test_patients }} {% if card.data.synthetic %}**synthetic** {% endif %}held-out patients, whole scans, native
space, mean over patients and its 95 % interval (none below 5 patients); threshold
{{ "%.2f" | format(card.threshold) }}, which these patients did not choose.

| metric | mean | 95 % interval | median | quartiles |
|---|---:|---:|---:|---:|
{% for name, m in card.eval_metrics.items() %}
| {{ labels.get(name, name) }} | {{ m.mean | number }} | {{ m | interval }} | {{ m.median | number }} | \
{{ m | quartiles }} |
{% endfor %}

## Limits

{% for line in card.limits %}
- {{ line }}
{% endfor %}

## Strata

{% for name, rows in card.strata.items() %}
By {{ name }}; off is the absolute volume difference.

| | patients | scans | Dice | 95 % | F1 | off, mL |
|---|---:|---:|---:|---:|---:|---:|
{% for row, s in rows.items() if s.scans %}
| {{ row }} | {{ s.patients }} | {{ s.scans }} | {{ s.dice_mean | number }} | \
{{ s | interval("dice_") }} | {{ s.lesion_f1_mean | number }} | \
{{ s.absolute_volume_difference_ml_mean | number }} |
{% endfor %}

{% endfor %}
Where no lesion is, {{ card.lesion_free.scans_with_false_lesion }} of {{ card.lesion_free.scans }} scans got one
({{ card.lesion_free.false_positive_ml_mean | number }} mL on average).

## How sure

- **Volume, predicted less true:** {{ card.volume.bias_ml | number }} mL (95 % limits of agreement \
{{ card.volume.agreement_low_ml | number }} to {{ card.volume.agreement_high_ml | number }}).
- **A scan's volume interval:** {{ card.volume.interval_level | percent }} meant, \
{{ card.volume.interval_coverage | percent }} of the test volumes inside.
- **Calibration error:** {{ card.calibration.ece_before | number }} before, {{ card.calibration.ece_after | number }} \
after temperature {{ card.calibration.temperature | number }}.
- **Marked for review:** {{ card.review.flagged }} of {{ card.review.scans }} scans, among them \
{{ card.review.failures_flagged }} of {{ card.review.failures }} failures ({{ card.review.failure }}).

## Failures

The worst test scans. Pictures are artifacts of the MLflow run; evaluation.html is one, with failures drawn whole.

{% for f in card.failures %}
- **{{ f.case }}**: Dice {{ f.dice | number }}, lesion F1 {{ f.lesion_f1 | number }}; {{ f.predicted_ml | number }} mL \
predicted, {{ f.truth_ml | number }} mL true; {{ f.lesions_found }} of {{ f.lesions }} lesions found, \
{{ f.false_lesions }} false. Marked for review: {{ f.needs_review | join("; ") or "no" }}. Pictures: \
{{ f.pictures | join(", ") or "none" }}.
{% endfor %}

## Against the champion

{% if card.comparison.champion %}
With version {{ card.comparison.champion }}, on the same test patients: this one less that one.

{% endif %}
{% if card.comparison.reason %}
No ground for a promotion: {{ card.comparison.reason }}.

{% endif %}
{% if card.comparison.differences %}
| metric | difference | 95 % interval |
|---|---:|---:|
{% for name, m in card.comparison.differences.items() %}
| {{ labels.get("test_" ~ name, name) }} | {{ m.mean | number }} | {{ m | interval }} |
{% endfor %}
{% endif %}

## Risks and biases

{% for line in card.known_risks + card.known_biases %}
- {{ line | own }}
{% endfor %}

{{ card.maintenance | own }}

## In and out

{% for way, tensors in (("in", card.network_data_format.inputs), ("out", card.network_data_format.outputs)) %}
{% for name, t in tensors.items() %}
- `{{ name | own }}` ({{ way }}): {{ t.channel_def.values() | join("; ") }}.
{% endfor %}
{% endfor %}
- Learnt from voxels of {{ card.data.voxel_mm | ranges("mm") }}, scans of {{ card.data.shape | ranges("voxels") }}.

## Data

- **Source:** {{ card.data.data_source }}{% if card.data.synthetic %} (**synthetic**){% endif %}, layout \
{{ card.data.layout }}
- **Labelled:** {{ card.data.patients }} patients, {{ card.data.scans }} scans, {{ card.data.lesion_free_scans }} of \
them lesion-free; {{ card.data.unlabelled_scans }} unlabelled scans left aside
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

Attention U-Net, {{ "%.2f" | format(card.training.model_parameters / 1e6) }} M parameters, on
{{ card.training.hardware }}. {{ card.training.epochs }} epochs\
{% if card.training.seconds %} in {{ "%.0f" | format(card.training.seconds) }} s{% endif %}, the best was
{{ card.training.best_epoch }}.

{% for name, value in card.training.settings.items() %}
- {{ name }}: {{ value }}
{% endfor %}

## Versions

- **This one:** {{ card.version }}
- **Image:** {{ card.versions.image_tag }}
- **Git commit:** {{ card.versions.git_commit or "none: the code came from no git checkout" }}
{% for name in ("data_version", "cases_sha256", "split_digest", "training_digest", "evaluation_digest", \
"weights_sha256") %}
- **{{ name }}:** {{ card.versions[name] }}
{% endfor %}
- **Packages:** {{ card.versions.packages | packages }}
"""


def markdown(card: Card, first: str) -> str:
    """The whole card, after its first sentence."""
    return f"# {card.name}\n\n{first}\n{_body(card)}\n\nThe same for programs: model_card.json.\n"


def description(card: Card, first: str, whole: str) -> str:
    """The card within `DESCRIPTION_LIMIT`: its first sections, as many as fit whole, and where the `whole` one is."""
    sections = re.split(r"\n(?=## )", _airy(_body(card)))[1:]
    names = [section.partition("\n")[0].removeprefix("## ").lower() for section in sections]
    for shown in range(len(sections), -1, -1):
        left = f"**In the whole card too: {', '.join(names[shown:])}.** " if shown < len(sections) else ""
        text = "\n".join([first, "", *sections[:shown], "", f"{left}The whole card: {whole}"])
        if len(text) <= DESCRIPTION_LIMIT:
            return text
    return first


def _airy(text: str) -> str:
    """MLflow's registry draws tables without any space between columns, and none below."""
    rows = [re.sub(r" \|(?=.)", f"{GAP}|", row) if row.startswith("| ") else row for row in text.splitlines()]
    return re.sub(r"\|\n\n", "|\n\n&nbsp;\n\n", "\n".join(rows) + "\n\n")


def _body(card: Card) -> str:
    text = TEMPLATES.from_string(TEMPLATE).render(card=card, labels=METRICS)
    one_line = re.sub(r"(?<=[^\n])\n(?=[\w(])", " ", text)  # MLflow shows a line's end within a paragraph as one
    return re.sub(r"\n{3,}", "\n\n", one_line).rstrip()


class Markdown(str):
    """Text that is markdown already."""

    __slots__ = ()


def _escaped(value) -> str:
    """What came from data shows as it is written there, on one line, and is no HTML."""
    if isinstance(value, Markdown):
        return value
    text = MARKS.sub(r"\\\1", " ".join(str(value).split()).replace("&", "&amp;").replace("<", "&lt;"))
    return BEGINNINGS.sub(lambda m: f"{m[1]}\\" if m[1].isdigit() else f"\\{m[1]}", text)


def _own(text: str) -> Markdown:
    """The site's own markdown, on one line, within a table too."""
    return Markdown(" ".join(text.split()).replace("|", "\\|"))


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
    autoescape=False,  # noqa: S701 - this is Markdown, and `_escaped` sees to what comes from data
)  # fmt: skip
TEMPLATES.filters |= {
    "own": _own, "number": _number, "interval": _interval, "quartiles": _quartiles, "percent": _percent,
    "ranges": _ranges, "listed": _listed, "packages": _packages,
}  # fmt: skip
