"""Log a model to MLflow with its code and requirements, so that it loads from the registry alone."""

import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd

from components.artifacts.trained_model import TENSORS, WEIGHTS, TrainedModel
from components.core import code_closure
from components.core.errors import StepError
from components.core.storage import file_sha256
from components.registry.mlflow_requests import log_while_waiting
from components.registry.model_digest import altered_file, model_digest
from components.registry.tracking import Run
from components.scans.volumes import nifti_bytes

RUNTIME = (
    "torch", "safetensors", "nibabel", "numpy", "scipy", "opencv-python-headless", "simpleitk", "pandas", "pydantic",
    "mlflow",
)  # fmt: skip
"""Python packages that the model's code imports."""


def logged_model(run: Run, model: Path, evaluation_digest: str) -> tuple[str, str]:
    """Log the model to the run, unless an earlier try did, and return its id and its address.

    A model with another `model.json` is another model, even if its evaluation is the same. What a killed try left
    incomplete is deleted: MLflow would list it as a second model.
    """
    experiment = run.client.get_run(run.id).info.experiment_id
    mine = f"source_run_id = '{run.id}' AND tags.evaluation_digest = '{evaluation_digest}'"
    tags = {"evaluation_digest": evaluation_digest, "facts_sha256": file_sha256(model / TrainedModel.FILE)}
    ready = None
    for found in run.client.search_logged_models([experiment], mine):
        if found.status != "READY":
            run.client.delete_logged_model(found.model_id)
        elif found.tags.get("facts_sha256") == tags["facts_sha256"]:
            ready = found
    if ready is None:
        ready = log_model(run, model, tags)
    return ready.model_id, ready.model_uri


def log_model(run: Run, model: Path, tags: dict[str, str] | None = None):
    """Log the pyfunc model to the run, and return MLflow's `ModelInfo`."""
    import mlflow
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema

    from components.model.mlflow_model import COLUMNS

    trained = TrainedModel.read(model)
    example = input_example(trained.inputs)
    signature = ModelSignature(
        inputs=Schema([ColSpec("binary", column) for column in example]),
        outputs=Schema(
            [ColSpec({"mask": "binary", "needs_review": "string"}.get(name, "double"), name) for name in COLUMNS]
        ),
        params=ParamSchema([ParamSpec("probability", "boolean", False), ParamSpec("modality_check", "boolean", True)]),
    )
    with tempfile.TemporaryDirectory() as folder:
        weights, code = Path(folder) / "weights", Path(folder) / "code"
        weights.mkdir()
        for name in (WEIGHTS, TENSORS, TrainedModel.FILE):
            if name != TENSORS or trained.tensors_sha256:
                shutil.copy(model / name, weights)
        code_closure.copy_closure(code_closure.MODEL, code)
        with mlflow.start_run(run.id, log_system_metrics=False):
            return mlflow.pyfunc.log_model(
                name="model",
                python_model=str(code_closure.ROOT / code_closure.MODEL),
                artifacts={"weights": str(weights)},
                code_paths=[str(code / "components")],
                signature=signature,
                input_example=example,
                pip_requirements=requirements(),
                params={name: str(value) for name, value in trained.params.items()},
                tags=tags,
                step=trained.best_epoch or 0,  # MLflow links the metrics of this step: those of the weights
            )


def stored_model_digest(uri: str, tags: dict[str, str]) -> str:
    """Download the model that MLflow stored, and return its digest.

    Raises:
        StepError: the weights differ from those that were sent.
    """
    import mlflow

    with tempfile.TemporaryDirectory() as folder:
        with log_while_waiting(f"the files of {uri}"):
            stored = Path(mlflow.artifacts.download_artifacts(uri, dst_path=folder))
        if problem := altered_file(stored, tags):
            raise StepError(
                f"the model that MLflow stored as {uri} differs from the one that was sent: {problem}. It was altered "
                "on the way or in storage. Nothing was registered. Run again."
            )
        return model_digest(stored)


def input_example(inputs: str = "dwi") -> pd.DataFrame:
    """Return a tiny synthetic scan, with ADC if needed: noise and a bright disc, 32 x 32 x 4 voxels of 6 x 6 x 5 mm."""
    rng = np.random.default_rng(0)
    x, y = np.mgrid[-16:16, -16:16]
    infarct, affine = ((x - 4) ** 2 + y**2 < 16)[:, :, None], np.diag([-6.0, -6.0, 5.0, 1.0])
    scan = rng.normal(100, 5, (32, 32, 4)) + 80 * infarct
    columns = {"scan": [nifti_bytes(scan.astype(np.int16), affine)]}
    if inputs == "dwi+adc":
        adc = rng.normal(0.8, 0.05, scan.shape) - 0.4 * infarct
        columns["adc"] = [nifti_bytes(adc.astype(np.float32), affine)]
    return pd.DataFrame(columns)


def packages() -> dict[str, str]:
    """Return the versions of the packages in `RUNTIME` that are installed here."""
    return {package: version(package).split("+")[0] for package in RUNTIME}


def requirements() -> list[str]:
    """Return the same versions as pip requirements."""
    return [f"{package}=={number}" for package, number in packages().items()]
