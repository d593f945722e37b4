"""Write the predictions of a folder: a row for each case, as CSV for a spreadsheet and as a page with pictures."""

import csv
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TextIO

import nibabel as nib
import numpy as np

from components.artifacts.synthetic import WARNING
from components.core.errors import StepError
from components.core.html_page import render, thumbnail
from components.scans.prediction_mark import DIGEST, PART, digest, read_mark
from components.scans.viewer.page import PLACE, Mask, Viewer, Volumes
from components.scans.volumes import read_nifti_bytes
from pipelines.predict.segmenter import Prediction

FORMULA = tuple("=+-@\t\r\n＝＋－＠")
"""A spreadsheet would run a cell that begins with one of these."""
SLICES, SIDE = 3, 220
PREDICTED = (249, 115, 22)
MOST_PICTURED, MOST_ROWS = 200, 2000
Pictures = list[tuple[str, str]]
"""Of one case: which slice it is, and the picture as a data URI."""


@dataclass
class Row:
    """One case; a value is empty if it does not apply. `needs_review` is yes, no, or unknown (for an old model).

    voxels: a digest of the mask's voxels. It shows that the mask is a prediction that nobody changed.
    """

    case: str
    file: str
    refused: str = ""
    lesion_ml: str = ""
    lesion_ml_low: str = ""
    lesion_ml_high: str = ""
    interval_level: str = ""
    needs_review: str = ""
    reasons: str = ""
    model: str = ""
    mask: str = ""
    probability: str = ""
    voxels: str = ""
    noted: str = ""
    words: str = field(default="", repr=False)

    @staticmethod
    def of(case: str, file: str, found: Prediction, model: str) -> "Row":
        def number(value: float | None) -> str:
            return "" if value is None else f"{value:.3f}"

        return Row(
            case, file, "", number(found.lesion_ml), number(found.lesion_ml_low), number(found.lesion_ml_high),
            "" if found.level is None else f"{found.level:g}",
            "unknown" if found.review is None else "yes" if found.review else "no",
            found.review or "", model, voxels=digest(found.lesion), noted="; ".join(found.noted), words=found.volume,
        )  # fmt: skip


COLUMNS = [f.name for f in fields(Row) if f.name != "words"]
EARLIER_COLUMNS = [name for name in COLUMNS if name not in (DIGEST, "noted")]
"""Of tables that older checkouts wrote."""


class Table:
    """`predictions.csv` as it grows: rows are on disk as they come, the name is there once the table is whole."""

    def __init__(self, path: Path):
        self.path, self.part = path, _part(path)
        self.file: TextIO = self.part.open("x", encoding="utf-8-sig", errors="surrogateescape", newline="")
        self.writer = csv.writer(self.file)
        self.writer.writerow(COLUMNS)

    def add(self, row: Row) -> None:
        self.writer.writerow([_no_formula(getattr(row, column)) for column in COLUMNS])
        self.file.flush()

    def finish(self) -> None:
        self.file.close()
        self.part.rename(self.path)


def listed(path: Path) -> set[str]:
    """The files that an earlier table at `path`, or a part of one, says were made; and the tables themselves.

    Raises:
        StepError: it is not such a table.
    """
    made = set()
    for table in filter(Path.exists, (path, _part(path))):
        made.add(table.name)
        with table.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            rows = csv.DictReader(file)
            if rows.fieldnames and rows.fieldnames not in (COLUMNS, EARLIER_COLUMNS):
                raise StepError(f"{table} exists, and make predict did not write it. Name another OUTPUT.")
            made |= {row[column] for row in rows for column in ("mask", "probability") if row[column]}
    return made


def is_untouched(path: Path) -> bool:
    """Return whether `make predict` wrote the file and nobody changed its voxels: only then may it be replaced."""
    mark = read_mark(path)
    if mark is None or mark.digest is None:
        return mark is not None  # a probability map, which nobody corrects
    try:
        return digest(np.asanyarray(nib.load(path).dataobj)) == mark.digest  # type: ignore[attr-defined]
    except (OSError, EOFError, ValueError, zlib.error, nib.filebasedimages.ImageFileError):
        return False


def _part(path: Path) -> Path:
    return path.with_name(path.name + PART)


def _no_formula(text: str) -> str:
    return f"'{text}" if text.startswith(FORMULA) else text


BODY = """
<p class="note"><b>Research use only.</b> Lesions as {{ model }} predicts them; nobody has looked at them yet.</p>
{% if warning %}<p class="note bad"><b>This model {{ warning }}.</b></p>{% endif %}
<p><b>{{ predicted|length }}</b> scans of {{ source }} were segmented{% if flagged %}, <b>{{ flagged|length }}</b> of
them to be reviewed{% endif %}; in <b>{{ free }}</b> no lesion is predicted;
<b{% if refused %} class="bad"{% endif %}>{{ refused|length }}</b> refused.</p>
{% if unknown %}<p>This model knows no intervals and no limits of what it has seen: whether a scan needs review is
unknown.</p>{% endif %}
{% if flagged %}<h2>To be reviewed</h2><table><tr><th>case</th><th>why</th></tr>
{% for r in flagged[:most] %}<tr><td>{{ r.case }}</td><td>{{ r.reasons }}</td></tr>{% endfor %}</table>{% endif %}
{% if refused %}<h2>Refused</h2><table><tr><th>case</th><th>why</th></tr>
{% for r in refused[:most] %}<tr><td>{{ r.case }}</td><td>{{ r.refused }}</td></tr>{% endfor %}</table>{% endif %}
<h2>Volumes</h2><table><tr><th>case</th><th>volume</th><th>review</th></tr>
{% for r in predicted[:most] %}<tr><td>{{ r.case }}</td><td>{{ r.words }}</td><td>{{ r.needs_review }}</td></tr>
{% endfor %}</table>
{% if predicted|length > most %}<p>The first {{ most }} of {{ predicted|length }}; all are in predictions.csv.</p>
{% endif %}
{% if noted %}<h2>Noted</h2><table><tr><th>case</th><th>what was assumed</th></tr>
{% for r in noted[:most] %}<tr><td>{{ r.case }}</td><td>{{ r.noted }}</td></tr>{% endfor %}
</table>{% endif %}
<h2>Scans</h2>{{ viewer }}
<h2>Pictures</h2><p>The slices with most of the predicted lesion, outlined in orange; a middle one where none is
predicted. Slices are counted from below. Radiological view: the patient's left is on the right.</p>
{% for r, pictures in drawn %}<h3>{{ r.case }}</h3><p>{{ r.words }}{% if r.reasons %}.
<b class="bad">Needs review:</b> {{ r.reasons }}{% endif %}</p><div class="tiles large">{% for slice, src in pictures %}
<figure><img src="{{ src }}" alt=""><figcaption>slice {{ slice }}</figcaption></figure>{% endfor %}</div>{% endfor %}
{% if drawn|length < predicted|length %}<p>The first {{ drawn|length }} of {{ predicted|length }} scans.</p>{% endif %}
<style>.tiles.large figure,.tiles.large img{width:{{ side }}px}h3{font-size:1rem;margin:1.5rem 0 0}</style>
"""


def page(rows: list[Row], pictures: list[Pictures], source: Path, model: str, synthetic: bool) -> str:
    """The page without its viewer; `pictures` are those of the first predicted cases, as `draw` made them.

    `synthetic`: the model learnt from synthetic scans alone.
    """
    predicted = [row for row in rows if not row.refused]
    return render(
        BODY, title="Predicted lesions", model=model, warning=WARNING if synthetic else "", source=str(source),
        predicted=predicted,
        refused=[row for row in rows if row.refused], flagged=[row for row in predicted if row.reasons],
        free=sum(row.words.startswith("no lesion") for row in predicted),
        unknown=any(row.needs_review == "unknown" for row in predicted), noted=[row for row in predicted if row.noted],
        drawn=list(zip(predicted, pictures, strict=False)), most=MOST_ROWS, side=SIDE,
        viewer=PLACE,
    )  # fmt: skip


def add_to_viewer(viewer: Viewer, case: str, found: Prediction) -> None:
    """Add a scan with its predicted mask and, if the model gives it, its probability."""

    def load() -> Volumes:
        probability = None if found.probability is None else read_nifti_bytes(found.probability)[0]
        return Volumes(found.image, [Mask("prediction", found.lesion, f"#{bytes(PREDICTED).hex()}")], probability)

    viewer.add(case, found.volume, found.voxel_mm, load)


def draw(found: Prediction) -> Pictures:
    """Return the pictures of the slices with most of the lesion; of a middle slice if there is no lesion."""
    return [
        (
            f"{s + 1} of {found.image.shape[2]}",
            thumbnail(found.image[:, :, s], {PREDICTED: found.lesion[:, :, s]}, SIDE),
        )
        for s in _slices(found.lesion)
    ]


def _slices(lesion: np.ndarray) -> Iterator[int]:
    area = lesion.sum(axis=(0, 1))
    most = sorted(int(s) for s in np.argsort(-area, kind="stable")[:SLICES] if area[s])
    yield from most or [lesion.shape[2] // 2]
