"""Who is known: the patients of all earlier splits, as the newest registered version hands them on to the next split.

The lineage of a split, in its split.json: `people`, a list of {patient, data_uri, subset, images (voxel_sha256)}, the
newest last, and `drawn`: what the split that last added to them was made from, {data_uri, data_version, settings,
lineage}. A lineage is referred to by its digest, so that all versions whose splits knew the same people are as good as
one.
"""

import hashlib
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version

from components.artifacts.synthetic import is_synthetic
from components.core.code_closure import SPLIT_STEPS, steps_digest
from components.core.step import StepError
from components.core.storage import Storage
from components.registry.mlflow_requests import explain_mlflow_errors
from components.registry.tracking import MODEL_NAME

SPLIT = "split.json"
PERSON = {"patient", "data_uri", "subset", "images"}
ANEW = "To draw all patients anew, and without a fair comparison with the champion, set carry_split=false."


@dataclass(frozen=True)
class Known:
    """The lineage that a registered version holds; `carries` says that its split was not one drawn all anew."""

    version: str
    lineage: dict
    carries: bool = True

    @property
    def digest(self) -> str:
        return lineage_digest(self.lineage)


def settings(ratios: tuple[float, float, float], seed: int, inputs: str) -> dict:
    """What decides a split besides the data and the lineage: other code may draw others from the same."""
    code = [steps_digest(*SPLIT_STEPS), version("numpy")]
    return {"ratios": list(ratios), "random_seed": seed, "inputs": inputs, "code": code}


def split_digest(patients: dict[str, list[str]]) -> str:
    """Return the SHA-256 of who is in which subset. What a split says of itself is never taken for it."""
    return hashlib.sha256(json.dumps(patients, sort_keys=True).encode()).hexdigest()


def lineage_digest(lineage: dict) -> str:
    return hashlib.sha256(json.dumps(lineage, sort_keys=True).encode()).hexdigest()


def to_carry_on_from(data_uri: str, data_version: str, settings: dict, synthetic: bool) -> str:
    """Digest of the lineage from which a split of these data is to be carried on; "" where nothing is registered.

    A split of patients is carried on from versions that learnt from patients, one of `synthetic` scans from versions
    that learnt from such scans alone: the others are passed over.

    Where the newest lineage was drawn for these very data, at this address, and settings, it is what that one was
    carried on from: the split step is asked the same again, and comes from cache.

    A split that was drawn anew (carry_split=false) is carried on only where there is no other: it leaves the chain.

    Raises:
        StepError: MLflow does not answer, or a registered split was altered.
    """
    newest = None
    for known in _registered(synthetic=synthetic):
        if newest is None or known.carries:
            newest = known
        if newest.carries:
            break
    if newest is None:
        return ""
    drawn = newest.lineage["drawn"]
    asked = {"data_uri": Storage(data_uri).uri, "data_version": data_version, "settings": settings}
    if drawn and asked.items() <= drawn.items():
        before = drawn["lineage"]
        if not before or any(known.digest == before for known in _registered(before, synthetic)):
            return before
    logging.info("to be carried on from version %s: %d known patients", newest.version, len(newest.lineage["people"]))
    return newest.digest


def find(digest: str) -> Known:
    """The newest registered version that holds this lineage.

    Raises:
        StepError: there is none, it was altered, or MLflow does not answer.
    """
    for known in _registered(digest):
        if known.digest == digest:
            return known
    raise StepError(
        f"the split to carry on from (lineage {digest[:12]}) is in no registered version of {MODEL_NAME} any more: "
        f"it was removed while the run was starting, or altered. Run again. {ANEW}"
    )


def _registered(digest: str = "", synthetic: bool | None = None) -> Iterator[Known]:
    """What the registered versions hold, the newest first.

    With a `digest` only those whose tag is not another one; with `synthetic` only those that learnt from such scans
    alone, or only the others.
    """
    import mlflow

    client = mlflow.MlflowClient()
    with explain_mlflow_errors(" The patients of earlier splits are kept there."):
        versions = client.search_model_versions(f"name = '{MODEL_NAME}'")
        for entry in sorted(versions, key=lambda v: int(v.version), reverse=True):
            if synthetic not in (None, is_synthetic(entry.tags)):
                continue
            tagged = entry.tags.get("split_lineage")
            if digest and tagged and tagged != digest:
                continue
            found = _lineage(client, entry)
            if found is not None:
                yield Known(str(entry.version), *found)


def _lineage(client, entry) -> tuple[dict, bool] | None:
    """The lineage, and whether it carries on; None where the registry entry's MLflow run is gone or holds no split.

    Raises:
        StepError: it holds another split than the one that was registered.
    """
    import mlflow
    from mlflow.exceptions import MlflowException

    run = None
    if entry.run_id:  # a version that somebody registered by hand may have none
        try:
            run = client.get_run(entry.run_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
    if run is None or SPLIT not in {file.path for file in client.list_artifacts(entry.run_id)}:
        if "split_lineage" in entry.tags:
            raise StepError(
                f"the MLflow run of {MODEL_NAME} version {entry.version} holds no {SPLIT} any more: who was in which "
                f"subset cannot be known from it. Restore the run, or delete that version. {ANEW}"
            )
        logging.info("version %s is passed over: its MLflow run holds no %s", entry.version, SPLIT)
        return None
    text = mlflow.artifacts.load_text(f"{run.info.artifact_uri}/{SPLIT}")
    try:
        split = json.loads(text)
        lineage = split.get("lineage") or _before_there_were_lineages(split, run.data.params.get("data_uri"))
        digest = split_digest(split["patients"])
        is_whole = digest == split["digest"] == entry.tags.get("split_digest", digest)
        is_whole &= lineage_digest(lineage) == entry.tags.get("split_lineage", lineage_digest(lineage))
        is_whole &= isinstance(lineage["drawn"], dict | None) and all(p.keys() >= PERSON for p in lineage["people"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        is_whole = False
    if not is_whole:
        raise StepError(
            f"the {SPLIT} in the MLflow run of {MODEL_NAME} version {entry.version} is not the one that was "
            f"registered: who was in which subset cannot be known from it. Restore it, or delete that entry. {ANEW}"
        )
    return lineage, split.get("carry_split", True)


def _before_there_were_lineages(split: dict, data_uri: str | None) -> dict:
    """Of a split that kept names alone: known by name, at its own address or, where that is unknown, at any."""
    people = [
        {"patient": patient, "data_uri": data_uri, "subset": subset, "images": []}
        for subset, patients in split["patients"].items()
        for patient in patients
    ]
    return {"people": people, "drawn": None}
