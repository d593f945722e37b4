"""Tell labels from predictions: a mask that a model predicted becomes a label only after a person changed it."""

import csv
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np

from components.core.storage import local_path
from components.core.text import look
from components.ingest.file_names import FLAT, SCAN_ENDING
from components.ingest.found_files import FoundCase, MaskCandidate
from components.scans.prediction_mark import DIGEST, FIRST_COLUMNS, digest, read_mark
from components.scans.volumes import BadVolume, Geometry

MOST_BYTES = 2**26
"""Largest table that is read."""
PREDICTED = "{} is a model's {}: not used as a label"
CHANGED = "{} was predicted by a model and changed since: used as a label"


ReadKeys = Callable[[list[str], Path], tuple[np.ndarray, Geometry]]


class Predictions:
    """The predicted masks in the tables that `make predict` wrote into a data set."""

    def __init__(self, tables: Iterable[str] = (), source: Path = Path()):
        self.by_folder: dict[str, dict[str, str | None]] = {}
        """Folder of a table to mask name (in the form of `look`) to digest; None if an older table has no digest."""
        digests: set[str | None] = set()
        for key in tables:
            if (rows := _rows(local_path(source, key))) is None:
                continue
            names = self.by_folder.setdefault(key[: key.rfind("/") + 1], {})
            for row in rows:
                if (row.get("mask") or "").count("/") == 1:
                    names[display_name(row["mask"])] = row.get(DIGEST)
                digests.add(row.get(DIGEST))
        self.digests = {digest for digest in digests if digest}
        """Digests of all predicted masks. Masks without a lesion have none: they are all the same."""

    def lookup(self, candidate: MaskCandidate, case: str) -> tuple[bool, str | None]:
        """Return whether a table is beside the mask's folder, and the digest that it lists for the mask or the case."""
        at = FLAT.match(candidate.keys[0])
        names = self.by_folder.get(at["parent"]) if at else None
        if names is None:
            return False, None
        return True, names.get(display_name(candidate.keys[0])) or names.get(look(case))

    def table_has_digests(self, candidate: MaskCandidate) -> bool:
        """Return whether the table beside the mask's folder lists any digest."""
        at = FLAT.match(candidate.keys[0])
        return at is not None and any(self.by_folder[at["parent"]].values())


NO_PREDICTIONS = Predictions()


def with_label(case: FoundCase, source: Path, predictions: Predictions, read: ReadKeys) -> tuple[FoundCase, list[str]]:
    """Return the case with its label as mask, and notes about its other masks.

    `read` makes one volume from the keys of a case in the folder `source`.

    Raises:
        BadVolume: more than one mask is a label, or the label and the image are in two data sets.
    """
    labels, notes = [], []
    for candidate in case.candidates:
        is_label, note = _is_label(candidate, case.name, source, predictions, read)
        has_table, _ = predictions.lookup(candidate, case.name)
        if is_label:
            in_place = candidate.in_place or (has_table and candidate.folder_in_place)
            labels.append(replace(candidate, in_place=in_place))
        if note:
            notes.append(note)
    case = replace(case)
    if why := case.choose_mask(labels):
        raise BadVolume(why)
    return case, notes


def _is_label(
    candidate: MaskCandidate, case: str, source: Path, predictions: Predictions, read: ReadKeys
) -> tuple[bool, str]:
    """Return whether a mask is a label, and a note about it ("" for no note)."""
    key = candidate.keys[0]
    mark = read_mark(local_path(source, key)) if len(candidate.keys) == 1 else None
    if mark and not mark.digest:
        return False, PREDICTED.format(key, "probability map")
    has_table, listed = predictions.lookup(candidate, case)
    if not (mark or has_table or predictions.digests):
        return True, ""
    try:
        mask, _ = read(candidate.keys, source)
    except BadVolume:
        return True, ""  # validation reads it again and refuses it with the reason
    voxels = digest(mask)
    if voxels in {mark and mark.digest, listed} or (voxels in predictions.digests and np.any(mask > 0.5)):
        return False, PREDICTED.format(key, "prediction")
    if has_table and not listed and not mark and not predictions.table_has_digests(candidate):
        return False, PREDICTED.format(key, "prediction (its table is of an earlier version, without digests)")
    return True, CHANGED.format(key) if mark or listed else ""


def display_name(key: str) -> str:
    """Return a file's name, without folders and extension, in the form of `look`."""
    return look(SCAN_ENDING.sub("", key.rsplit("/", 1)[-1]))


def _rows(table: Path) -> list[dict[str, str]] | None:
    """Return the rows of a table; None if `make predict` did not write it."""
    try:
        if table.is_symlink() or table.stat().st_size > MOST_BYTES:
            return None
        with table.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            rows = csv.DictReader(file)
            return list(rows) if list(rows.fieldnames or ())[: len(FIRST_COLUMNS)] == FIRST_COLUMNS else None
    except (OSError, csv.Error):
        return None
