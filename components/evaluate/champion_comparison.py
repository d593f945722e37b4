"""Compare the new model with the present champion on the same test patients, for the decision about a promotion."""

import logging
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from pydantic import TypeAdapter

from components.artifacts.artifact import read_json
from components.artifacts.evaluation import Comparison, Difference, ScanResult
from components.artifacts.split_file import RegisteredSplit, Split, split_digest
from components.artifacts.synthetic import is_synthetic
from components.artifacts.trained_model import WEIGHTS, TrainedModel
from components.core.errors import StepError
from components.core.intervals import paired_interval
from components.core.storage import file_sha256
from components.evaluate.metrics import SUMMARISED, patient_means
from components.model.inference import load_model
from components.model.network import AttentionUNet
from components.registry import tracking
from components.registry.version_files import download_model
from components.scans.volumes import BadVolume

Subsets = dict[str, list[str]]
"""Subset to patients."""


def compare_with_champion(
    results: Sequence[ScanResult],
    subsets: Subsets,
    measure: Callable[[AttentionUNet, TrainedModel], Sequence[ScanResult]],
    synthetic: bool,
    model: Path | None = None,
) -> Comparison:
    """Measure the champion on the test scans of `results`, and pair both by patient.

    Args:
        results: Of the new model.
        subsets: The patients of the new model's split.
        measure: `measure(network, trained)` returns the results of another model on the same scans.
        synthetic: Whether these scans are synthetic. Then a champion that learnt from patients is not compared, nor the
            other way round.
        model: The folder of the new model. A champion with the same files is not measured again.

    Raises:
        StepError: MLflow does not answer.
    """
    import mlflow

    champion = tracking.champion(mlflow.MlflowClient())
    if champion is None:
        return Comparison(champion=None, model=None, reason="there was no champion to compare with")
    name = f"version {champion.version}"
    comparison = Comparison(champion=str(champion.version), model=champion.source, reason="")
    if is_synthetic(champion.tags) != synthetic:
        learnt = "patients, and these are synthetic scans" if synthetic else "synthetic scans alone"
        return comparison.model_copy(update={"reason": f"{name} learnt from {learnt}", "pairs": {}})
    logging.info("the champion, %s, on the same patients", name)
    with tempfile.TemporaryDirectory() as folder:
        try:
            same = model is not None and _has_files_of(champion, model)
            theirs = results if same else measure(*load_model(download_model(champion, Path(folder))))
            pairs = pairs_by_patient(results, theirs)
        except Exception as error:  # a broken champion must not stop the evaluation of the new model
            tracking.champion(mlflow.MlflowClient())  # raises if MLflow is down: then it is not the champion's fault
            cause = " ".join((str(error) if isinstance(error, StepError | BadVolume) else repr(error)).split())[:300]
            logging.warning("the champion, %s, cannot be evaluated on these patients: %s", name, cause)
            reason = f"{name} cannot be evaluated on these patients: {cause}"
            return comparison.model_copy(update={"reason": reason})
        reason = unfair_test_reason(name, subsets, _download_subsets(champion, Path(folder)))
    differences = {metric: difference(pairs[metric]) for metric in pairs}
    dice = differences["dice"]
    interval = "no interval" if dice.ci_low is None else f"95 % {dice.ci_low:.3f} to {dice.ci_high:.3f}"
    logging.info("Dice %+.3f (%s) with the new model%s", dice.mean, interval, reason and f"; but {reason}")
    return comparison.model_copy(update={"reason": reason, "pairs": pairs, "differences": differences})


def pairs_by_patient(
    ours: Sequence[ScanResult], theirs: Sequence[ScanResult]
) -> dict[str, dict[str, tuple[float, float]]]:
    """Return metric to patient to (ours, theirs), each the mean of the patient's scans, without unknown values."""
    pairs = {}
    for metric in SUMMARISED:
        new, old = patient_means(ours, metric), patient_means(theirs, metric)
        if both := {patient: (new[patient], old[patient]) for patient in new if patient in old}:
            pairs[metric] = both
    return pairs


def unfair_test_reason(name: str, now: Subsets, then: Subsets | None) -> str:
    """Return why the test patients of `now` are no fair test of a model with the split `then`; "" if they are.

    New test patients that neither model has seen are fair. A patient who left the test set, or from whom the model
    learnt, is not.
    """
    if then is None:
        return f"the training patients of {name} are unknown: its MLflow run has no split.json of its own"
    test = set(now["test"])
    if seen := test & {*then["train"], *then["val"]}:
        return f"{name} was trained or tuned on {len(seen)} of these {len(test)} test patients"
    if gone := set(then["test"]) - test:
        return f"these are not the frozen test patients: {len(gone)} of {name}'s are not among them"
    return ""


def difference(pairs: dict[str, tuple[float, float]]) -> Difference:
    """Return the mean difference over patients, and its interval."""
    values = [new - old for new, old in pairs.values()]
    low, high = paired_interval(values) or (None, None)
    return Difference(mean=sum(values) / len(values), ci_low=low, ci_high=high)


def _has_files_of(champion, model: Path) -> bool:
    files = {"weights_sha256": WEIGHTS, "facts_sha256": TrainedModel.FILE}
    return all(champion.tags.get(tag) == file_sha256(model / name) for tag, name in files.items())


def _download_subsets(champion, folder: Path) -> Subsets | None:
    """Return the patients of the champion's split; None if its run does not hold the registered split."""
    import mlflow
    from mlflow.exceptions import MlflowException

    try:
        path = mlflow.artifacts.download_artifacts(
            run_id=champion.run_id, artifact_path=Split.FILE, dst_path=str(folder)
        )
        patients = read_json(Path(path), TypeAdapter(RegisteredSplit), Split.WRITTEN_BY).patients
    except (MlflowException, OSError, StepError):
        return None
    return patients if split_digest(patients) == champion.tags.get("split_digest") else None
