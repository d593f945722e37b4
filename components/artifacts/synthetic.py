"""Recognise synthetic data sets, and versions that learnt from synthetic scans alone."""

import json

DESCRIPTION, MOST_DESCRIPTION_BYTES = "dataset_description.json", 2**20
"""The description of a data set (BIDS), and the largest that is read."""
TAG = {"data": "synthetic demo scans, no patients"}
"""Tag of MLflow runs and versions that learnt from synthetic scans alone."""
WARNING = "learnt from SYNTHETIC scans alone: its results for scans of patients mean nothing"


def says_synthetic(description: bytes) -> bool:
    """Return whether the name in a `dataset_description.json` contains "synthetic"."""
    try:
        name = json.loads(description.decode())["Name"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return False
    return "synthetic" in str(name).lower()


def is_synthetic(tags: dict[str, str]) -> bool:
    """Return whether a version with these tags learnt from synthetic scans alone."""
    return TAG.keys() <= tags.keys()
