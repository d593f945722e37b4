"""The split as a page: how many patients and scans each subset has, and which."""

from pathlib import Path

from components.artifacts.headline import LOOKED_AT
from components.core.html_page import render

MOST_NAMES = 500

BODY = """
<p>By patient, never by slice; stratified by lesion volume; seed {{ random_seed }}, digest {{ digest[:12] }}.</p>
<p>{{ words[0]|upper }}{{ words[1:] }}.</p>
<table><tr><th>subset</th><th>for</th><th>patients</th><th>lesion-free</th><th>scans</th><th>share asked</th>
<th>share reached</th></tr>
{% for s in subsets %}<tr><td>{{ s.name }}</td><td>{{ s.purpose }}</td><td class="n">{{ s.patients|length }}</td>
<td class="n">{{ s.lesion_free }}</td><td class="n">{{ s.scans }}</td>
<td class="n">{{ '%.1f'|format(100 * s.asked) }} %</td>
<td class="n">{{ '%.1f'|format(100 * s.reached) }} %</td></tr>{% endfor %}</table>
<p>{{ looked_at }}</p>
{% if subsets[2].patients|length < 10 %}<p class="note">
Fewer than 10 test patients are too few to conclude anything from.</p>{% endif %}
{% if linked %}<h2>Kept together</h2><p>These share a byte-identical image.</p><ul>
{% for group in linked[:most] %}<li>{{ group|join(', ') }}</li>{% endfor %}</ul>{% endif %}
{% if alike %}<h2>Look-alikes</h2><p>These look like one scan, and lie in one subset as it happens. If they are one
patient's, give them one patient's name.</p><ul>
{% for one, other, likeness in alike[:most] %}<li>{{ one }}, {{ other }} (likeness {{ '%.3f'|format(likeness) }})</li>
{% endfor %}</ul>{% endif %}
{% for s in subsets %}<h2>{{ s.name }}</h2><p>{{ s.patients[:most]|join(', ') }}{% if s.patients|length > most %}
… and {{ s.patients|length - most }} more, in the split artifact{% endif %}</p>{% endfor %}
"""
PURPOSE = {"train": "learning", "val": "choosing weights and threshold", "test": "the test of every run and promotion"}


def write_table(facts: dict, synthetic: bool, page: Path) -> None:
    """Write the page for the content of the `split` artifact; under 1 MB."""
    subsets = [
        {
            "name": name, "purpose": PURPOSE[name], "patients": patients, "scans": len(facts["cases"][name]),
            "lesion_free": len(set(patients) & set(facts["lesion_free"])),
            "asked": facts["ratios_asked"][name], "reached": facts["ratios_reached"][name],
        }
        for name, patients in facts["patients"].items()
    ]  # fmt: skip
    told = {key: facts[key] for key in ("random_seed", "digest", "linked", "alike")}
    told |= {"words": in_words(facts), "looked_at": LOOKED_AT}
    page.write_text(
        render(BODY, title="Split by patient", synthetic=synthetic, subsets=subsets, most=MOST_NAMES, **told)
    )


def in_words(facts: dict) -> str:
    """Where the split comes from, and how near it is to what was asked for."""
    total, earlier = sum(map(len, facts["patients"].values())), facts["carried_from"]
    asked, reached = (
        "/".join(f"{facts[f'ratios_{which}'][subset]:.2f}".lstrip("0") for subset in facts["patients"])
        for which in ("asked", "reached")
    )
    if earlier:
        new = total - earlier["stay"]
        origin = (
            f"carried on from version {earlier['version']}: {earlier['stay']} known patients stay, {new} new assigned"
        )
    elif facts["carry_split"]:
        origin = f"all {total} patients are new"
    else:
        origin = f"all {total} patients drawn anew, as carry_split=false asks"
    return f"{origin}; ratios asked {asked}, reached {reached}"
