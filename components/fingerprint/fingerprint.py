"""What is under the data URI right now, as one digest; and the registered split from which the next is carried on."""

import logging

from components.core import known
from components.core.step import StepError
from components.core.storage import Storage, digest_of


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
        StepError: MLflow does not answer, or a registered split was altered.
    """
    return known.to_carry_on_from(data_uri, data_version, known.settings(ratios, seed, inputs))
