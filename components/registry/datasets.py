"""The scans of each subset as MLflow's datasets: the inputs of a run, with their subset as the context."""

import hashlib
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from components.artifacts.cases import Cases
from components.artifacts.split_file import SUBSETS, Split

if TYPE_CHECKING:
    from mlflow.entities import Dataset, DatasetInput

CONTEXTS = {"train": "training", "val": "validation", "test": "test"}
"""Subset to the context that MLflow shows."""
DIGEST_LENGTH = 16


def subsets_dataset(cases: Cases, split: Split, subsets: Sequence[str]) -> "Dataset":
    """Return the scans of subsets as one dataset: address, digest, and counts as its profile.

    The digest is that of the version of the data and of the names of the scans. So two runs with the same digest
    learnt from, or were tested on, the same scans.
    """
    from mlflow.entities import Dataset

    names = sorted(name for subset in subsets for name in split.cases[subset])
    content = json.dumps([cases.data_version, names]).encode()
    profile = {
        "scans": len(names), "patients": sum(len(split.patients[subset]) for subset in subsets),
        "data_version": cases.data_version, "synthetic": cases.synthetic,
    }  # fmt: skip
    return Dataset(
        name=cases.data_uri.rstrip("/").rpartition("/")[2] or "scans",
        digest=hashlib.sha256(content).hexdigest()[:DIGEST_LENGTH],
        source_type="s3",
        source=json.dumps({"uri": cases.data_uri}),
        profile=json.dumps(profile),
    )


def dataset_inputs(cases: Cases, split: Split) -> "list[DatasetInput]":
    """Return the datasets of the subsets that have scans, each with its context.

    The scans of all folds of a cross-validation are one test dataset: each network was tested on its own.
    """
    from mlflow.entities import DatasetInput, InputTag

    parts = {CONTEXTS[subset]: [subset] for subset in SUBSETS} if split.folds == 1 else {"test": list(split.cases)}
    return [
        DatasetInput(subsets_dataset(cases, split, subsets), [InputTag("mlflow.data.context", context)])
        for context, subsets in parts.items()
        if any(split.cases[subset] for subset in subsets)
    ]
