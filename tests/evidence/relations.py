"""Tables of a model on real scans: the relations that its predictions must hold, and what they are worth."""

from pathlib import Path

import numpy as np

from components.core.volumes import read_nifti_bytes
from components.evaluate.metrics import case_metrics
from components.unet.head import find_head
from components.unet.rule import rule_mask
from tests.relations import real
from tests.relations.changes import stored
from tests.relations.measure import Model, Row, measure

FAILS = "✗"


def relations(weights: Path) -> str:
    """A row a relation, a column a scan: change of volume in % / Dice of the two predictions, ✗ where it fails."""
    model = Model(weights)
    rows = {name: {row.relation: row for row in measure(model, real.scan(name))} for name in real.names()}
    if not rows:
        return real.ABSENT
    listed = {relation: row.exact for of in rows.values() for relation, row in of.items()}
    header = ["relation", "kind", *rows]
    volumes = ["predicted volume (mL)", "", *(f"{next(iter(of.values())).before_ml:.2f}" for of in rows.values())]
    body = [
        [relation, "exact" if exact else "loose", *(_cell(of.get(relation)) for of in rows.values())]
        for relation, exact in sorted(listed.items(), key=lambda item: not item[1])
    ]
    failing = [sum(not row.holds for row in of.values()) for of in rows.values()]
    counts = [f"{n} of {len(of)}" for n, of in zip(failing, rows.values(), strict=True)]
    return markdown([header, volumes, *body, ["fail", "", *counts]])


def _cell(row: Row | None) -> str:
    if row is None:
        return ""
    if row.refused:
        return f"refused {FAILS}"
    return f"{row.change_percent:+.1f} / {row.dice:.3f}" + (f" {FAILS}" if not row.holds else "")


def markdown(rows: list[list[str]]) -> str:
    """A table; the first row is its header."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], "|---" * len(rows[0]) + "|", *lines[1:]])


def real_scans(weights: Path) -> str:
    """Each real scan with a mask: volumes, Dice and lesion-wise F1 of the model and of the rule without a network."""
    model = Model(weights)
    header = ["scan", "true (mL)", *(f"{who}{what}" for who in ("model: ", "rule: ") for what in ("mL", "Dice", "F1"))]
    body, measured = [], []
    for name in real.nifti_names():
        truth, scan = real.truth(name), real.scan(name)
        if truth is None:
            continue
        volume, geometry = read_nifti_bytes(stored(scan, scan.voxels)[1])
        ruled = geometry.native(rule_mask(volume, geometry.voxel_mm, find_head(volume, geometry.voxel_mm).mask))
        found = [case_metrics(mask, truth, scan.voxel_mm) for mask in (model.before(scan), ruled)]
        measured.append([of[key] for of in found for key in ("predicted_ml", "dice", "lesion_f1")])
        body.append([name, f"{found[0]['truth_ml']:.2f}", *_figures(measured[-1])])
    if not measured:
        return real.ABSENT
    return markdown([header, *body, ["mean", "", *_figures(np.mean(measured, axis=0))]])


def _figures(values) -> list[str]:
    """Volume in mL, Dice and F1 of the model, then of the rule."""
    return [f"{value:.2f}" if number % 3 == 0 else f"{value:.3f}" for number, value in enumerate(values)]
