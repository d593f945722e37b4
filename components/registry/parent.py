"""The parent: the model that a training starts from (setting `start`).

The fingerprint step finds it once, and names it by its version and the SHA-256 of its weights, as in
"models:/dwi-attention-unet/3#0f3a...". The later steps get this name, so their cache never holds an alias that moves.
A parent from another registry is a folder in object storage with its `best_model.pth` and `model.json`, and with its
`cases.json` if the scans that it learnt from are to be known. An ensemble of networks is no parent.
"""

import logging
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from components.artifacts.evaluation import ScanDigests
from components.artifacts.trained_model import WEIGHTS, TrainedModel
from components.core.errors import StepError
from components.core.storage import Storage, file_sha256, scratch
from components.registry.mlflow_requests import explain_mlflow_errors
from components.registry.version_files import download_model, download_scan_digests

START = re.compile(r"models:/(?P<name>[^/@#\s'\"]+)(?:/(?P<number>\d+)|@(?P<alias>[\w-]+))|s3://[^#\s]+")
PARENT = re.compile(
    r"(?P<address>models:/(?P<name>[^/@#\s'\"]+)/(?P<number>\d+)|s3://[^#\s]+)#(?P<sha256>[0-9a-f]{64})"
)
TAG = "parent"
"""Tag of a version that started from another one."""
MOST_ANCESTORS = 50


@explain_mlflow_errors()
def find_parent(start: str) -> str:
    """Return the address of the model that `start` names, with the digest of its weights; "" for "".

    `start` is models:/NAME/VERSION or models:/NAME@ALIAS in this MLflow, or s3://bucket/prefix.

    Raises:
        StepError: there is no such model, it is an ensemble of networks, its digest is unknown, or MLflow or the
            storage does not answer.
    """
    if not start:
        return ""
    match = START.fullmatch(start)
    if match is None:
        raise StepError(
            f"START={start} names no model. Write models:/NAME/VERSION, models:/NAME@ALIAS, or s3://bucket/prefix of a "
            f"folder with {WEIGHTS} and {TrainedModel.FILE}."
        )
    if not match["name"]:
        storage = Storage(start)
        for name in (WEIGHTS, TrainedModel.FILE):
            if storage.find(name) is None:
                raise StepError(f"START={start} names no model: there is no {storage.uri}/{name}.")
        try:
            networks = TrainedModel.model_validate_json(storage.get(TrainedModel.FILE)).networks
        except ValidationError:
            raise StepError(
                f"START={start}: {storage.uri}/{TrainedModel.FILE} does not describe a model of this code or an older "
                "one. Copy it again."
            ) from None
        if networks:
            raise _is_ensemble(start)
        return f"{storage.uri}#{storage.sha256(WEIGHTS)}"
    version = _version(match["name"], match["number"], match["alias"], start)
    address = f"models:/{version.name}/{version.version}"
    if "test_folds" in version.tags:
        raise _is_ensemble(start)
    if "weights_sha256" not in version.tags:
        raise StepError(f"START={start}: {address} has no tag weights_sha256, so its weights cannot be verified.")
    return f"{address}#{version.tags['weights_sha256']}"


def _is_ensemble(start: str) -> StepError:
    return StepError(
        f"START={start} is an ensemble of networks (FOLDS), and a training starts from one network. Name another model."
    )


def _version(name: str, number: str, alias: str | None, given: str):
    import mlflow
    from mlflow.exceptions import MlflowException

    client = mlflow.MlflowClient()
    try:
        return client.get_model_version_by_alias(name, alias) if alias else client.get_model_version(name, number)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise StepError(
                f"START={given}: this MLflow has no such model. make champion names the champion."
            ) from None
        raise


def address_of(parent: str) -> str:
    """Return the address of a parent without its digest."""
    return _parsed(parent)["address"]


def _parsed(parent: str) -> re.Match:
    match = PARENT.fullmatch(parent)
    if match is None:
        raise StepError(f"'{parent}' is no parent: the fingerprint step names it by version and digest. Run all steps.")
    return match


@explain_mlflow_errors()
def download_parent(parent: str, folder: Path) -> Path:
    """Download the parent into `folder`, and return the folder of its weights and `model.json`.

    Raises:
        StepError: it is gone, or its weights are not those that were found at the start of the run.
    """
    match = _parsed(parent)
    try:
        if match["name"]:
            model = download_model(_version(match["name"], match["number"], None, parent), folder)
        else:
            storage = Storage(match["address"])
            storage.download([o for o in storage.list() if o.key in (WEIGHTS, TrainedModel.FILE)], folder)
            model = folder
            # load the weights that the digest pins, not best_model.safetensors
            TrainedModel.read(folder).model_copy(update={"tensors_sha256": None}).write(folder)
        found = file_sha256(model / WEIGHTS)
    except (StepError, OSError) as error:
        raise StepError(f"the model of START cannot be loaded, {match['address']}: {error}") from None
    if found != match["sha256"]:
        raise StepError(
            f"the model of START, {match['address']}, has other weights than at the start of this run (SHA-256 "
            f"{found}, was {match['sha256']}). Run again, if you know who changed them."
        )
    return model


@dataclass(frozen=True)
class Ancestor:
    """A model whose weights a training started from, directly or not; `scans` is None if they are unknown."""

    address: str
    scans: ScanDigests | None


@explain_mlflow_errors()
def ancestors(parent: str) -> list[Ancestor]:
    """Return the parent, its own parent, and so on."""
    return list(_ancestors(parent))


def _ancestors(parent: str) -> Iterator[Ancestor]:
    for _ in range(MOST_ANCESTORS):
        if not parent:
            return
        match = _parsed(parent)
        with tempfile.TemporaryDirectory(dir=scratch()) as folder:
            if match["name"]:
                try:
                    version = _version(match["name"], match["number"], None, parent)
                except StepError:  # deleted
                    yield Ancestor(match["address"], None)
                    return
                scans, parent = download_scan_digests(version, Path(folder)), version.tags.get(TAG, "")
            else:
                storage = Storage(match["address"])
                wanted = (TrainedModel.FILE, ScanDigests.FILE)
                storage.download([o for o in storage.list() if o.key in wanted], Path(folder))
                listed, facts = (Path(folder) / name for name in (ScanDigests.FILE, TrainedModel.FILE))
                scans = ScanDigests.read(listed) if listed.is_file() else None
                lineage = TrainedModel.read(facts).lineage if facts.is_file() else {}
                if scans and lineage.get("split_digest", scans.split_digest) != scans.split_digest:
                    logging.warning("%s is not of the training in %s", ScanDigests.FILE, match["address"])
                    scans = None
                parent = lineage.get(TAG, "")
        yield Ancestor(match["address"], scans)
