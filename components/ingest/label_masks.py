"""Which masks are labels, and which a model has predicted: no prediction is learnt from until a person changed it."""

import csv
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np

from components.core.storage import local_path
from components.core.text import look
from components.ingest.file_names import FLAT, SCAN_ENDING
from components.ingest.found_files import Candidate, Case
from components.scans.prediction_mark import DIGEST, FIRST_COLUMNS, digest, read_mark
from components.scans.volumes import BadVolume

MOST_BYTES = 2**26
"""A table beyond it is not one of `make predict`."""
PREDICTED = "{} is a model's {}: not taken as a label"
CHANGED = "{} was predicted by a model and changed since: taken as a label"


class Predictions:
    """What the tables that `make predict` left in a data set say of masks.

    listed: folder of a table to name of a mask, as a person sees it, to its digest, None where the table knows none.
    digests: all of them, but of masks without a lesion, which say nothing.
    """

    def __init__(self, tables: Iterable[str] = (), source: Path = Path()):
        self.listed: dict[str, dict[str, str | None]] = {}
        self.digests: set[str] = set()
        for key in tables:
            if (rows := _rows(local_path(source, key))) is None:
                continue
            names = self.listed.setdefault(key[: key.rfind("/") + 1], {})
            for row in rows:
                if (row.get("mask") or "").count("/") == 1:
                    names[name_of(row["mask"])] = row.get(DIGEST)
                self.digests.add(row.get(DIGEST))
        self.digests -= {None, ""}

    def of(self, candidate: Candidate, name: str) -> tuple[bool, str | None]:
        """Whether a table of ours stands beside the mask's folder, and the digest that it lists for it."""
        at = FLAT.match(candidate.keys[0])
        names = self.listed.get(at["parent"]) if at else None
        if names is None:
            return False, None
        return True, names.get(name_of(candidate.keys[0])) or names.get(look(name))

    def knows_digests(self, candidate: Candidate) -> bool:
        at = FLAT.match(candidate.keys[0])
        return any(self.listed[at["parent"]].values())


NO_PREDICTIONS = Predictions()


def labelled(
    case: Case, source: Path, predictions: Predictions, read: Callable[[list[str], Path], tuple]
) -> tuple[Case, list[str]]:
    """The case with the mask that is its label, and what to say of the others; `read` makes a volume of some keys.

    Raises:
        BadVolume: more than one is a label, or the label lies in another data set than the image.
    """
    labels, said = [], []
    for candidate in case.candidates:
        is_label, line = _judged(candidate, case.name, source, predictions, read)
        in_folder, _ = predictions.of(candidate, case.name)
        beside = candidate.beside or (in_folder and candidate.folder_beside)
        labels += [replace(candidate, beside=beside)] * is_label
        said += [line] * bool(line)
    case = replace(case)
    if why := case.label(labels):
        raise BadVolume(why)
    return case, said


def _judged(candidate: Candidate, name: str, source: Path, predictions: Predictions, read: Callable):
    """Whether a mask is a label, and what to say of it."""
    key = candidate.keys[0]
    mark = read_mark(local_path(source, key)) if len(candidate.keys) == 1 else None
    if mark and not mark.digest:
        return False, PREDICTED.format(key, "probability map")
    in_folder, listed = predictions.of(candidate, name)
    if not (mark or in_folder or predictions.digests):
        return True, ""
    try:
        mask, _ = read(candidate.keys, source)
    except BadVolume:
        return True, ""  # it is refused with its reason as any mask is
    voxels = digest(mask)
    if voxels in {mark and mark.digest, listed} or (voxels in predictions.digests and np.any(mask > 0.5)):
        return False, PREDICTED.format(key, "prediction")
    if in_folder and not listed and not mark and not predictions.knows_digests(candidate):
        return False, PREDICTED.format(key, "prediction (its table is of an earlier version and knows no digests)")
    return True, CHANGED.format(key) if mark or listed else ""


def name_of(key: str) -> str:
    """The name of a file as a person sees it, its folders and extension aside."""
    return look(SCAN_ENDING.sub("", key.rsplit("/", 1)[-1]))


def _rows(table: Path) -> list[dict[str, str]] | None:
    """Its rows; None where `make predict` did not write it."""
    try:
        if table.is_symlink() or table.stat().st_size > MOST_BYTES:
            return None
        with table.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            rows = csv.DictReader(file)
            return list(rows) if list(rows.fieldnames or ())[: len(FIRST_COLUMNS)] == FIRST_COLUMNS else None
    except (OSError, csv.Error):
        return None
