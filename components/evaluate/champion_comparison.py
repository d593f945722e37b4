"""Compare the new model with the present champion on the same test patients, for the decision about a promotion."""

import logging
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pydantic import TypeAdapter
from torch import nn

from components.artifacts.artifact import read_json
from components.artifacts.evaluation import Comparison, Difference, ScanResult
from components.artifacts.split_file import RegisteredSplit, Split, patients_tested, split_digest
from components.artifacts.synthetic import is_synthetic
from components.artifacts.trained_model import WEIGHTS, TrainedModel
from components.core.errors import StepError
from components.core.intervals import paired_interval
from components.core.storage import file_sha256
from components.evaluate.metrics import SUMMARISED, patient_means
from components.evaluate.unseen import Subsets, in_present_names, unfair_test_reason, unseen_patients
from components.model.inference import load_model
from components.registry import tracking
from components.registry.version_files import download_model
from components.scans.volumes import BadVolume

Measure = Callable[[nn.Module, TrainedModel, set[str]], Sequence[ScanResult]]
"""`measure(network, trained, patients)` returns the results of another model on the test scans of these patients."""


def compare_with_champion(
    results: Sequence[ScanResult],
    subsets: Subsets,
    measure: Measure,
    synthetic: bool,
    model: Path | None = None,
    images: Mapping[str, set[str]] | None = None,
    data_uri: str | None = None,
) -> Comparison:
    """Measure the champion on the test scans of `results`, and pair both by patient.

    If one of the two is an ensemble of a cross-validation, each patient is predicted by a network that has not seen the
    patient, and patients without such a network are left out.

    Args:
        results: Of the new model.
        subsets: The patients of the new model's split.
        measure: Measures another model on the same scans.
        synthetic: Whether these scans are synthetic. Then a champion that learnt from patients is not compared, nor the
            other way round.
        model: The folder of the new model. A champion with the same files is not measured again.
        images: Patient of the split to the SHA-256 of the voxels of each scan.
        data_uri: The address of the data; without it the names of the champion's patients count at every address.

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
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as split_folder:
        try:
            then = _download_split(champion, Path(split_folder))
            if then is not None:
                then = in_present_names(then, images or {}, data_uri)
            if model is not None and _has_files_of(champion, model):
                theirs = results
            else:
                network, trained = load_model(download_model(champion, Path(folder)))
                unseen = unseen_patients(network, trained, then, subsets, images or {})
                theirs = [scan for part in unseen for scan in measure(part.network, part.trained, part.patients)]
            pairs = pairs_by_patient(results, theirs)
        except Exception as error:  # a broken champion must not stop the evaluation of the new model
            tracking.champion(mlflow.MlflowClient())  # raises if MLflow is down: then it is not the champion's fault
            cause = " ".join((str(error) if isinstance(error, StepError | BadVolume) else repr(error)).split())[:300]
            logging.warning("the champion, %s, cannot be evaluated on these patients: %s", name, cause)
            reason = f"{name} cannot be evaluated on these patients: {cause}"
            return comparison.model_copy(update={"reason": reason})
        reason = unfair_test_reason(name, subsets, then.patients if then else None)
    if not pairs:
        reason = reason or f"{name} has seen every test patient in each network that could predict the patient"
        return comparison.model_copy(update={"reason": reason, "pairs": {}})
    differences = {metric: difference(pairs[metric]) for metric in pairs}
    count, all_of_them = len(pairs["dice"]), len(patients_tested(subsets))
    some = f", on the {count} of {all_of_them} patients that neither has seen" if count < all_of_them else ""
    dice = with_interval(differences["dice"])
    logging.info("Dice %s with the new model%s%s", dice, some, reason and f"; but {reason}")
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


def difference(pairs: dict[str, tuple[float, float]]) -> Difference:
    """Return the mean difference over patients, and its interval."""
    values = [new - old for new, old in pairs.values()]
    low, high = paired_interval(values) or (None, None)
    return Difference(mean=sum(values) / len(values), ci_low=low, ci_high=high)


def with_interval(found: Difference) -> str:
    """Return a difference and its interval in words: "+0.012 (95 % -0.003 to 0.027)"."""
    interval = "no interval" if found.ci_low is None else f"95 % {found.ci_low:.3f} to {found.ci_high:.3f}"
    return f"{found.mean:+.3f} ({interval})"


def _has_files_of(champion, model: Path) -> bool:
    files = {"weights_sha256": WEIGHTS, "facts_sha256": TrainedModel.FILE}
    return all(champion.tags.get(tag) == file_sha256(model / name) for tag, name in files.items())


def _download_split(champion, folder: Path) -> RegisteredSplit | None:
    """Return the champion's split; None if its run does not hold the registered split."""
    import mlflow
    from mlflow.exceptions import MlflowException

    try:
        path = mlflow.artifacts.download_artifacts(
            run_id=champion.run_id, artifact_path=Split.FILE, dst_path=str(folder)
        )
        split = read_json(Path(path), TypeAdapter(RegisteredSplit), Split.WRITTEN_BY)
    except (MlflowException, OSError, StepError):
        return None
    if split_digest(split.patients) != champion.tags.get("split_digest"):
        return None
    known = split.history is None or split.history.digest == champion.tags.get("split_lineage")
    return split if known else split.model_copy(update={"history": None})
