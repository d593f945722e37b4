"""Detect changes of the model or the evaluation in object storage between the evaluate and the register step.

Evaluate writes an authentication code of their files. Its key is a tag of the MLflow experiment, because the experiment
outlives its runs and the registered model.
"""

import json
from pathlib import Path

from components.artifacts.evaluation import MASKS
from components.artifacts.trained_model import HISTORY, TENSORS, WEIGHTS, TrainedModel
from components.core.errors import StepError
from components.core.storage import file_sha256
from components.registry import authentication
from components.registry.mlflow_requests import explain_mlflow_errors
from components.registry.tracking import Run

FILE = "authentication.json"
MODEL_FILES = (WEIGHTS, TENSORS, TrainedModel.FILE, HISTORY)
"""A model of older code has no `TENSORS`."""
UNUSED_FOLDER = MASKS
"""The folder of the evaluation that register does not read."""


@explain_mlflow_errors()
def authenticate(run: Run, model: Path, evaluation: Path) -> None:
    """Write the code into the evaluation's folder, after all other files."""
    number = run.client.get_run(run.id).info.experiment_id
    keys = authentication.keys_of(run.client.get_experiment(number).tags)
    if not keys:
        name, value = authentication.new_key_tag()
        run.client.set_experiment_tag(number, name, value)
        keys = authentication.keys_of({name: value})
    (evaluation / FILE).write_text(json.dumps(authentication.code(_digests(model, evaluation), keys)))


@explain_mlflow_errors()
def require_authentic(client, model: Path, evaluation: Path) -> None:
    """Check model and evaluation with the keys of all experiments of this MLflow.

    Raises:
        StepError: a file changed after evaluate, the code is missing or invalid, or MLflow does not answer.
    """
    from mlflow.entities import ViewType

    keys: authentication.Keys = {}
    for experiment in client.search_experiments(view_type=ViewType.ALL):
        keys |= authentication.keys_of(experiment.tags)
    try:
        code = json.loads((evaluation / FILE).read_text())
    except (OSError, ValueError, RecursionError):
        code = None
    if not authentication.is_authentic(_digests(model, evaluation), code, keys):
        raise StepError(
            "the model or its evaluation does not match its authentication code: a file was altered in storage after "
            "the evaluate step, or evaluate used another MLflow. Nothing was registered. Evaluate again: remove "
            ".local/cache, and on a cluster start the run without KFP's cache."
        )


def _digests(model: Path, evaluation: Path) -> dict[str, str]:
    """Return the SHA-256 of each file that register reads."""
    found = sorted(path for path in evaluation.rglob("*") if path.is_file())
    names = {path.relative_to(evaluation).as_posix(): path for path in found if path != evaluation / FILE}
    files = {f"evaluation/{name}": path for name, path in names.items() if not name.startswith(f"{UNUSED_FOLDER}/")}
    files |= {f"model/{name}": model / name for name in MODEL_FILES if name != TENSORS or (model / name).exists()}
    return {name: file_sha256(path) for name, path in files.items()}
