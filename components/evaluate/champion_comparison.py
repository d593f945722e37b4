"""The present champion on the very same test patients: what a promotion is decided on."""

import json
import logging
import tempfile
from collections.abc import Callable
from pathlib import Path

from components.artifacts.split_file import split_digest
from components.artifacts.synthetic import is_synthetic
from components.core.intervals import paired_interval
from components.core.step import StepError
from components.core.storage import file_sha256
from components.evaluate.metrics import SUMMARISED, patient_means
from components.model.inference import load_model
from components.registry import tracking
from components.registry.model_digest import model_digest
from components.scans.volumes import BadVolume


def against_champion(
    results: list[dict], split: dict, measure: Callable[..., list[dict]], synthetic: bool, model: Path | None = None
) -> dict:
    """The content of `comparison.json`. `measure(network, facts)` is what gave `results`, for another model.

    `model` is the folder of what gave them: a champion of the same weights and facts is not measured once more.

    `synthetic`: these are synthetic scans. A model of patients and one of synthetic scans alone are not compared.

    Returns:
        champion: its version, model: what that version holds, both None where there is no champion.
        reason: why this cannot support a promotion, "" where it can.
        pairs: metric to patient to [challenger, champion]. differences: metric to mean, ci_low, ci_high (95 %, None of
        too few patients) of challenger less champion. Both are left out where the champion cannot be evaluated, and
        empty where it is not to be.
    """
    import mlflow

    with tracking.answering():
        champion = tracking.champion(mlflow.MlflowClient())
    if champion is None:
        return {"champion": None, "model": None, "reason": "there was no champion to compare with"}
    name = f"version {champion.version}"
    out = {"champion": str(champion.version), "model": champion.source, "reason": ""}
    if is_synthetic(champion.tags) != synthetic:
        learnt = "patients, and these are synthetic scans" if synthetic else "synthetic scans alone"
        return out | {"reason": f"{name} learnt from {learnt}", "pairs": {}, "differences": {}}
    logging.info("the champion, %s, on the same patients", name)
    with tempfile.TemporaryDirectory() as folder:
        try:
            same = model is not None and _is_made_of(champion, model)
            theirs = results if same else measure(*load_model(_weights(champion, Path(folder))))
            pairs = pairs_by_patient(results, theirs)
        except Exception as error:  # whatever is wrong with an old model, the new one is evaluated
            with tracking.answering():  # MLflow gone altogether is no fault of the champion's
                tracking.champion(mlflow.MlflowClient())
            why = " ".join((str(error) if isinstance(error, StepError | BadVolume) else repr(error)).split())[:300]
            logging.warning("the champion, %s, cannot be evaluated on these patients: %s", name, why)
            return out | {"reason": f"{name} cannot be evaluated on these patients: {why}"}
        out["reason"] = why_not_frozen(name, split["patients"], _patients(champion, Path(folder)))
    out |= {"pairs": pairs, "differences": {metric: _difference(pairs[metric]) for metric in pairs}}
    dice = out["differences"]["dice"]
    between = "no interval" if dice["ci_low"] is None else f"95 % {dice['ci_low']:.3f} to {dice['ci_high']:.3f}"
    but = out["reason"] and f"; but {out['reason']}"
    logging.info("Dice %+.3f (%s) with the new model%s", dice["mean"], between, but)
    return out


def pairs_by_patient(ours: list[dict], theirs: list[dict]) -> dict[str, dict[str, tuple[float, float]]]:
    """Metric to patient to (ours, theirs), each the mean of the patient's scans; without what either lacks."""
    pairs = {}
    for metric in SUMMARISED:
        new, old = patient_means(ours, metric), patient_means(theirs, metric)
        if both := {patient: (new[patient], old[patient]) for patient in new if patient in old}:
            pairs[metric] = both
    return pairs


def why_not_frozen(name: str, now: dict[str, list[str]], then: dict[str, list[str]] | None) -> str:
    """Why the test patients of `now` are no fair test of the model that was made with the subsets `then`.

    New patients may have come, which neither model has seen; none may have left, or have been learnt from.
    """
    if then is None:
        return f"which patients {name} was trained on is not known: its MLflow run holds no split.json of its own"
    test = set(now["test"])
    if seen := test & {*then["train"], *then["val"]}:
        return f"{name} was trained or tuned on {len(seen)} of these {len(test)} test patients"
    if gone := set(then["test"]) - test:
        return f"these are not the frozen test patients: {len(gone)} of {name}'s are not among them"
    return ""


def _difference(pairs: dict[str, tuple[float, float]]) -> dict[str, float | None]:
    values = [new - old for new, old in pairs.values()]
    low, high = paired_interval(values) or (None, None)
    return {"mean": sum(values) / len(values), "ci_low": low, "ci_high": high}


def _weights(champion, folder: Path) -> Path:
    """The folder of its weights and facts, as they were registered by their digests in the registry.

    Raises:
        StepError: one is missing, or not what was registered.
    """
    import mlflow

    uri = f"models:/{champion.name}/{champion.version}"
    with tracking.waiting_for(f"the files of {uri}"):
        model = Path(mlflow.artifacts.download_artifacts(uri, dst_path=str(folder)))
    weights = next(model.rglob("best_model.pth"), None)
    if weights is None:
        raise StepError("its model holds no best_model.pth")
    facts = weights.with_name("model.json")
    if "facts_sha256" in champion.tags:
        of_facts = ("model.json", "facts_sha256", lambda: facts.is_file() and file_sha256(facts))
    else:  # registered before there was this tag
        of_facts = ("a file of its model", "model_sha256", lambda: model_digest(model))
    for what, tag, digest in (("best_model.pth", "weights_sha256", lambda: file_sha256(weights)), of_facts):
        if tag not in champion.tags:
            raise StepError(f"it was registered without the tag {tag}: nothing says whether {what} was altered since")
        if digest() != champion.tags[tag]:
            raise StepError(f"{what} is not what was registered (tag {tag}): it was altered in storage")
    return weights.parent


def _is_made_of(champion, model: Path) -> bool:
    files = {"weights_sha256": "best_model.pth", "facts_sha256": "model.json"}
    return all(champion.tags.get(tag) == file_sha256(model / name) for tag, name in files.items())


def _patients(champion, folder: Path) -> dict[str, list[str]] | None:
    """Subset to patients that it was made with; None where its run does not hold them, or others."""
    import mlflow
    from mlflow.exceptions import MlflowException

    try:
        path = mlflow.artifacts.download_artifacts(
            run_id=champion.run_id, artifact_path="split.json", dst_path=str(folder)
        )
        patients = json.loads(Path(path).read_text())["patients"]
        return patients if split_digest(patients) == champion.tags.get("split_digest") else None
    except (MlflowException, OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
