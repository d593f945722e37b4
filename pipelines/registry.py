"""MLflow's registry as the commands see it: MODEL=models:/NAME/VERSION or models:/NAME@ALIAS."""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

from components.core import tracking
from components.core.step import StepError
from components.core.tracking import MODEL_NAME
from pipelines.targets import as_argument, target

CHAMPION = f"models:/{MODEL_NAME}@champion"
MODEL = re.compile(rf"^models:/{MODEL_NAME}(?:/(?P<version>\d+)|@(?P<alias>[\w-]+))$")


@contextlib.contextmanager
def connect(place: str, state: Path) -> Iterator:
    """Yield a client of the registry of `place` (a target); inside, ledger and scans are those of the same place."""
    import mlflow

    with target(place).services(state):
        yield mlflow.MlflowClient()


def no_champion(client, place: str = "local") -> str:
    """Say that no version is champion, why the newest is not, and how to name one; "" where one is.

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


def version(client, model: str, example: str):
    """The version that `model` names; `example` is how the command is called.

    Raises:
        StepError: it is none of ours, or there is no such version.
    """
    from mlflow.exceptions import MlflowException

    match = MODEL.match(model)
    if not match:
        raise StepError(f"MODEL={model} is no version of {MODEL_NAME}. {example}")
    try:
        if match["alias"]:
            return client.get_model_version_by_alias(MODEL_NAME, match["alias"])
        return client.get_model_version(MODEL_NAME, match["version"])
    except MlflowException as error:
        raise StepError(f"there is no {model} in the registry ({str(error)[:200]}). {example}") from None
