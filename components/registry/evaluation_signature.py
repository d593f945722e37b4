"""What evaluate hands over to register lies in the bucket meanwhile: altered there, it must decide on nothing.

Evaluate leaves an authentication code of the model's and the evaluation's files. Its key is a tag of the MLflow
experiment, which outlives the experiment's runs and the registered model.
"""

import json
from pathlib import Path

from components.core.step import StepError
from components.core.storage import file_sha256
from components.registry import authentication
from components.registry.tracking import Run, answering

FILE = "authentication.json"
OF_MODEL = ("best_model.pth", "model.json", "history.json")
NOT_READ = "masks"
"""The folder of the evaluation that register does not read."""


@answering()
def authenticate(run: Run, model: Path, evaluation: Path) -> None:
    """Leave the code in the evaluation's folder, once all else is there."""
    number = run.client.get_run(run.id).info.experiment_id
    keys = authentication.keys_of(run.client.get_experiment(number).tags)
    if not keys:
        name, value = authentication.new_key_tag()
        run.client.set_experiment_tag(number, name, value)
        keys = authentication.keys_of({name: value})
    (evaluation / FILE).write_text(json.dumps(authentication.code(_digests(model, evaluation), keys)))


@answering()
def require_authentic(client, model: Path, evaluation: Path) -> None:
    """Return where model and evaluation are as evaluate left them, by a key of any of this MLflow's experiments.

    Raises:
        StepError: they are not, or MLflow does not answer.
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
            "the model or its evaluation is not what evaluate left: a file was altered in storage since, or evaluate "
            "knew another MLflow. Nothing was registered. Evaluate again: remove .local/cache, and on a cluster start "
            "the run without KFP's cache."
        )


def _digests(model: Path, evaluation: Path) -> dict[str, str]:
    """SHA-256 of each file that register reads."""
    found = sorted(path for path in evaluation.rglob("*") if path.is_file())
    names = {path.relative_to(evaluation).as_posix(): path for path in found if path != evaluation / FILE}
    mine = {f"evaluation/{name}": path for name, path in names.items() if not name.startswith(f"{NOT_READ}/")}
    mine |= {f"model/{name}": model / name for name in OF_MODEL}
    return {name: file_sha256(path) for name, path in mine.items()}
