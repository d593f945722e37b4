"""Find versions in MLflow's registry for the commands: MODEL=models:/NAME/VERSION or models:/NAME@ALIAS."""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

from components.core.errors import StepError
from components.core.text import shown
from components.registry import tracking
from components.registry.tracking import MODEL_NAME
from pipelines.target import target
from pipelines.target_name import as_argument

CHAMPION = f"models:/{MODEL_NAME}@champion"
MODEL = re.compile(rf"models:/{MODEL_NAME}(?:/(?P<version>\d+)|@(?P<alias>[\w-]+))/*")
ADDRESS = re.compile(
    r"models:/(?:(?P<model_id>m-[0-9a-f]+)|(?P<name>[^/@'\"]+)(?:@(?P<alias>[^/@]+)|/(?P<number>\d+)|/(?P<latest>latest)))"
    r"|runs:/(?P<run>[0-9a-f]+)/.+",
    re.IGNORECASE,
)
"""Each form of an address by which MLflow finds a model of its registry or of a run."""


@contextlib.contextmanager
def connect(place: str, state: Path) -> Iterator:
    """Yield a client of the registry of `place` (a target); inside, ledger and scans are those of the same place."""
    import mlflow

    with target(place).services(state):
        yield mlflow.MlflowClient()


def no_champion(client, place: str = "local") -> str:
    """Return that no version is champion, why the newest is not, and how to promote one; "" if there is a champion.

    Raises:
        StepError: MLflow does not answer.
    """
    if tracking.champion(client) is not None:
        return ""
    versions, there = client.search_model_versions(f"name = '{MODEL_NAME}'"), as_argument(place)
    if not versions:
        return f"there is no champion: no model is registered. Make one: make pipeline-run{there} DATA=folder"
    newest = max(versions, key=lambda v: int(v.version))
    why = newest.tags.get("decision") or "there is no champion"
    return (
        f"no version of {MODEL_NAME} is champion. Version {newest.version}: {why}.\n"
        f'Name one: make promote{there} MODEL=models:/{MODEL_NAME}/{newest.version} REASON="...". '
        f"Or use one as it is: MODEL=models:/{MODEL_NAME}/{newest.version}"
    )


def require_champion(client, uri: str, place: str) -> None:
    """Raise StepError if `uri` names the champion and the registry has no champion."""
    if uri.strip().rstrip("/") == CHAMPION and (message := no_champion(client, place)):
        raise StepError(message)


def version(client, model: str, example: str):
    """Return the version that `model` names; `example` is how the command is called.

    Raises:
        StepError: it is not one of our models, or the version does not exist.
    """
    from mlflow.exceptions import MlflowException

    match = MODEL.fullmatch(model)
    if not match:
        raise StepError(f"MODEL={model} is no version of {MODEL_NAME}. {example}")
    try:
        if match["alias"]:
            return client.get_model_version_by_alias(MODEL_NAME, match["alias"])
        return client.get_model_version(MODEL_NAME, match["version"])
    except MlflowException as error:
        raise StepError(f"there is no {model} in the registry ({str(error)[:200]}). {example}") from None


def versions_at(client, address: str) -> list:
    """Return the registered versions that an address of MLflow means; [] for one of a folder or of other storage.

    A number, an alias or `latest` means one version. The id of a logged model, or a run, may have several or none.

    Raises:
        MlflowException: the registry has no such version.
        StepError: the address begins as one of the registry and is not.
    """
    match = ADDRESS.fullmatch(address)
    if match is None:
        if address.partition(":")[0].lower() in ("models", "runs"):
            example = f"Write {CHAMPION} or models:/{MODEL_NAME}/3."
            raise StepError(f"MODEL={shown(address)} is not the address of a model. {example}")
        return []
    if match["run"]:
        return [*client.search_model_versions(f"run_id = '{match['run'].lower()}'")]
    if match["model_id"]:
        return [*client.search_model_versions(f"source_path = 'models:/{match['model_id'].lower()}'")]
    if match["alias"]:
        return [client.get_model_version_by_alias(match["name"], match["alias"])]
    if match["latest"]:
        versions = client.search_model_versions(f"name = '{match['name']}'")
        return [max(versions, key=lambda v: int(v.version))] if versions else []
    return [client.get_model_version(match["name"], match["number"])]
