"""Do this registry and this ledger belong together? Whoever writes a decision asks first.

Both carry one mark, written once: `ledger/id` in the bucket, and the tag `ledger_id` of the registered model. A pair
from before there were marks is known by its decisions.
"""

import hashlib
import logging
import os

from components.core.step import StepError, without_logins
from components.registry.ledger import FIRST, NAMES_ENTRY, Ledger, registered_model
from components.registry.tracking import MODEL_NAME, answering

TAG, RENEW = "ledger_id", "renew"
"""The registered model's tag, and its value by which a person says that the ledger is lost or another is meant."""


@answering()
def require_pair(ledger: Ledger) -> None:
    """Return where the ledger and its registry may be used together; nothing is written.

    Raises:
        StepError: they belong to different places, decisions are missing, or MLflow does not answer.
    """
    if why := strangers(ledger):
        raise StepError(f"{why}. Nothing was written. {_advice()}")
    model = registered_model(ledger.client)
    if model is not None and model.tags.get(TAG, RENEW) != RENEW:
        ledger.entries()
        ledger.require_whole()


@answering()
def pair(ledger: Ledger) -> None:
    """`require_pair`, and mark both where they do not carry the same mark yet. The registered model must be there.

    The registry then names the ledger's last decisions, after a kill too. It takes over a ledger that it has named
    nothing of yet (see `Ledger.name_last`).
    """
    require_pair(ledger)
    client, model, theirs = ledger.client, registered_model(ledger.client), ledger.mark()
    own, given_up = _own(model), model.tags.get(TAG) == RENEW
    ledger.name_last(given_up)
    if theirs and model.tags.get(TAG) == theirs:
        return
    if theirs not in (None, own):
        logging.info("the ledger %s holds decisions of an earlier registry, and goes on with this one", ledger.uri)
    elif _has_decisions(ledger, model):
        logging.info("registry and ledger %s agree on their decisions: both get one mark, %s", ledger.uri, own)
    ledger.set_mark(own)
    client.set_registered_model_tag(MODEL_NAME, TAG, own)


def strangers(ledger: Ledger) -> str:
    """Say why the registry and the ledger do not belong together; "" where they do, or the registry is a new one."""
    model = registered_model(ledger.client)
    if model is None:
        return ""
    ours, theirs = model.tags.get(TAG), ledger.mark()
    if ours == RENEW or (theirs and theirs == (ours or _own(model))):
        return ""
    if ours:
        why = "its decisions are in another ledger" if theirs is None else "each is marked as another's"
    elif _agree(ledger, model):
        return ""
    else:
        why = "the ledger's decisions are about other versions than the registry's"
    return f"the registry {_registry_uri()} and the ledger {ledger.uri} do not belong together: {why}"


def _agree(ledger: Ledger, model) -> bool:
    """Whether a registry without a mark is new, or most decisions of the ledger are about its very versions."""
    if not _has_decisions(ledger, model):
        return True
    versions = _versions(ledger)
    entries = ledger.entries()
    if not entries:
        return not any(NAMES_ENTRY in v.tags for v in versions)
    begun = max((i for i, e in enumerate(entries) if e.facts["decision"] == FIRST), default=0)
    sources = {str(v.version): v.source for v in versions}
    about = [(e.facts["version"], e.facts["model"]) for e in entries[begun:]]
    same = [sources[version] == source for version, source in about if version in sources]
    return 2 * sum(same) > len(same)


def _has_decisions(ledger: Ledger, model) -> bool:
    return "champion" in model.aliases or any(NAMES_ENTRY in v.tags for v in _versions(ledger))


def _versions(ledger: Ledger) -> list:
    return ledger.client.search_model_versions(f"name = '{MODEL_NAME}'")


def _own(model) -> str:
    """The registry's own mark: the same for all who compute it, so that two runs at once write one."""
    return hashlib.sha256(f"{model.name} {model.creation_timestamp}".encode()).hexdigest()[:16]


def _registry_uri() -> str:
    import mlflow

    return without_logins(mlflow.get_tracking_uri())


def _advice() -> str:
    given = [name for name in ("MLFLOW_TRACKING_URI", "S3_ENDPOINT_URL", "S3_BUCKET") if os.environ.get(name)]
    return (
        "Take both from one place: leave MLFLOW_TRACKING_URI, S3_ENDPOINT_URL, S3_BUCKET and AWS_* out and give "
        f"TARGET=local, kind or cluster, or set them all to the same place ({', '.join(given) or 'none'} set now). "
        f"If the registry's own ledger is lost for good, set the tag {TAG} of the registered model {MODEL_NAME} to "
        f'"{RENEW}" in MLflow, and run again.'
    )
