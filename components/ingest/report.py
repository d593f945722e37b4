"""The data report: what was found, what was repaired, what was refused and why."""

from pathlib import Path

import nibabel as nib
import numpy as np

from components.core.html_page import render, thumbnail

MOST_THUMBNAILS, MOST_ROWS = 60, 1000
LESION = (255, 90, 60)

BODY = """
<p><b>{{ cases|selectattr('labelled')|list|length }}</b> labelled and
<b>{{ cases|rejectattr('labelled')|list|length }}</b> unlabelled scans of <b>{{ patients }}</b> patients in the
{{ layout }} layout; <b class="bad">{{ refused|length }}</b> refused; {{ ignored }} other files left alone.
<br>{{ data_uri }}, version {{ data_version[:12] }}</p>
{% for note in notes %}<p class="note">{{ note }}</p>{% endfor %}
{% if refused %}<h2>Refused</h2><table><tr><th>case</th><th>why</th></tr>
{% for name, why in (refused.items()|list)[:most] %}<tr><td>{{ name }}</td><td>{{ why }}</td></tr>{% endfor %}</table>
{% if refused|length > most %}<p>The first {{ most }} of {{ refused|length }}.</p>{% endif %}{% endif %}
<h2>Pictures</h2><div class="tiles">{% for t in tiles %}<figure><img src="{{ t.src }}" alt="{{ t.name }}">
<figcaption>{{ t.name }}<br>{{ t.what }}</figcaption></figure>{% endfor %}</div>
{% if tiles|length < cases|length %}<p>The first {{ tiles|length }} of {{ cases|length }} are shown.</p>{% endif %}
<h2>Cases</h2><table><tr><th>case</th><th>patient</th><th>grid</th><th>voxel (mm)</th><th>stored as</th>
<th>lesion</th>{% if sited %}<th>site</th><th>scanner</th>{% endif %}
<th>ADC unit found</th><th>repaired or noted</th></tr>
{% for c in cases[:most] %}<tr><td>{{ c.case }}</td><td>{{ c.patient }}</td><td>{{ c.shape|join(' × ') }}</td>
<td>{% if c.voxel_mm %}{{ c.voxel_mm|map('round', 2)|join(' × ') }}{% else %}unknown{% endif %}</td>
<td>{{ c.orientation_found or '.npy' }}</td><td>{{ lesion(c) }}</td>
{% if sited %}<td>{{ c.site or '' }}</td><td>{{ c.scanner or '' }}</td>{% endif %}<td>{{ c.adc_unit_found or '' }}</td>
<td>{{ c.repairs|join('; ') }}</td></tr>{% endfor %}</table>
{% if cases|length > most %}<p>The first {{ most }} of {{ cases|length }}; all are in cases.json.</p>{% endif %}
"""


def lesion_words(case: dict) -> str:
    """The lesion of a `cases.json` entry in words: unlabelled, lesion-free, or its size."""
    if not case["labelled"]:
        return "unlabelled"
    if case["lesion_voxels"] == 0:
        return "lesion-free"
    if case["lesion_ml"] is None:
        return f"{case['lesion_voxels']} voxels"
    return f"{case['lesion_ml']:.3g} mL"


def write_report(facts: dict, folder: Path, page: Path) -> None:
    """Write the page for the content of `cases.json` and the volumes in `folder`; under 1 MB."""
    cases = facts["cases"]
    tiles = [{"name": c["case"], "what": lesion_words(c), "src": _picture(c, folder)} for c in cases[:MOST_THUMBNAILS]]
    page.write_text(
        render(
            BODY,
            title="Data report",
            tiles=tiles,
            most=MOST_ROWS,
            patients=len({c["patient"] for c in cases}),
            lesion=lesion_words,
            sited=any(c["site"] or c["scanner"] for c in cases),
            **{k: facts[k] for k in ("cases", "refused", "notes", "layout", "data_uri", "data_version", "synthetic")},
            ignored=len(facts["ignored"]),
        )
    )


def _picture(case: dict, folder: Path) -> str:
    image = nib.load(folder / case["files"]["dwi"]).dataobj
    s, outlines = case["shape"][2] // 2, {}
    if case["lesion_voxels"]:
        mask = np.asarray(nib.load(folder / case["files"]["mask"]).dataobj)
        s = int(mask.sum((0, 1)).argmax())
        outlines = {LESION: mask[:, :, s]}
    return thumbnail(np.asarray(image[:, :, s], np.float32), outlines)
