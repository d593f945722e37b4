"""Put the networks of a cross-validation into one model.

The ensemble predicts the mean of the calibrated probabilities of its networks. It is tested by nobody: each network is
tested on the fold that it held out. So what the ensemble needs beside the weights follows from its networks alone. Its
threshold is the mean of theirs, on the calibrated scale. Each limit of what is usual is the widest of theirs, so a scan
is flagged if it is unusual for every network.
"""

import json
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from components.artifacts.split_file import SUBSETS, Split
from components.artifacts.trained_model import (
    HISTORY,
    TENSORS,
    WEIGHTS,
    HeadLimits,
    TrainedModel,
    UsualHeads,
    VolumeInterval,
    digest_of,
    ensemble_decides,
    read_history,
)
from components.core.errors import StepError
from components.core.storage import file_sha256
from components.model.calibration import calibrated
from components.model.inference import pack_files

HARDWARE = ("device", "precision", "memory_format")
"""Parameters of what a network was trained on. The networks of an ensemble may differ in them."""


def ensemble(split: Path, models: Sequence[Path], model: Path) -> None:
    """Write the ensemble of the networks in the folders `models`, one for each fold, into the folder `model`.

    Raises:
        StepError: an artifact is missing or invalid, or a network was not trained without its fold of this split.
    """
    folds, networks = Split.read(split), [TrainedModel.read(folder) for folder in models]
    folds.require_held_out([network.decides.get("split") for network in networks])
    require_same(networks)
    model.mkdir(parents=True, exist_ok=True)
    for name in (WEIGHTS, TENSORS):
        (model / name).write_bytes(pack_files(name, [(folder / name).read_bytes() for folder in models]))
    history = [{"fold": n, **row} for n, folder in enumerate(models, 1) for row in read_history(folder)]
    (model / HISTORY).write_text(json.dumps(history, indent=1))
    digests = {"weights_sha256": file_sha256(model / WEIGHTS), "tensors_sha256": file_sha256(model / TENSORS)}
    combined = combine(networks, folds).model_copy(update=digests)
    combined.write(model)
    logging.info("ensemble of %d networks, threshold %.3f", len(networks), combined.threshold)


def require_same(networks: Sequence[TrainedModel]) -> None:
    """Raise StepError unless all that determined the networks, but their folds, is the same."""
    wanted = {**networks[0].decides, "split": None}
    for fold, network in enumerate(networks, 1):
        if {**network.decides, "split": None} != wanted:
            raise StepError(
                f"the network of fold {fold} was trained with other data, settings or code than that of fold 1. "
                "Run all steps again."
            )


def combine(networks: Sequence[TrainedModel], split: Split) -> TrainedModel:
    """Return the model of the ensemble, without the digests of its weights."""
    first = networks[0]
    decides = ensemble_decides(first.decides, split.digest, split.folds)
    calibrated_thresholds = [float(calibrated(np.array([one.threshold], np.float32), one)[0]) for one in networks]
    taken_over = [one.training_seconds_taken_over or 0 for one in networks]
    shared: dict[str, Any] = {
        "threshold": float(np.mean(calibrated_thresholds)),
        "temperature": 1.0,  # the networks are calibrated each
        "smallest_lesion_ml": _mean(one.smallest_lesion_ml for one in networks),
        "smallest_lesion_voxels": _rounded(_mean(one.smallest_lesion_voxels for one in networks)),
        "weights_sha256": None,
        "tensors_sha256": None,
        "best_epoch": max(one.best_epoch or 0 for one in networks),
        "best_val_dice": _mean(one.best_val_dice for one in networks),
        "training_digest": digest_of(decides),
        "decides": decides,
        "training_seconds": sum(one.training_seconds or 0 for one in networks),
        "training_seconds_taken_over": sum(taken_over),
        "params": _shared_params(networks) | {"folds": split.folds},
        "lineage": {**first.lineage, "split_digest": split.digest},
        "volume_interval": widest_interval([one.volume_interval for one in networks]),
        "uncertainty": widest_doubt([one.uncertainty for one in networks]),
        "seen": widest_ranges([one.seen for one in networks]),
        "heads": widest_heads([one.heads for one in networks]),
        "networks": list(networks),
    }
    return first.model_copy(update=shared)


def widest_interval(intervals: Sequence[VolumeInterval | None]) -> VolumeInterval | None:
    """Return the widest interval, with the lowest level; None if a network has not learnt one."""
    known = [one for one in intervals if one is not None]
    if len(known) < len(intervals):
        return None
    return VolumeInterval(
        cube_root_ml=max(one.cube_root_ml for one in known),
        level=min(one.level for one in known),
        patients=min(one.patients for one in known),
        wide=max(one.wide for one in known),
    )


def widest_doubt(limits: Sequence[dict[str, float | None] | None]) -> dict[str, float | None] | None:
    """Return the largest usual doubt of each kind; None if one network has learnt none.

    A network that saw no mask of a kind has None for this kind, and the other networks decide. Not `_largest`: here
    None means "unknown", not "no limit".
    """
    known = [one for one in limits if one is not None]
    if len(known) < len(limits):
        return None
    return {kind: max((v for one in known if (v := one[kind]) is not None), default=None) for kind in known[0]}


def widest_ranges(
    ranges: Sequence[dict[str, tuple[float, float]] | None],
) -> dict[str, tuple[float, float]] | None:
    """Return the lowest and the highest value of each measure over all networks; None if one has learnt none."""
    known = [one for one in ranges if one is not None]
    if len(known) < len(ranges):
        return None
    names = dict.fromkeys(name for one in known for name in one)
    found = {name: [one[name] for one in known if name in one] for name in names}
    return {name: (min(low for low, _ in pairs), max(high for _, high in pairs)) for name, pairs in found.items()}


def widest_heads(heads: Sequence[UsualHeads | None]) -> UsualHeads | None:
    """Return the average head of the first network with the widest limits of all; None if one has learnt no heads."""
    known = [one for one in heads if one is not None]
    if len(known) < len(heads):
        return None
    averages = [one.average for one in known if one.average]
    average = None
    if len(averages) == len(known):
        lowest = {name: min(getattr(one, name) for one in averages) for name in ("upright", "order", "like")}
        average = averages[0].model_copy(update=lowest)
    limits = [one.limits for one in known if one.limits]
    widest = None
    if len(limits) == len(known):
        widest = HeadLimits(
            **{name: _largest(getattr(one, name) for one in limits) for name in HeadLimits.model_fields}
        )
    return UsualHeads(not_found=max(one.not_found for one in known), average=average, limits=widest)


def _shared_params(networks: Sequence[TrainedModel]) -> dict[str, Any]:
    """Return the parameters that all networks have, without those of their subsets; of the hardware, all values."""
    first, *others = (one.params for one in networks)
    shared = {
        name: value
        for name, value in first.items()
        if all(other.get(name) == value for other in others) and name.partition("_")[0] not in SUBSETS
    }
    hardware = {name: _joined(one.params.get(name) for one in networks) for name in HARDWARE}
    if any("devices" in one.params for one in networks):  # of several processes
        hardware["devices"] = _joined(one.params.get("devices", one.params.get("device")) for one in networks)
    return shared | {name: values for name, values in hardware.items() if values}


def _joined(values: Iterable[str | None]) -> str:
    """Return the values that differ, in their order."""
    return "; ".join(dict.fromkeys(value for value in values if value is not None))


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _rounded(value: float | None) -> int | None:
    return None if value is None else round(value)


def _largest(values: Iterable[float | None]) -> float | None:
    """Return the largest limit, or None if one of them is None: that network has no limit."""
    listed = list(values)
    return None if None in listed else max(value for value in listed if value is not None)
