"""Where the weights of this checkout's champion are."""

import os
from pathlib import Path

from components.core.errors import StepError
from components.registry.tracking import MODEL_NAME
from pipelines.models import registry
from tests.support.checkout import ROOT

CHAMPION = f"models:/{MODEL_NAME}@champion"
STATE = ROOT / ".local"
ADVICE = "Run make pipeline-run first, or name a folder with best_model.pth and model.json: RELATIONS_MODEL=folder."


def champion_weights(folder: Path) -> Path:
    """Return the folder with the champion's `best_model.pth` and `model.json`, copied below `folder`.

    The environment variable RELATIONS_MODEL names another, which is not copied.

    Raises:
        StepError: there is no champion.
    """
    if named := os.environ.get("RELATIONS_MODEL"):
        return Path(named)
    if not (STATE / "mlflow").is_dir():
        raise StepError(f"no model was trained here. {ADVICE}")
    import mlflow

    with registry.connect("local", STATE) as client:
        found = registry.version(client, CHAMPION, ADVICE)
        stored = mlflow.artifacts.download_artifacts(f"models:/{MODEL_NAME}/{found.version}", dst_path=str(folder))
    return next(Path(stored).rglob("best_model.pth")).parent
