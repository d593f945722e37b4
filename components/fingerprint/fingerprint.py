"""What is under the data URI right now, as one digest; and the registered split from which the next is carried on."""

import logging

from components.artifacts.synthetic import DESCRIPTION, MOST_DESCRIPTION_BYTES, says_synthetic
from components.core.step import StepError
from components.core.storage import Storage, digest_of
from components.registry import split_history
from components.registry.ledger import Ledger
from components.registry.ledger_pairing import require_pair


def fingerprint(data_uri: str) -> str:
    """SHA-256 over every key, size and ETag under `data_uri`.

    Raises:
        StepError: nothing is there, or it cannot be listed.
    """
    objects = Storage(data_uri).list()
    if not objects:
        raise StepError(f"nothing is stored under {data_uri}. Check the address, or give a folder: DATA=folder.")
    digest = digest_of(objects)
    logging.info(
        "%d objects, %.1f MB under %s, version %s",
        len(objects), sum(o.size for o in objects) / 1e6, data_uri, digest[:12],
    )  # fmt: skip
    return digest


def lineage(data_uri: str, data_version: str, ratios: tuple[float, float, float], seed: int, inputs: str) -> str:
    """The digest of the registered lineage that this split is carried on from; "" where nothing is registered.

    Raises:
        StepError: MLflow or the storage does not answer, a registered split was altered, or the registry and the
            ledger do not belong together: better known now than after the training.
    """
    synthetic = _is_synthetic_set(Storage(data_uri))
    before = split_history.to_carry_on_from(
        data_uri, data_version, split_history.settings(ratios, seed, inputs), synthetic
    )
    require_pair(Ledger())
    return before


def _is_synthetic_set(storage: Storage) -> bool:
    """Return whether the data set stored there says of itself that it is synthetic, as ingest will read it."""
    about = storage.find(DESCRIPTION)
    return about is not None and about.size <= MOST_DESCRIPTION_BYTES and says_synthetic(storage.get(DESCRIPTION))
