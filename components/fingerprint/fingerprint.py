"""What is under the data URI right now, as one digest."""

import logging

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
