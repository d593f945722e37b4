"""A model of the registry: fetched, verified, and loaded through MLflow."""

import ast
import logging
import os
import shutil
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from components.artifacts.synthetic import is_synthetic
from components.core.code_closure import MODEL, closure_digest
from components.core.errors import StepError
from components.core.step import without_logins
from components.core.text import shown
from components.ingest.validate import MODALITY_ADVICE
from pipelines.image_tags import ROOT
from pipelines.models.registry import require_champion
from pipelines.predict.folder import segment_folder
from pipelines.predict.segmenter import Segmenter
from pipelines.predict.verified_model import fetch
from pipelines.target import target
from pipelines.target_name import as_argument


class RegisteredSegmenter(Segmenter):
    """Segment scans with a registered model: `RegisteredSegmenter("models:/dwi-attention-unet@champion", state)`.

    `place` is the target with the registry; a loaded model needs no registry. `digest` confirms a model for which the
    registry has no digest.

    Raises:
        StepError: there is no such model, or it differs from the registered one. Then none of its code ran.
    """

    modality_advice = MODALITY_ADVICE

    def __init__(self, uri: str, state: Path, place: str = "local", digest: str = ""):
        self._folder = tempfile.TemporaryDirectory()
        os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"
        with target(place).tracking(state):
            tags = self._load(uri, place, digest)
        from components.model.gpu_advice import describe_device

        logging.info("segmenting on %s", describe_device())
        self.synthetic = is_synthetic(tags)
        say_if_code_differs(self.uri, tags)
        self.columns = self.model.metadata.get_input_schema().input_names()
        self.sees_adc = "adc" in self.columns
        self.parameters = {parameter.name for parameter in self.model.metadata.get_params_schema() or ()}
        self.b_value_in_training = _b_value_in_training(self.model)

    def _load(self, uri: str, place: str, digest: str) -> dict[str, str]:
        """Fetch the model, verify it and load it; return the tags of the version."""
        import mlflow
        from mlflow.exceptions import MlflowException

        client = mlflow.MlflowClient()
        require_champion(client, uri, place)
        try:
            stored, self.uri, tags = fetch(client, uri, Path(self._folder.name), place, digest)
            _replace_entry_of_older_code(stored)
            self.model = mlflow.pyfunc.load_model(str(stored))
        except (MlflowException, OSError, ImportError) as error:
            raise StepError(
                f"no model {without_logins(shown(uri))}: {shown(str(error), 200)}. Run make pipeline-run"
                f"{as_argument(place)} first, or name another: MODEL=models:/dwi-attention-unet/1."
            ) from None
        return tags

    def _row(self, files: dict[str, bytes], parameters: dict[str, bool]) -> Mapping[str, Any]:
        import pandas as pd

        table = pd.DataFrame({name: [content] for name, content in files.items()})
        return self.model.predict(table, params=parameters).iloc[0]


def predict_folder(
    source: Path, target: Path, model: str, state: Path, probability: bool,
    place: str = "local", digest: str = "", **options: Any,
) -> None:  # fmt: skip
    """`make predict` of a folder; `options` are those of `segment_folder`.

    Raises:
        StepError: as `segment_folder` and `RegisteredSegmenter` do.
    """
    load = partial(RegisteredSegmenter, model, state, place, digest)
    segment_folder(source, target, load, probability, **options)


def say_if_code_differs(uri: str, tags: dict[str, str]) -> None:
    """The modules of this checkout are in use already, and MLflow loads a model's own only where there are none."""
    if "code_sha256" in tags and tags["code_sha256"] != closure_digest(MODEL):
        logging.warning(
            "%s was registered with other code than this checkout's, which segments here: masks may differ from those "
            "it was measured by. make lineage names the commit.", uri,
        )  # fmt: skip


def _replace_entry_of_older_code(model: Path) -> None:
    """Let a model whose entry file imports modules that this checkout has under other names run with this checkout's.

    The modules of `components` are those of this checkout in any case: see `say_if_code_differs`.
    """
    from mlflow.models import Model

    name = Model.load(str(model)).flavors["python_function"].get("model_code_path")
    if not name or not (entry := model / Path(name).name).is_file():
        return
    imported = {n.module for n in ast.walk(ast.parse(entry.read_bytes())) if isinstance(n, ast.ImportFrom) and n.module}
    ours = {module for module in imported if module.startswith("components.")}
    if not all((ROOT / Path(*module.split(".")).with_suffix(".py")).is_file() for module in ours):
        shutil.copy(ROOT / MODEL, entry)


def _b_value_in_training(model) -> float:
    """Return the setting b_value of the model's training, s/mm²; 0 if unknown."""
    trained = getattr(model.unwrap_python_model(), "trained", None)
    return float(trained.params.get("b_value", 0)) if trained else 0.0
