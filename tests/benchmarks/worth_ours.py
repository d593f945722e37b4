"""This project's side of a comparison: the step `train` as the pipeline calls it, without MLflow and object storage."""

import contextlib
import json
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from unittest import mock

from components.core.settings import Settings, checked
from components.evaluate.evaluate import measure_scans
from components.evaluate.threshold_rule_score import measure_rule
from components.model.inference import load_model
from components.train import data_workers
from components.train import train as step
from components.train.training_inputs import TrainingPaths
from tests.benchmarks.worth_cost import Cost
from tests.benchmarks.worth_scans import labelled, slices_for

TRIAL_EPOCHS = 2


def train(data: Path, model: Path, settings: Settings, seconds: float, seed: int) -> dict:
    """Train for so many seconds, the choice of the threshold among them, into `model`.

    The rate falls over as many epochs as fit. Returns `seconds`, without preprocessing, `prepared_seconds` of that,
    `epochs` and what `Cost` measures.
    """
    start = time.perf_counter()
    slices_for(data, settings)
    prepared = time.perf_counter() - start
    epochs = _epochs_within(seconds, data, model.with_name("trial"), settings)
    return _trained(data, model, settings, epochs, seed) | {"prepared_seconds": prepared}


def measure(model: Path, cases: Path) -> list[dict]:
    """Return the metrics of each labelled scan, in its own space."""
    network, trained = load_model(model)
    return [scan.result.model_dump() for scan in measure_scans(network, trained, cases, labelled(cases))]


def rule(cases: Path) -> list[dict]:
    """Return the metrics of the rule without a network on each labelled scan."""
    records = labelled(cases)
    return [
        {
            "patient": record.patient,
            "dice": found["rule_dice"],
            "lesion_f1": found["rule_lesion_f1"],
            "absolute_volume_difference_ml": abs(found["rule_ml"] - record.lesion_ml),
        }
        for record, found in zip(records, measure_rule(cases, records), strict=True)
    ]


@cache
def _epochs_within(seconds: float, data: Path, trial: Path, settings: Settings) -> int:
    """How many epochs fit beside what follows the last one; measured on a short training that is then left."""
    took = _trained(data, trial, settings, TRIAL_EPOCHS, 0)
    *_, epoch = took["epoch_seconds"]
    after = took["seconds"] - sum(took["epoch_seconds"])
    return max(1, int((seconds - after) / epoch))


def _trained(data: Path, model: Path, settings: Settings, epochs: int, seed: int) -> dict:
    page, sized = data / "split.html", checked(settings.model_dump() | {"epochs": epochs, "random_seed": seed})
    with alone(), Cost() as cost:
        read = data_workers.read
        with mock.patch.object(data_workers, "read", lambda loader: cost.batches(read(loader), _size)):
            start = time.perf_counter()
            paths = TrainingPaths(
                data / "cases", slices_for(data, settings), data / "split.json", page, model, model.with_suffix(".html")
            )
            step.train(paths, sized)
            seconds = time.perf_counter() - start
    history = json.loads((model / "history.json").read_text())
    epoch_seconds = [row["seconds"] for row in history]
    return {"seconds": seconds, "epochs": len(history), "epoch_seconds": epoch_seconds, **cost.as_dict()}


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Without services: nothing is tracked and no checkpoint is found or kept."""
    checkpoints = mock.MagicMock()
    checkpoints.return_value.load.return_value = None
    tracked = {name: mock.MagicMock() for name in ("Run", "record_inputs", "record_training")}
    with mock.patch.multiple(step, Checkpoints=checkpoints, **tracked):
        yield


def _size(batch: tuple) -> tuple[int, int]:
    return len(batch[0]), batch[1][0].numel()
