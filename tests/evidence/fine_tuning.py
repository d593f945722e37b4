"""What a parent is worth to a site with 20 scans: section fine-tuning of `make evidence`."""

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

import numpy as np

from components.core.intervals import Interval, bounded_mean_interval, paired_interval
from components.core.settings import Settings
from components.evaluate.metrics import means_by_patient
from components.model.inference import load_model
from components.split.split import split
from components.train import train as step
from components.train.training_inputs import TrainingPaths
from pipelines import presets
from pipelines.demo.protocol import HELD_OUT, TRAINING
from tests.benchmarks.worth_ours import alone, measure
from tests.benchmarks.worth_scans import ingested, slices_for, write_scans
from tests.evidence.page import table

PARENT_PATIENTS, LOCAL_PATIENTS, TEST_PATIENTS = 48, 20, 24
LOCAL_EPOCHS = 10
SEEDS = (42, 43, 44)
RATES = (0.3,)
GRID = "image_size=64 pixel_mm=3 base_channels=8 precision=float32 memory_format=contiguous"
RATIOS = (0.74, 0.25, 0.01)
"""The split wants one patient to test, too, who is left out: the test is on patients of their own."""
NOWHERE = f"models:/parent/1#{'0' * 64}"
Dices = dict[str, float]
"""Patient to Dice; of several trainings their mean."""


def section() -> str:
    """Train one parent on one protocol, then on 20 scans of another: from scratch, and from the parent."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        parent_data = _data_set(folder / "parent", PARENT_PATIENTS, 42, TRAINING)
        local_data = _data_set(folder / "local", LOCAL_PATIENTS, 1001, HELD_OUT)
        tests = {
            "local": ingested(write_scans(folder / "test", TEST_PATIENTS, 2024, HELD_OUT), folder / "test-cases"),
            "parent": ingested(write_scans(folder / "old", TEST_PATIENTS, 3033, TRAINING), folder / "old-cases"),
        }
        _train(parent_data, folder / "model", _settings("demo", SEEDS[0]))
        parent = {site: _dices(folder / "model", cases) for site, cases in tests.items()}
        weights = {name: value.cpu() for name, value in load_model(folder / "model")[0].state_dict().items()}
        ways = {"from scratch": ("demo", "")}
        ways |= {f"from the parent, start_rate {rate:g}": ("demo+fine-tune", f"start_rate={rate}") for rate in RATES}
        found: dict[str, dict[str, list[Dices]]] = {}
        for way, (preset, rate) in ways.items():
            for seed in SEEDS:
                model = folder / "child"
                shutil.rmtree(model, ignore_errors=True)
                with mock.patch.object(step, "starting_weights", lambda *_: weights):
                    _train(local_data, model, _settings(preset, seed, f"epochs={LOCAL_EPOCHS} {rate}"))
                for site, cases in tests.items():
                    found.setdefault(way, {}).setdefault(site, []).append(_dices(model, cases))
                print(way, seed, [f"{np.mean([*of[-1].values()]):.3f}" for of in found[way].values()], flush=True)
    return _text(parent, found)


def _data_set(folder: Path, patients: int, seed: int, protocol) -> Path:
    ingested(write_scans(folder / "scans", patients, seed, protocol), folder / "cases")
    split(folder / "cases", folder / "split.json", folder / "split.html", RATIOS, 0)
    return folder


def _settings(preset: str, seed: int, more: str = "") -> Settings:
    start = f"start={NOWHERE}" if "fine-tune" in preset else ""
    return presets.load(preset, f"{GRID} random_seed={seed} {more} {start}")


def _train(data: Path, model: Path, settings: Settings) -> None:
    slices = slices_for(data, settings)
    with alone():
        step.train(
            TrainingPaths(
                data / "cases", slices, data / "split.json", data / "split.html", model, model.with_suffix(".html")
            ),
            settings,
        )


def _dices(model: Path, cases: Path) -> Dices:
    return means_by_patient((scan["patient"], scan["dice"]) for scan in measure(model, cases))


def _text(parent: dict[str, Dices], found: dict[str, dict[str, list[Dices]]]) -> str:
    scratch = _mean(found["from scratch"]["local"])
    rows = [_row("the parent, unchanged", parent["local"], None, scratch, parent["parent"], parent["parent"])]
    for way, by_site in found.items():
        each = [np.mean([*dices.values()]) for dices in by_site["local"]]
        mean = _mean(by_site["local"])
        compared = None if mean == scratch else scratch
        rows.append(_row(way, mean, each, compared, _mean(by_site["parent"]), parent["parent"]))
    header = [
        "training", f"Dice, {TEST_PATIENTS} local test patients", "each seed", "less from scratch",
        f"Dice, {TEST_PATIENTS} patients of the parent's site", "less the parent",
    ]  # fmt: skip
    return f"""A parent learns from {PARENT_PATIENTS} synthetic patients of one protocol. A local site has
{LOCAL_PATIENTS} labelled scans of another one (shifted ranges of noise, sharpness, contrast, bias, tilt), a quarter of
them to validate. Preset `demo` on a small grid ({GRID}): {_settings("demo", 42).epochs} epochs for the
parent, {LOCAL_EPOCHS} for the local site. `fine-tune` adds its schedule, and `start_rate` is its share of the learning
rate. The Dice of a patient is the mean over the {len(SEEDS)} seeds of the local training; there is one parent.
Intervals are 95 %, over patients, of a difference paired
by patient; where one holds 0, no difference was shown. All scans are synthetic: the numbers say what the code does,
and nothing about patients.

{table(header, rows)}"""


def _mean(trainings: Sequence[Dices]) -> Dices:
    return {patient: float(np.mean([dices[patient] for dices in trainings])) for patient in trainings[0]}


def _row(
    name: str, local: Dices, seeds: Sequence[float] | None, scratch: Dices | None, old: Dices, parent: Dices
) -> list[str]:
    """Return a row; `local` and `old` are of the patients of the two sites, the others what they are compared with."""
    return [
        name,
        f"{np.mean([*local.values()]):.3f}{_words(bounded_mean_interval([*local.values()]))}",
        ", ".join(f"{dice:.3f}" for dice in seeds or ()),
        _difference(local, scratch) if scratch else "",
        f"{np.mean([*old.values()]):.3f}",
        _difference(old, parent) if old != parent else "",
    ]


def _difference(ours: Dices, theirs: Dices) -> str:
    differences = [ours[patient] - theirs[patient] for patient in ours]
    return f"{np.mean(differences):+.3f}{_words(paired_interval(differences))}"


def _words(interval: Interval | None) -> str:
    return f" ({interval[0]:.3f} to {interval[1]:.3f})" if interval else ""
