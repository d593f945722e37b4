"""Download the files of a registered version, and compare them with the digests that the registry keeps."""

from pathlib import Path

from components.artifacts.evaluation import ScanDigests
from components.artifacts.trained_model import WEIGHTS, TrainedModel
from components.core.errors import StepError
from components.core.storage import file_sha256
from components.registry.mlflow_requests import log_while_waiting
from components.registry.model_digest import model_digest


def download_model(version, folder: Path) -> Path:
    """Download a version's model into `folder`, and return the folder of its weights and `model.json`.

    Raises:
        StepError: a file or its digest is missing, or a file was altered.
        MlflowException, OSError: the files cannot be downloaded.
    """
    import mlflow

    uri = f"models:/{version.name}/{version.version}"
    with log_while_waiting(f"the files of {uri}"):
        model = Path(mlflow.artifacts.download_artifacts(uri, dst_path=str(folder)))
    weights = next(model.rglob(WEIGHTS), None)
    if weights is None:
        raise StepError(f"its model holds no {WEIGHTS}")
    facts = weights.with_name(TrainedModel.FILE)
    expected = [(WEIGHTS, "weights_sha256", file_sha256(weights))]
    if "facts_sha256" in version.tags:
        expected.append((TrainedModel.FILE, "facts_sha256", file_sha256(facts) if facts.is_file() else ""))
    else:  # registered before this tag existed
        expected.append(("a file of its model", "model_sha256", model_digest(model)))
    for file, tag, digest in expected:
        if tag not in version.tags:
            raise StepError(f"it was registered without the tag {tag}: changes of {file} cannot be detected")
        if digest != version.tags[tag]:
            raise StepError(f"{file} is not what was registered (tag {tag}): it was altered in storage")
    return weights.parent


def download_scan_digests(version, folder: Path) -> ScanDigests | None:
    """Download the list of a version's scans; None if its run is gone or does not hold the registered list.

    Raises:
        MlflowException, OSError: MLflow or its storage does not answer.
    """
    import mlflow
    from mlflow.exceptions import MlflowException

    client = mlflow.MlflowClient()
    try:
        files = {file.path for file in client.list_artifacts(version.run_id)} if version.run_id else set()
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None
    if ScanDigests.FILE not in files:
        return None
    path = Path(client.download_artifacts(version.run_id, ScanDigests.FILE, str(folder)))
    return ScanDigests.read(path) if file_sha256(path) == version.tags.get("cases_sha256") else None
