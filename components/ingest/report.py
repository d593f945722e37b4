"""Write the data report: what was found, what was repaired, and what was refused for which reason."""

from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from components.artifacts.cases import Case, Cases
from components.core.html_page import render, thumbnail
from components.scans.viewer.page import PLACE, Mask, Viewer, Volumes

MOST_THUMBNAILS, MOST_ROWS = 60, 1000
LESION = (255, 90, 60)

BODY = """
<p><b>{{ cases|selectattr('labelled')|list|length }}</b> labelled and
<b>{{ cases|rejectattr('labelled')|list|length }}</b> unlabelled scans of <b>{{ patients }}</b> patients in the
{{ layout }} layout; <b class="bad">{{ refused|length }}</b> refused; {{ ignored }} other files ignored.
<br>{{ data_uri }}, version {{ data_version[:12] }}</p>
{% for note in notes %}<p class="note">{{ note }}</p>{% endfor %}
{% if refused %}<h2>Refused</h2><table><tr><th>case</th><th>reason</th></tr>
{% for name, why in (refused.items()|list)[:most] %}<tr><td>{{ name }}</td><td>{{ why }}</td></tr>{% endfor %}</table>
{% if refused|length > most %}<p>The first {{ most }} of {{ refused|length }}.</p>{% endif %}{% endif %}
<h2>Scans</h2>{{ viewer }}
<h2>Pictures</h2><div class="tiles">{% for t in tiles %}<figure><img src="{{ t.src }}" alt="{{ t.name }}">
<figcaption>{{ t.name }}<br>{{ t.what }}</figcaption></figure>{% endfor %}</div>
{% if tiles|length < cases|length %}<p>The first {{ tiles|length }} of {{ cases|length }} are shown.</p>{% endif %}
<h2>Cases</h2><table><tr><th>case</th><th>patient</th><th>grid</th><th>voxel (mm)</th><th>stored as</th>
<th>lesion</th>{% if has_sites %}<th>site</th><th>scanner</th>{% endif %}
<th>ADC unit found</th><th>repaired or noted</th></tr>
{% for c in cases[:most] %}<tr><td>{{ c.case }}</td><td>{{ c.patient }}</td><td>{{ c.shape|join(' × ') }}</td>
<td>{% if c.voxel_mm %}{{ c.voxel_mm|map('round', 2)|join(' × ') }}{% else %}unknown{% endif %}</td>
<td>{{ c.orientation_found or '.npy' }}</td><td>{{ lesion(c) }}</td>
{% if has_sites %}<td>{{ c.site or '' }}</td><td>{{ c.scanner or '' }}</td>{% endif %}
<td>{{ c.adc_unit_found or '' }}</td>
<td>{{ c.repairs|join('; ') }}</td></tr>{% endfor %}</table>
{% if cases|length > most %}<p>The first {{ most }} of {{ cases|length }}; all are in cases.json.</p>{% endif %}
"""


def lesion_text(case: Case) -> str:
    """Describe the lesion of a case: unlabelled, lesion-free, or its size."""
    if not case.labelled:
        return "unlabelled"
    if case.lesion_voxels == 0:
        return "lesion-free"
    if case.lesion_ml is None:
        return f"{case.lesion_voxels} voxels"
    return f"{case.lesion_ml:.3g} mL"


def write_report(validated: Cases, folder: Path, page: Path) -> None:
    """Write a page about the cases, with pictures and a viewer of the volumes in `folder`.

    Without the volumes of its viewer it has less than 1 MB.
    """
    cases = validated.cases
    tiles = [{"name": c.case, "what": lesion_text(c), "src": _picture(c, folder)} for c in cases[:MOST_THUMBNAILS]]
    text = render(
        BODY,
        title="Data report",
        tiles=tiles,
        most=MOST_ROWS,
        patients=len({c.patient for c in cases}),
        lesion=lesion_text,
        has_sites=any(c.site or c.scanner for c in cases),
        ignored=len(validated.ignored),
        cases=cases,
        refused=validated.refused,
        notes=validated.notes,
        layout=validated.layout,
        data_uri=validated.data_uri,
        data_version=validated.data_version,
        synthetic=validated.synthetic,
        viewer=PLACE,
    )
    with Viewer() as viewer:
        for case in cases:
            viewer.add(case.case, lesion_text(case), case.voxel_mm, partial(_volumes, case, folder))
        viewer.write(text, page)


def _volumes(case: Case, folder: Path) -> Volumes:
    scan = np.asarray(_voxels(folder / case.files["dwi"]))
    if not case.lesion_voxels:
        return Volumes(scan)
    return Volumes(scan, [Mask("lesion", np.asarray(_voxels(folder / case.files["mask"])), f"#{bytes(LESION).hex()}")])


def _picture(case: Case, folder: Path) -> str:
    image = _voxels(folder / case.files["dwi"])
    s, outlines = case.shape[2] // 2, {}
    if case.lesion_voxels:
        mask = np.asarray(_voxels(folder / case.files["mask"]))
        s = int(mask.sum((0, 1)).argmax())
        outlines = {LESION: mask[:, :, s]}
    return thumbnail(np.asarray(image[:, :, s], np.float32), outlines)


def _voxels(path: Path) -> Any:
    """Return the voxels of a volume, unread: a slice of them needs little memory."""
    return nib.Nifti1Image.from_filename(path).dataobj
