"""Give the model a version in MLflow's registry that loads from there alone, with its whole lineage."""

import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from components.artifacts.headline import sentence
from components.core import code_closure
from components.core.step import StepError
from components.core.storage import file_sha256
from components.register import card_text
from components.register.card import Card
from components.register.card import load as load_statement
from components.register.card_facts import make_card
from components.register.decision import decide
from components.register.policy import load as load_policy
from components.registry.evaluation_signature import require_authentic
from components.registry.ledger import Ledger
from components.registry.ledger_pairing import require_pair
from components.registry.model_digest import altered_file, model_digest
from components.registry.tracking import (
    MODEL_NAME,
    MOST_PIPELINE_RUNS,
    PIPELINE_RUNS,
    TRAINING_VIEW,
    Run,
    answering,
    evaluation_digest,
    made_once,
    record_comparison,
    record_evaluation,
    record_training,
    waiting_for,
)
from components.scans.volumes import nifti_bytes

"""Packages whose code a version carries."""
CARD = "model_card"
"""The run's folder of it: model_card.md and model_card.json."""
RUNTIME = (
    "torch", "nibabel", "numpy", "scipy", "opencv-python-headless", "simpleitk", "pandas", "pydantic", "tqdm", "mlflow",
)  # fmt: skip
SHOWN_AS_TAGS = (
    "test_lesion_dice_mean", "test_lesion_dice_ci_low", "test_lesion_dice_ci_high", "test_dice_mean",
    "test_dice_ci_low", "test_dice_ci_high", "test_lesion_f1_mean", "test_lesion_f1_matched_mean",
    "test_lesion_free_false_alarm_rate", "test_rule_dice_mean", "test_better_than_rule", "test_patients",
)  # fmt: skip
"""Of the summary, where it holds them."""


@answering()
def register(model: Path, evaluation: Path) -> dict[str, str]:
    """Register the model as `dwi-attention-unet` once for this training and evaluation, alias `challenger`.

    It becomes `champion` too where the policy lets it, which the ledger records.

    Returns:
        name, version, aliases (comma-separated), run_id, decision (in words).

    Raises:
        StepError: the policy or the card's own text is none, a required field of the model card is empty, or MLflow or
            object storage does not answer, or keeps other weights than it was sent, or the registry and the ledger do
            not belong together, or the evaluation is not as evaluate left it.
    """
    ledger = Ledger()
    require_pair(ledger)
    policy, statement = load_policy(), load_statement()
    packages = dict(line.split("==") for line in _requirements())
    card = make_card(statement, model, evaluation, packages)
    require_authentic(ledger.client, model, evaluation)
    facts = json.loads((model / "model.json").read_text())
    measured = json.loads((evaluation / "test_metrics.json").read_text())
    digest = evaluation_digest(model, evaluation)
    run = Run.open(facts["training_digest"], digest)
    record_training(run, model)
    record_evaluation(run, model, evaluation)
    record_comparison(run, evaluation)
    client = run.client
    version = _registered(client, digest)
    if new := version is None:
        first = sentence(measured["summary"], measured["synthetic"])
        lineage = {
            **facts["lineage"],
            "training_digest": facts["training_digest"],
            "weights_sha256": card.versions.weights_sha256,
            "facts_sha256": file_sha256(model / "model.json"),
            "code_sha256": code_closure.closure_digest(code_closure.MODEL),
            "cases_sha256": card.versions.cases_sha256,
            "metrics_sha256": file_sha256(evaluation / "test_metrics.json"),
            "card_sha256": _log_card(run, card, first),
            "threshold": facts["threshold"],
            **{k: measured["summary"][k] for k in SHOWN_AS_TAGS if k in measured["summary"]},
            "evaluation_digest": digest,
        }
        version = _make_version(run, model, digest, lineage, lambda: card_text.description(card, first, _address(run)))
    else:
        logging.info("version %s was registered before for this model and evaluation", version)
    client.set_registered_model_alias(MODEL_NAME, "challenger", version)
    _note_pipeline_run(client, version)
    comparison = json.loads((evaluation / "comparison.json").read_text())
    registered = client.get_model_version(MODEL_NAME, version)
    decision = decide(client, registered, comparison, measured["summary"], policy, ledger)
    aliases = sorted(a for a, v in client.get_registered_model(MODEL_NAME).aliases.items() if str(v) == str(version))
    if not run.has("decision", decision):
        run.tags({"decision": decision})
    if new or not run.finished:
        run.finish()
    logging.info("%s version %s (%s)", MODEL_NAME, version, ", ".join(aliases))
    return {
        "name": MODEL_NAME, "version": str(version), "aliases": ",".join(aliases), "run_id": run.id,
        "decision": decision,
    }  # fmt: skip


def _note_pipeline_run(client, version: str) -> None:
    """Note in the registry that this pipeline run came to the version: the MLflow run may be an earlier one's."""
    if kfp_run := os.environ.get("KFP_RUN_ID"):
        noted = client.get_model_version(MODEL_NAME, version).tags.get(PIPELINE_RUNS, "").split(",")
        newest = [*(run for run in noted if run not in ("", kfp_run)), kfp_run][-MOST_PIPELINE_RUNS:]
        client.set_model_version_tag(MODEL_NAME, version, PIPELINE_RUNS, ",".join(newest))


def _make_version(run: Run, model: Path, digest: str, lineage: dict, describe: Callable[[], str]) -> str:
    """Log the model and make a version of it; of two made at once by two pipeline runs the older stays."""
    info = _log(run, model)
    client, description = run.client, describe()
    digests = {
        "model_sha256": _kept_digest(info.model_uri, lineage),
        "description_sha256": hashlib.sha256(description.encode()).hexdigest(),
    }
    tags = {name: str(value) for name, value in {**lineage, **digests}.items()}

    def make() -> str:
        return client.create_model_version(
            MODEL_NAME, info.model_uri, run.id, tags, description=description, model_id=info.model_id
        ).version

    version = made_once(lambda: _registered(client, digest), make)
    if (oldest := _registered(client, digest)) != version:
        client.delete_model_version(MODEL_NAME, version)
        logging.info("version %s was made of this model and evaluation at the same moment: kept, and not ours", oldest)
    return oldest


def _kept_digest(uri: str, lineage: dict) -> str:
    """Digest of the model as MLflow gives it back.

    Raises:
        StepError: the weights came back as others.
    """
    import mlflow

    with tempfile.TemporaryDirectory() as folder:
        with waiting_for(f"the files of {uri}"):
            kept = Path(mlflow.artifacts.download_artifacts(uri, dst_path=folder))
        if broken := altered_file(kept, lineage):
            raise StepError(
                f"what MLflow keeps as {uri} is not what it was sent: {broken}. It was altered on the way or in its "
                "store. Nothing was registered. Run again."
            )
        return model_digest(kept)


def _log_card(run: Run, card: Card, first: str) -> str:
    """Log the card to the run; the SHA-256 of its JSON."""
    with tempfile.TemporaryDirectory() as folder:
        files = {name: Path(folder) / f"{CARD}.{name}" for name in ("md", "json")}
        files["md"].write_text(card_text.markdown(card, first))
        files["json"].write_text(card.model_dump_json(indent=1))
        for path in files.values():
            run.artifact(path, CARD)
        return file_sha256(files["json"])


def _address(run: Run) -> str:
    """Where the whole card is, as a link within MLflow's pages."""
    experiment = run.client.get_run(run.id).info.experiment_id
    return f"[{CARD}/{CARD}.md](#/experiments/{experiment}/runs/{run.id}/artifacts/{CARD}/{CARD}.md{TRAINING_VIEW})"


def _registered(client, digest: str) -> str | None:
    """The oldest version of this evaluation, None without one; makes sure that the registered model is there."""
    made_once(
        lambda: next(iter(client.search_registered_models(f"name = '{MODEL_NAME}'")), None),
        lambda: client.create_registered_model(
            MODEL_NAME, description="Ischemic stroke lesions on DWI. Research use only."
        ),
    )
    versions = client.search_model_versions(f"name = '{MODEL_NAME}'")
    return min((v.version for v in versions if v.tags.get("evaluation_digest") == digest), key=int, default=None)


def _log(run: Run, model: Path):
    """Log the pyfunc model to the run; MLflow's description of it."""
    import mlflow
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema

    from components.model.mlflow_model import COLUMNS

    example = _example(json.loads((model / "model.json").read_text())["inputs"])
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
        for name in ("best_model.pth", "model.json"):
            shutil.copy(model / name, weights)
        code_closure.copy_closure(code_closure.MODEL, code)
        with mlflow.start_run(run.id):
            return mlflow.pyfunc.log_model(
                name="model",
                python_model=str(code_closure.ROOT / code_closure.MODEL),
                artifacts={"weights": str(weights)},
                code_paths=[str(code / "components")],
                signature=signature,
                input_example=example,
                pip_requirements=_requirements(),
            )


def _example(inputs: str = "dwi") -> pd.DataFrame:
    """A tiny synthetic scan: noise with a bright disc, 32 x 32 x 4 voxels of 6 x 6 x 5 mm; with its ADC where asked."""
    rng = np.random.default_rng(0)
    x, y = np.mgrid[-16:16, -16:16]
    infarct, affine = ((x - 4) ** 2 + y**2 < 16)[:, :, None], np.diag([-6.0, -6.0, 5.0, 1.0])
    scan = rng.normal(100, 5, (32, 32, 4)) + 80 * infarct
    columns = {"scan": [nifti_bytes(scan.astype(np.int16), affine)]}
    if inputs == "dwi+adc":
        adc = rng.normal(0.8, 0.05, scan.shape) - 0.4 * infarct
        columns["adc"] = [nifti_bytes(adc.astype(np.float32), affine)]
    return pd.DataFrame(columns)


def _requirements() -> list[str]:
    from importlib.metadata import version

    return [f"{package}=={version(package).split('+')[0]}" for package in RUNTIME]
