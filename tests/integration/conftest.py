import json
import socket
import tempfile
from pathlib import Path
from types import SimpleNamespace

import mlflow
import nibabel as nib
import numpy as np
import pytest
import torch

from components.artifacts.trained_model import TENSORS
from components.core.storage import file_sha256
from components.model.network import AttentionUNet
from components.register.mlflow_logging import log_model
from components.registry.model_digest import model_digest
from components.registry.tracking import EXPERIMENT, MODEL_NAME
from components.train.write_model import write_weights
from pipelines.local import services

LAS_2X2X5_MM = np.diag([-2.0, 2.0, 5.0, 1.0])
OLD_MODEL = """
import gzip
import mlflow, nibabel as nib, pandas as pd

class BadVolume(Exception): pass

class Old(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        rows = []
        for scan in model_input["scan"]:
            image = nib.Nifti1Image.from_bytes(gzip.decompress(scan))
            if image.shape[0] == 33:
                raise BadVolume("not liked by its old rules")
            mask = nib.Nifti1Image((image.get_fdata() > 150).astype("uint8"), image.affine)
            rows.append((gzip.compress(mask.to_bytes()), 1.5))
        return pd.DataFrame(rows, columns=["mask", "lesion_ml"])

mlflow.models.set_model(Old())
"""
SERVICE_VARIABLES = ("AWS_", "S3_", "MLFLOW_", "KFP_RUN_ID")


@pytest.fixture(scope="session")
def servers(tmp_path_factory):
    """The environment of a real S3 and a real MLflow server, for this session's tests."""
    state = tmp_path_factory.mktemp("servers")
    with pytest.MonkeyPatch.context() as patch:
        _forget_services(patch)
        for name in ("S3_PORT", "MLFLOW_PORT"):
            patch.setenv(name, _free_port())
        environment = services.up(state)
        yield environment
        services.down(state)


@pytest.fixture
def servers_here(servers, monkeypatch):
    """This process's environment points at them."""
    _forget_services(monkeypatch)
    for name, value in servers.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def registry(servers_here):
    """A registry without the model, before and after."""
    client = mlflow.MlflowClient()

    def forget():
        if client.search_registered_models(f"name = '{MODEL_NAME}'"):
            client.delete_registered_model(MODEL_NAME)

    forget()
    yield client
    forget()


@pytest.fixture
def versionless(registry):
    """A registry that has the model, and no version of it."""
    registry.create_registered_model(MODEL_NAME)
    return registry


@pytest.fixture(scope="session")
def logged_models():
    """The models that tests logged: (MLflow's info, run, tags) by what they asked for. Logging one takes seconds."""
    return {}


@pytest.fixture
def champion(registry, logged_models):
    """Register a tiny network and make it champion; return its version. `bias` moves all its logits."""

    def make(bias: float = 0.0, **facts) -> str:
        key = json.dumps([bias, facts], sort_keys=True)
        if key not in logged_models:
            logged_models[key] = _logged_network(registry, bias, facts)
        return _champion(registry, *logged_models[key])

    return make


@pytest.fixture
def old_champion(registry, logged_models):
    """A champion of the time before intervals, flags and probabilities."""
    if "old" not in logged_models:
        logged_models["old"] = _logged_old_model()
    return _champion(registry, *logged_models["old"])


def _logged_network(client, bias: float, facts: dict) -> tuple:
    torch.manual_seed(0)
    network = AttentionUNet(4, 6 if facts.get("inputs") == "dwi+adc" else 3)
    torch.nn.init.constant_(network.head.bias, bias)
    usual = {
        "base_channels": 4, "image_size": 32, "normalization": "slice", "precision": "float32", "threshold": 0.5,
        "inputs": "dwi",
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_weights(network.state_dict(), folder)
        usual["tensors_sha256"] = file_sha256(folder / TENSORS)
        (folder / "model.json").write_text(json.dumps(usual | facts))
        run = client.create_run(mlflow.set_experiment(EXPERIMENT).experiment_id).info.run_id
        info = log_model(SimpleNamespace(id=run), folder)
    return info, run, _digests(info.model_uri)


def _logged_old_model() -> tuple:
    schema = mlflow.types.Schema([mlflow.types.ColSpec("binary", "scan")])
    signature = mlflow.models.ModelSignature(inputs=schema)
    with tempfile.TemporaryDirectory() as name, mlflow.start_run() as run:
        code = Path(name) / "old_model.py"
        code.write_text(OLD_MODEL)
        info = mlflow.pyfunc.log_model(name="model", python_model=str(code), signature=signature)
    return info, run.info.run_id, _digests(info.model_uri)


def _champion(client, info, run: str, tags: dict[str, str]) -> str:
    if not client.search_registered_models(f"name = '{MODEL_NAME}'"):
        client.create_registered_model(MODEL_NAME)
    version = client.create_model_version(MODEL_NAME, info.model_uri, run, tags, model_id=info.model_id).version
    client.set_registered_model_alias(MODEL_NAME, "champion", version)
    return str(version)


def _digests(uri: str) -> dict[str, str]:
    """The tags that register gives a version for its files."""
    with tempfile.TemporaryDirectory() as folder:
        stored = Path(mlflow.artifacts.download_artifacts(uri, dst_path=folder))
        weights = next(stored.rglob("best_model.pth"), None)
        return {"model_sha256": model_digest(stored)} | ({"weights_sha256": file_sha256(weights)} if weights else {})


@pytest.fixture
def put(make_scan):
    """put(path, ...) writes a scan of its own there; `data` instead of one, `affine` for another place in space."""
    seeds = iter(range(1000))

    def write(path: Path, data: np.ndarray | None = None, affine=LAS_2X2X5_MM) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(make_scan(next(seeds))[0] if data is None else data, affine), path)
        return path

    return write


@pytest.fixture
def free_port():
    return _free_port


def _forget_services(patch) -> None:
    import os

    for name in list(os.environ):
        if name.startswith(SERVICE_VARIABLES):
            patch.delenv(name)


def _free_port() -> str:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return str(s.getsockname()[1])
