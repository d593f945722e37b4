"""Fetch the files of a model, and compare them with the registry before any of its code runs."""

import logging
from pathlib import Path

from components.core.errors import StepError
from components.core.step import without_logins
from components.core.text import shown
from components.registry.mlflow_requests import log_while_waiting
from components.registry.model_digest import altered_file, model_digest
from pipelines.models.registry import versions_at
from pipelines.target_name import as_argument


def fetch(client, address: str, folder: Path, place: str = "local", digest: str = "") -> tuple[Path, str, dict]:
    """Copy the model at an address of MLflow, or in a folder, into `folder`, and verify the copy.

    Every file must be what the registered version at the address is made of. A model from elsewhere must be, file for
    file, some registered version. One without a digest in the registry must have the digest `digest`, which the user
    gives (MODEL_DIGEST).

    Returns:
        the folder of its files, its address (models:/NAME/NUMBER for a registered version), the tags of the version.

    Raises:
        StepError: the files differ from those that were registered, or no digest confirms them.
        MlflowException, OSError: there is no such model.
    """
    import mlflow

    address = address.strip().rstrip("/") or address
    versions = versions_at(client, address)
    uri = _numbered(versions[0]) if len(versions) == 1 else address
    with log_while_waiting(f"the files of {without_logins(shown(uri))}"):
        stored = Path(mlflow.artifacts.download_artifacts(uri, dst_path=str(folder)))
    if not (stored / "MLmodel").is_file():
        raise FileNotFoundError("there is no MLmodel")
    found = model_digest(stored)
    versions = versions or [*client.search_model_versions(f"tags.model_sha256 = '{found}'")]
    for version in versions:
        if version.tags.get("model_sha256") == found:
            return stored, _numbered(version), version.tags
    uri = without_logins(shown(uri))
    if broken := next(filter(None, (altered_file(stored, version.tags) for version in versions)), ""):
        there = as_argument(place)
        raise StepError(
            f"{uri} was not loaded: {broken}. It was altered in storage, or not copied whole. "
            f"See make lineage{there} MODEL={uri}, and use another: make rollback{there}, or MODEL=..."
        )
    if digest.strip().lower() != found:
        raise StepError(
            f"{uri} was not loaded: no digest in the registry confirms its files, and a model brings code that runs "
            f"here. Use a registered version, or, if you know who made these files, add MODEL_DIGEST={found}"
        )
    logging.warning("%s brings code that runs here: MODEL_DIGEST=%s confirms it, not the registry", uri, found)
    return stored, uri, versions[0].tags if versions else {}


def _numbered(version) -> str:
    return f"models:/{version.name}/{version.version}"
