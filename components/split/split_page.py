"""Write a page about the split: the patients of each subset, and the numbers of patients and scans."""

from pathlib import Path

from components.artifacts.headline import LOOKED_AT
from components.artifacts.split_file import Split, patients_tested
from components.core.html_page import render

MOST_NAMES = 500

BODY = """
<p>By patient, never by slice; stratified by lesion volume; seed {{ random_seed }}, digest {{ digest[:12] }}.</p>
<p>{{ summary[0]|upper }}{{ summary[1:] }}.</p>
<table><tr><th>subset</th><th>for</th><th>patients</th><th>lesion-free</th><th>scans</th><th>share asked</th>
<th>share reached</th></tr>
{% for s in subsets %}<tr><td>{{ s.name }}</td><td>{{ s.purpose }}</td><td class="n">{{ s.patients|length }}</td>
<td class="n">{{ s.lesion_free }}</td><td class="n">{{ s.scans }}</td>
<td class="n">{{ '%.1f'|format(100 * s.asked) }} %</td>
<td class="n">{{ '%.1f'|format(100 * s.reached) }} %</td></tr>{% endfor %}</table>
<p>{{ looked_at }}</p>
{% if tested < 10 %}<p class="note">
Fewer than 10 test patients are too few to conclude anything from.</p>{% endif %}
{% if linked %}<h2>Kept together</h2><p>These share a byte-identical image.</p><ul>
{% for group in linked[:most] %}<li>{{ group|join(', ') }}</li>{% endfor %}</ul>{% endif %}
{% if alike %}<h2>Look-alikes</h2><p>These scans look the same, and are in one subset by chance. If they are of one
patient, give them one patient name.</p><ul>
{% for one, other, similarity in alike[:most] %}
<li>{{ one }}, {{ other }} (similarity {{ '%.3f'|format(similarity) }})</li>{% endfor %}</ul>{% endif %}
{% for s in subsets %}<h2>{{ s.name }}</h2><p>{{ s.patients[:most]|join(', ') }}{% if s.patients|length > most %}
… and {{ s.patients|length - most }} more, in the split artifact{% endif %}</p>{% endfor %}
"""
PURPOSE = {"train": "training", "val": "choice of weights and threshold", "test": "test of every run and promotion"}
OF_FOLD = "test of one network, validation of another, training of the others"


def write_page(split: Split, synthetic: bool, page: Path) -> None:
    """Write the page (under 1 MB); `synthetic` adds the warning about synthetic scans."""
    subsets = [
        {
            "name": name, "purpose": PURPOSE.get(name, OF_FOLD), "patients": patients, "scans": len(split.cases[name]),
            "lesion_free": len(set(patients) & set(split.lesion_free)),
            "asked": split.ratios_asked[name], "reached": split.ratios_reached[name],
        }
        for name, patients in split.patients.items()
    ]  # fmt: skip
    page.write_text(
        render(
            BODY,
            title="Split by patient",
            synthetic=synthetic,
            subsets=subsets,
            most=MOST_NAMES,
            tested=len(patients_tested(split.patients)),
            random_seed=split.random_seed,
            digest=split.digest,
            linked=split.linked,
            alike=split.alike,
            summary=describe(split),
            looked_at=LOOKED_AT,
        )
    )


def describe(split: Split) -> str:
    """Describe in one line whether the split extends an earlier one, and the ratios asked and reached."""
    total = sum(map(len, split.patients.values()))
    asked, reached = (
        "/".join(f"{ratios[subset]:.2f}".lstrip("0") for subset in split.patients)
        for ratios in (split.ratios_asked, split.ratios_reached)
    )
    if split.extends:
        kept = split.extends.patients_kept
        origin = f"extends the split of version {split.extends.version}: {kept} patients keep their subset, "
        origin += f"{total - kept} new patients assigned"
    elif split.carry_split:
        origin = f"all {total} patients are new"
    else:
        origin = f"all {total} patients drawn again, because of carry_split=false"
    return f"{origin}; ratios asked {asked}, reached {reached}"
