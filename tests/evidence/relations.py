"""Tables of a model on real scans: the relations that its predictions must hold, and what they are worth.

print(relations(Path("folder of best_model.pth and model.json")))
"""

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from components.core.errors import StepError
from components.evaluate.metrics import case_metrics
from components.model.threshold_rule import rule_mask
from components.scans.head import find_head
from components.scans.volumes import read_nifti_bytes
from tests.evidence.page import table
from tests.relations import real
from tests.relations.champion import champion_weights
from tests.relations.changes import stored
from tests.relations.measure import Model, Row, measure

FAILS = "✗"
FIGURES = {"predicted_ml": "mL", "dice": "Dice", "lesion_f1": "F1, any touch", "lesion_f1_matched": "F1, matched"}


def of_champion(made: Callable[[Path], str]) -> Callable[[], str]:
    """A section of the page: what `made` says of the weights of this checkout's champion.

    Raises:
        StepError: there is no champion, or there are no real scans here.
    """

    def section() -> str:
        if not real.names():
            raise StepError(real.ABSENT)
        with tempfile.TemporaryDirectory() as folder:
            return made(champion_weights(Path(folder)))

    return section


def relations(weights: Path) -> str:
    """A row a relation, a column a real scan."""
    model = Model(weights)
    rows = {name: {row.relation: row for row in measure(model, real.scan(name))} for name in real.names()}
    listed = {relation: row.exact for of in rows.values() for relation, row in of.items()}
    body = [["predicted, mL", "", *(f"{next(iter(of.values())).before_ml:.2f}" for of in rows.values())]]
    for relation, exact in sorted(listed.items(), key=lambda item: not item[1]):
        body.append([relation, "exact" if exact else "loose", *(_cell(of.get(relation)) for of in rows.values())])
    body.append(["fail", "", *(f"{sum(not r.holds for r in of.values())} of {len(of)}" for of in rows.values())])
    return f"""Of the demo's champion. A cell is the change of the predicted volume in % and the Dice between the
predictions before and after, brought home; {FAILS} where the relation fails. Exact: at most 2 % (or 0.1 mL) and at
least 0.98. Loose: at most 15 % (or 0.1 mL) and at least 0.9. A `.npy` (Patient_...) has no voxel size: its volumes are
reckoned from a head of 1,400 mL.

{table(["relation", "", *rows], body)}"""


def _cell(row: Row | None) -> str:
    if row is None:
        return ""
    if row.refused:
        return f"refused {FAILS}"
    return f"{row.change_percent:+.1f} / {row.dice:.3f}" + (f" {FAILS}" if not row.holds else "")


def real_scans(weights: Path) -> str:
    """Each real scan with a mask: volume, Dice and lesion-wise F1 of the model and of the rule without a network."""
    model = Model(weights)
    body, measured = [], []
    for name in real.nifti_names():
        truth, scan = real.truth(name), real.scan(name)
        if truth is None:
            continue
        volume, geometry = read_nifti_bytes(stored(scan, scan.voxels)[1])
        ruled = geometry.native(rule_mask(volume, geometry.voxel_mm, find_head(volume, geometry.voxel_mm).mask))
        both = [case_metrics(mask, truth, scan.voxel_mm) for mask in (model.before(scan), ruled)]
        measured.append([of[figure] for of in both for figure in FIGURES])
        body.append([name, f"{both[0]['truth_ml']:.2f}", *_digits(measured[-1])])
    header = ["scan", "true, mL", *(f"{who}: {figure}" for who in ("model", "rule") for figure in FIGURES.values())]
    return f"""The demo's champion, and the rule without a network, against the masks that came with the scans.

{table(header, [*body, ["mean", "", *_digits(np.mean(measured, axis=0))]])}"""


def _digits(values) -> list[str]:
    """Figures of the model, then of the rule: volumes with two digits, shares with three."""
    return [f"{value:.{3 if number % len(FIGURES) else 2}f}" for number, value in enumerate(values)]
