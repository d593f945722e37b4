"""Register a model: a version in MLflow's registry with its complete lineage, and the decision about a promotion."""

import hashlib
import logging
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from components.artifacts.evaluation import Comparison, TestMetrics
from components.artifacts.headline import sentence
from components.artifacts.trained_model import TrainedModel
from components.core import code_closure
from components.core.storage import file_sha256
from components.register import card_text
from components.register.card import Card
from components.register.card import load as load_statement
from components.register.card_facts import make_card
from components.register.decision import decide
from components.register.mlflow_logging import logged_model, packages, stored_model_digest
from components.register.policy import load as load_policy
from components.registry.evaluation_signature import require_authentic
from components.registry.ledger import Ledger
from components.registry.ledger_pairing import require_pair
from components.registry.mlflow_requests import explain_mlflow_errors, find_or_create
from components.registry.run_records import record_comparison, record_evaluation, record_training
from components.registry.tracking import MODEL_NAME, MOST_PIPELINE_RUNS, PIPELINE_RUNS, TRAINING_VIEW, Run

CARD = "model_card"
"""Folder of the MLflow run with model_card.md and model_card.json."""
SUMMARY_TAGS = (
    "test_lesion_dice_mean", "test_lesion_dice_ci_low", "test_lesion_dice_ci_high", "test_dice_mean",
    "test_dice_ci_low", "test_dice_ci_high", "test_lesion_f1_mean", "test_lesion_f1_matched_mean",
    "test_lesion_free_false_alarm_rate", "test_rule_dice_mean", "test_better_than_rule", "test_patients",
    "test_folds",
)  # fmt: skip
"""Metrics of the summary that become tags of a version."""


@explain_mlflow_errors()
def register(model: Path, evaluation: Path) -> dict[str, str]:
    """Register the model as `dwi-attention-unet`, once per training and evaluation, with the alias `challenger`.

    It also becomes `champion` if the policy allows it. The ledger records the decision.

    Returns:
        name, version, aliases (comma-separated), run_id, decision (a sentence).

    Raises:
        StepError: the policy, the card's text or a field of the model card is invalid or missing; the evaluation was
            altered; MLflow or object storage does not answer, or returns other weights than it was sent; or the
            registry and the ledger do not belong together.
    """
    ledger = Ledger()
    require_pair(ledger)
    policy = load_policy()
    card = make_card(load_statement(), model, evaluation, packages())
    require_authentic(ledger.client, model, evaluation)
    trained, metrics = TrainedModel.read(model), TestMetrics.read(evaluation)
    digest = card.versions.evaluation_digest

    run, start = Run.open(trained.training_digest, digest), time.perf_counter()
    record_training(run, model)
    record_evaluation(run, model, evaluation)
    record_comparison(run, evaluation)

    client = run.client
    version = _find_version(client, digest)
    is_new = version is None
    if version is None:
        first = sentence(metrics.summary, metrics.synthetic)
        tags = _version_tags(trained, metrics, card, model, evaluation) | {
            "card_sha256": _log_card(run, card, first), "evaluation_digest": digest,
        }  # fmt: skip
        version = _create_version(run, model, tags, card_text.description(card, first, _card_link(run)))
    else:
        logging.info("version %s was registered before for this model and evaluation", version)
    client.set_registered_model_alias(MODEL_NAME, "challenger", version)
    _add_pipeline_run(client, version)

    registered = client.get_model_version(MODEL_NAME, version)
    decision = decide(client, registered, Comparison.read(evaluation), metrics.summary, policy, ledger)
    aliases = sorted(a for a, v in client.get_registered_model(MODEL_NAME).aliases.items() if str(v) == str(version))
    if not run.has_tag("decision", decision):
        run.set_tags({"decision": decision})
    if is_new or not run.finished_at:
        run.add_note(_note(sentence(metrics.summary, metrics.synthetic), version, decision))
        run.log_seconds("register", time.perf_counter() - start)
        run.finish()
    logging.info("%s version %s (%s)", MODEL_NAME, version, ", ".join(aliases))
    return {
        "name": MODEL_NAME, "version": str(version), "aliases": ",".join(aliases), "run_id": run.id,
        "decision": decision,
    }  # fmt: skip


def _note(result: str, version: str, decision: str) -> str:
    """Return the description of the run: its result, its version, and the decision about it."""
    page = f"#/models/{MODEL_NAME}/versions/{version}{TRAINING_VIEW}"
    return f"{result}\n\n[{MODEL_NAME} version {version}]({page}): {decision}"


def _version_tags(
    trained: TrainedModel, metrics: TestMetrics, card: Card, model: Path, evaluation: Path
) -> dict[str, Any]:
    """Return the tags of a version: its lineage, digests of its files, its main results."""
    return {
        **trained.lineage,
        "training_digest": trained.training_digest,
        "weights_sha256": card.versions.weights_sha256,
        "facts_sha256": file_sha256(model / TrainedModel.FILE),
        "code_sha256": code_closure.closure_digest(code_closure.MODEL),
        "cases_sha256": card.versions.cases_sha256,
        "metrics_sha256": file_sha256(evaluation / TestMetrics.FILE),
        "threshold": trained.threshold,
        **{name: metrics.summary[name] for name in SUMMARY_TAGS if name in metrics.summary},
    }


def _add_pipeline_run(client, version: str) -> None:
    """Add this pipeline run to a tag of the version, because its MLflow run may belong to an earlier one."""
    if kfp_run := os.environ.get("KFP_RUN_ID"):
        earlier = client.get_model_version(MODEL_NAME, version).tags.get(PIPELINE_RUNS, "").split(",")
        newest = [*(run for run in earlier if run not in ("", kfp_run)), kfp_run][-MOST_PIPELINE_RUNS:]
        client.set_model_version_tag(MODEL_NAME, version, PIPELINE_RUNS, ",".join(newest))


def _create_version(run: Run, model: Path, tags: dict[str, Any], description: str) -> str:
    """Log the model and create a version of it. If two pipeline runs create one together, the older is kept."""
    digest, client = tags["evaluation_digest"], run.client
    model_id, address = logged_model(run, model, digest)
    run.link_model(model_id)
    digests = {
        "model_sha256": stored_model_digest(address, tags),
        "description_sha256": hashlib.sha256(description.encode()).hexdigest(),
    }
    texts = {name: str(value) for name, value in {**tags, **digests}.items()}

    def create() -> str:
        return client.create_model_version(
            MODEL_NAME, address, run.id, texts, description=description, model_id=model_id
        ).version

    version = find_or_create(lambda: _find_version(client, digest), create)
    oldest = _find_version(client, digest)
    if oldest is not None and oldest != version:
        client.delete_model_version(MODEL_NAME, version)
        logging.info("another run registered this model as version %s at the same time: that version is kept", oldest)
        return oldest
    return version


def _find_version(client, digest: str) -> str | None:
    """Return the oldest version of this evaluation, None without one. Create the registered model if needed."""
    find_or_create(
        lambda: next(iter(client.search_registered_models(f"name = '{MODEL_NAME}'")), None),
        lambda: client.create_registered_model(
            MODEL_NAME, description="Ischemic stroke lesions on DWI. Research use only."
        ),
    )
    versions = client.search_model_versions(f"name = '{MODEL_NAME}'")
    return min((v.version for v in versions if v.tags.get("evaluation_digest") == digest), key=int, default=None)


def _log_card(run: Run, card: Card, first: str) -> str:
    """Log the card to the run as Markdown and as JSON, and return the SHA-256 of the JSON."""
    with tempfile.TemporaryDirectory() as folder:
        markdown, as_json = (Path(folder) / f"{CARD}.{suffix}" for suffix in ("md", "json"))
        markdown.write_text(card_text.markdown(card, first))
        as_json.write_text(card.model_dump_json(indent=1))
        run.log_artifact(markdown, CARD)
        run.log_artifact(as_json, CARD)
        return file_sha256(as_json)


def _card_link(run: Run) -> str:
    """Return a link to the complete card within MLflow's pages."""
    experiment = run.client.get_run(run.id).info.experiment_id
    return f"[{CARD}/{CARD}.md](#/experiments/{experiment}/runs/{run.id}/artifacts/{CARD}/{CARD}.md{TRAINING_VIEW})"
