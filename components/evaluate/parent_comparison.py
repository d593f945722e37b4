"""Measure what a fine-tuned model has forgotten: it and its parent, on the parent's own test scans."""

import logging
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from torch import nn

from components.artifacts.cases import PARENT_TESTS, Case, Cases
from components.artifacts.evaluation import ParentComparison, ScanResult
from components.artifacts.split_file import Split
from components.artifacts.trained_model import TrainedModel
from components.core.errors import StepError
from components.core.storage import normal_address, scratch
from components.evaluate.champion_comparison import difference, pairs_by_patient, with_interval
from components.model.inference import load_model
from components.registry.parent import TAG, address_of, ancestors, download_parent
from components.scans.volumes import BadVolume

Measure = Callable[[nn.Module, TrainedModel, Path, Sequence[Case]], Sequence[ScanResult]]
"""`measure(network, trained, folder, cases)` returns the results of a model on the cases, whose volumes are there."""


def compare_with_parent(
    network: nn.Module, trained: TrainedModel, cases: Path, split: Split, measure: Measure
) -> ParentComparison | None:
    """Measure a model and its parent on the parent's test scans, and pair them by patient; None without a parent.

    Scans from which the model learnt, or by which it was chosen, are left out.

    Args:
        network: The new network.
        trained: Its model.
        cases: Folder of the cases of this run, with the parent's test scans in it.
        split: The split of this run.
        measure: Measures a model.

    Raises:
        StepError: MLflow does not answer.
    """
    parent = trained.lineage.get(TAG)
    if not parent:
        return None
    unknown = [ancestor.address for ancestor in ancestors(parent) if ancestor.scans is None]
    result = ParentComparison(parent=parent, unknown=unknown, reason="")
    old = Cases.read(cases / PARENT_TESTS)
    tested = _unlearnt(old, Cases.read(cases), split)
    if not tested:
        reason = "this model learnt from all test patients of its parent" if old.cases else "; ".join(old.notes)
        return result.model_copy(update={"reason": reason})
    address = address_of(parent)
    logging.info("the parent, %s, and this model on the parent's %d test scans", address, len(tested))
    try:
        with tempfile.TemporaryDirectory(dir=scratch()) as folder:
            before = measure(*load_model(download_parent(parent, Path(folder))), cases / PARENT_TESTS, tested)
        pairs = pairs_by_patient(measure(network, trained, cases / PARENT_TESTS, tested), before)
    except (StepError, BadVolume) as error:
        logging.warning("forgetting was not measured: %s", error)
        return result.model_copy(update={"reason": " ".join(str(error).split())[:300]})
    differences = {metric: difference(values) for metric, values in pairs.items()}
    logging.info("Dice %s on the parent's test patients, against the parent", with_interval(differences["dice"]))
    return result.model_copy(update={"pairs": pairs, "differences": differences})


def _unlearnt(old: Cases, new: Cases, split: Split) -> list[Case]:
    """Return the cases of `old` of patients from whom nothing was learnt: by image, or by name at the same address.

    Of an ensemble, one of its networks has learnt from every patient of the folds.
    """
    by_name = new.by_name
    learnt = [by_name[name] for subset, names in split.cases.items() if subset != "test" for name in names]
    images = {case.voxel_sha256 for case in learnt}
    same_place = normal_address(old.data_uri) == normal_address(new.data_uri)
    names = {case.patient for case in learnt} if same_place else set()
    names |= {case.patient for case in old.cases if case.voxel_sha256 in images}
    return [case for case in old.cases if case.labelled and case.patient not in names]
