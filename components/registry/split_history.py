"""Find the split history of a registered version: the patients of all earlier splits and their subsets.

Each version keeps its split in its MLflow run, as `split.json`. A history is named by its digest, so versions whose
splits know the same patients are equivalent.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version as package_version
from typing import TYPE_CHECKING

from pydantic import ValidationError

from components.artifacts.split_file import (
    AssignedPatient,
    RegisteredSplit,
    Split,
    SplitHistory,
    count_folds,
    split_digest,
)
from components.artifacts.synthetic import is_synthetic
from components.core.code_closure import SPLIT_STEPS, steps_digest
from components.core.errors import StepError
from components.core.storage import Storage
from components.registry.mlflow_requests import explain_mlflow_errors
from components.registry.tracking import MODEL_NAME

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

SPLIT = Split.FILE
DRAW_AGAIN = (
    "Or set carry_split=false: it draws all patients again, and the champion cannot be compared fairly with the result."
)


@dataclass(frozen=True)
class EarlierSplit:
    """The split of a registered version."""

    version: str
    history: SplitHistory
    carry_split: bool = True
    """False if all its patients were drawn again; such a split is extended only if there is no other."""
    folds: int = 1
    """Splits of another number of folds do not extend it."""


def split_settings(ratios: tuple[float, float, float], seed: int, inputs: str, folds: int = 1) -> dict:
    """Return the settings and the code that determine a split, together with the data and the split history."""
    code = [steps_digest(*SPLIT_STEPS), package_version("numpy")]
    settings = {"ratios": list(ratios), "random_seed": seed, "inputs": inputs, "code": code}
    return settings if folds == 1 else settings | {"folds": folds}


def history_to_extend(data_uri: str, data_version: str, settings: dict, synthetic: bool, folds: int = 1) -> str:
    """Return the digest of the split history that a split of these data extends; "" if no version is registered.

    Splits of patients extend versions trained on patients; splits of `synthetic` scans extend versions trained on
    synthetic scans alone. A split into folds extends one with as many folds.

    If the newest split was drawn from the same data, address and settings, the result is the history which that split
    extended. So the split step gets the same inputs again and comes from cache.

    Raises:
        StepError: MLflow does not answer, or a registered split was altered.
    """
    newest = None
    for earlier in _earlier_splits(synthetic=synthetic):
        if earlier.folds != folds:
            continue
        if newest is None or earlier.carry_split:
            newest = earlier
        if newest.carry_split:
            break
    if newest is None:
        return ""
    drawn = newest.history.drawn
    if (
        drawn
        and (drawn.data_uri, drawn.data_version) == (Storage(data_uri).uri, data_version)
        and drawn.settings == settings
    ):
        before = drawn.extended_history
        if not before or any(earlier.history.digest == before for earlier in _earlier_splits(before, synthetic)):
            return before
    logging.info("extends the split of version %s: %d patients have a subset", newest.version,
                 len(newest.history.patients))  # fmt: skip
    return newest.history.digest


def find_earlier_split(history_digest: str) -> EarlierSplit:
    """Return the newest registered version with this split history.

    Raises:
        StepError: no version has it, it was altered, or MLflow does not answer.
    """
    for earlier in _earlier_splits(history_digest):
        if earlier.history.digest == history_digest:
            return earlier
    raise StepError(
        f"no registered version of {MODEL_NAME} has the split history {history_digest[:12]}: its version was deleted "
        f"while the run was starting, or its {SPLIT} was altered. Run again. {DRAW_AGAIN}"
    )


def _earlier_splits(history_digest: str = "", synthetic: bool | None = None) -> Iterator[EarlierSplit]:
    """Yield the splits of registered versions, the newest first.

    With a `history_digest`, versions tagged with another one are skipped. With `synthetic`, only versions trained on
    synthetic scans alone (True) or only the others (False) are read.
    """
    import mlflow  # slow to import

    client = mlflow.MlflowClient()
    with explain_mlflow_errors(" The patients of earlier splits are kept there."):
        versions = client.search_model_versions(f"name = '{MODEL_NAME}'")
        for version in sorted(versions, key=lambda v: int(v.version), reverse=True):
            if synthetic not in (None, is_synthetic(version.tags)):
                continue
            tagged = version.tags.get("split_lineage")
            if history_digest and tagged and tagged != history_digest:
                continue
            earlier = _read_earlier_split(client, version)
            if earlier is not None:
                yield earlier


def _read_earlier_split(client: "MlflowClient", version: "ModelVersion") -> EarlierSplit | None:
    """Read the split of a version; return None if its MLflow run was deleted or never had a split.

    Raises:
        StepError: the split is missing, or is not the one that was registered.
    """
    import mlflow  # slow to import
    from mlflow.exceptions import MlflowException

    run = None
    if version.run_id:  # a version that a person registered by hand may have no run
        try:
            run = client.get_run(version.run_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
    if run is None or SPLIT not in {file.path for file in client.list_artifacts(run.info.run_id)}:
        if "split_lineage" in version.tags:
            raise StepError(
                f"{SPLIT} is missing from the MLflow run of {MODEL_NAME} version {version.version}: without it the "
                f"subsets of its patients are unknown. Restore the run, or delete that version. {DRAW_AGAIN}"
            )
        logging.info("version %s is skipped: its MLflow run has no %s", version.version, SPLIT)
        return None
    text = mlflow.artifacts.load_text(f"{run.info.artifact_uri}/{SPLIT}")
    try:
        split = RegisteredSplit.model_validate_json(text)
    except ValidationError:
        split = None
    if split:
        history = split.history or _history_of_names(split.patients, run.data.params.get("data_uri"))
        digest = split_digest(split.patients)
        if digest == split.digest == version.tags.get("split_digest", digest) and (
            history.digest == version.tags.get("split_lineage", history.digest)
        ):
            return EarlierSplit(str(version.version), history, split.carry_split, count_folds(split.patients))
    raise StepError(
        f"the {SPLIT} in the MLflow run of {MODEL_NAME} version {version.version} is not the one that was registered, "
        f"so the subsets of its patients are unknown. Restore the file, or delete that version. {DRAW_AGAIN}"
    )


def _history_of_names(patients: dict[str, list[str]], data_uri: str | None) -> SplitHistory:
    """Return the history of an old split that has only names: they count at its own address, or at all if unknown."""
    return SplitHistory(
        patients=[
            AssignedPatient(patient=patient, data_uri=data_uri, subset=subset, images=[])
            for subset, names in patients.items()
            for patient in names
        ],
        drawn=None,
    )
