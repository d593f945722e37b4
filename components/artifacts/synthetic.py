"""Synthetic scans: how a data set says that it is made of them, and which versions learnt from such scans alone."""

import json

DESCRIPTION, MOST_DESCRIPTION_BYTES = "dataset_description.json", 2**20
"""The file in which a data set describes itself (BIDS), and the largest that is read."""
TAG = {"data": "synthetic demo scans, no patients"}
"""The tag of an MLflow run and of a version that learnt from synthetic scans alone."""
WARNING = "learnt from SYNTHETIC scans alone: what it makes of a patient's scan means nothing"


def says_synthetic(description: bytes) -> bool:
    """Return whether the content of a `dataset_description.json` names the data set so."""
    try:
        name = json.loads(description.decode())["Name"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return False
    return "synthetic" in str(name).lower()


def is_synthetic(tags: dict[str, str]) -> bool:
    """Return whether a version with these tags learnt from synthetic scans alone."""
    return TAG.keys() <= tags.keys()
