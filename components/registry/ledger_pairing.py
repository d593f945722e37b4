"""Check that a registry and a ledger belong together, before a decision is written.

Both hold the same mark, written once: `ledger/id` in the bucket, and the tag `ledger_id` of the registered model. An
older pair without marks is recognised by its decisions.
"""

import hashlib
import logging
import os

from components.core.errors import StepError
from components.core.step import without_logins
from components.registry.ledger import FIRST, NAMES_ENTRY, Ledger, registered_model
from components.registry.mlflow_requests import explain_mlflow_errors
from components.registry.tracking import MODEL_NAME

TAG, RENEW = "ledger_id", "renew"
"""The registered model's tag, and the value that a person sets if the ledger is lost or another one is to be used."""


@explain_mlflow_errors()
def require_pair(ledger: Ledger) -> None:
    """Check that the ledger and its registry belong together, without writing.

    Raises:
        StepError: they do not belong together, decisions are missing, or MLflow does not answer.
    """
    if why := pairing_problem(ledger):
        raise StepError(f"{why}. Nothing was written. {_advice()}")
    model = registered_model(ledger.client)
    if model is not None and model.tags.get(TAG, RENEW) != RENEW:
        ledger.entries()
        ledger.require_complete()


@explain_mlflow_errors()
def ensure_pair(ledger: Ledger) -> None:
    """Call `require_pair`, then write the same mark to both if needed. The registered model must exist.

    Then bring the registry's head up to date, which a kill may have left old (see `Ledger.update_head`).

    Raises:
        StepError: as `require_pair`.
    """
    require_pair(ledger)
    client, model, ledger_mark = ledger.client, registered_model(ledger.client), ledger.mark()
    new_mark, give_up = _new_mark(model), model.tags.get(TAG) == RENEW
    ledger.update_head(give_up)
    if ledger_mark and model.tags.get(TAG) == ledger_mark:
        return
    if ledger_mark not in (None, new_mark):
        logging.info("the ledger %s holds decisions of an earlier registry, and continues with this one", ledger.uri)
    elif _has_decisions(ledger, model):
        logging.info("registry and ledger %s agree on their decisions: both get the mark %s", ledger.uri, new_mark)
    ledger.set_mark(new_mark)
    client.set_registered_model_tag(MODEL_NAME, TAG, new_mark)


def pairing_problem(ledger: Ledger) -> str:
    """Return why the registry and the ledger do not belong together; "" if they do, or if the registry is new."""
    model = registered_model(ledger.client)
    if model is None:
        return ""
    registry_mark, ledger_mark = model.tags.get(TAG), ledger.mark()
    if registry_mark == RENEW or (ledger_mark and ledger_mark == (registry_mark or _new_mark(model))):
        return ""
    if registry_mark:
        why = "the registry's decisions are in another ledger" if ledger_mark is None else "their marks differ"
    elif _agree(ledger, model):
        return ""
    else:
        why = "the ledger's decisions are about other versions than the registry's"
    return f"the registry {_registry_uri()} and the ledger {ledger.uri} do not belong together: {why}"


def _agree(ledger: Ledger, model) -> bool:
    """Return whether a registry without a mark is new, or most decisions of the ledger are about its versions."""
    if not _has_decisions(ledger, model):
        return True
    versions = _versions(ledger)
    entries = ledger.entries()
    if not entries:
        return not any(NAMES_ENTRY in v.tags for v in versions)
    start = max((i for i, e in enumerate(entries) if e.facts["decision"] == FIRST), default=0)
    sources = {str(v.version): v.source for v in versions}
    decided = [(e.facts["version"], e.facts["model"]) for e in entries[start:]]
    same = [sources[version] == source for version, source in decided if version in sources]
    return 2 * sum(same) > len(same)


def _has_decisions(ledger: Ledger, model) -> bool:
    return "champion" in model.aliases or any(NAMES_ENTRY in v.tags for v in _versions(ledger))


def _versions(ledger: Ledger) -> list:
    return ledger.client.search_model_versions(f"name = '{MODEL_NAME}'")


def _new_mark(model) -> str:
    """Return the mark of a registry. It is always the same, so two runs that start together write one mark."""
    return hashlib.sha256(f"{model.name} {model.creation_timestamp}".encode()).hexdigest()[:16]


def _registry_uri() -> str:
    import mlflow

    return without_logins(mlflow.get_tracking_uri())


def _advice() -> str:
    given = [name for name in ("MLFLOW_TRACKING_URI", "S3_ENDPOINT_URL", "S3_BUCKET") if os.environ.get(name)]
    return (
        "Use MLflow and S3 of one place: leave out MLFLOW_TRACKING_URI, S3_ENDPOINT_URL, S3_BUCKET and AWS_* and set "
        f"TARGET=local, kind or cluster, or set them all to the same place (set now: {', '.join(given) or 'none'}). "
        f"If the registry's own ledger is lost for good, set the tag {TAG} of the registered model {MODEL_NAME} to "
        f'"{RENEW}" in MLflow, and run again.'
    )
