"""Find the version of the data under a URI, and the earlier split that the next split extends."""

import logging

from components.artifacts.synthetic import DESCRIPTION, MOST_DESCRIPTION_BYTES, says_synthetic
from components.core.errors import StepError
from components.core.storage import Storage, digest_of
from components.registry import split_history
from components.registry.ledger import Ledger
from components.registry.ledger_pairing import require_pair


def fingerprint(data_uri: str) -> str:
    """Return a SHA-256 over every key, size and ETag under `data_uri`.

    Raises:
        StepError: the prefix is empty, or cannot be listed.
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


def history_to_extend(
    data_uri: str, data_version: str, ratios: tuple[float, float, float], seed: int, inputs: str, folds: int = 1
) -> str:
    """Return the digest of the split history that this split extends; "" if no such version is registered.

    Raises:
        StepError: MLflow or the storage does not answer, a registered split was altered, or registry and ledger do not
            match. These errors are better found before the training than after it.
    """
    synthetic = _is_synthetic_set(Storage(data_uri))
    settings = split_history.split_settings(ratios, seed, inputs, folds)
    digest = split_history.history_to_extend(data_uri, data_version, settings, synthetic, folds)
    require_pair(Ledger())
    return digest


def _is_synthetic_set(storage: Storage) -> bool:
    """Return whether the description of the stored data set names it as synthetic, as ingest will read it."""
    found = storage.find(DESCRIPTION)
    return found is not None and found.size <= MOST_DESCRIPTION_BYTES and says_synthetic(storage.get(DESCRIPTION))
