"""What a model is worth: ours, MONAI's AttentionUnet and the user's own recipe after equal seconds on equal patients.

    python -m tests.benchmarks worth [seconds=300] [seeds=3] [patients=48] [real=folder] [presets="best baseline"]
        [set="inputs=dwi+adc"]

All learn from the same synthetic patients at the grid, width and batch size of the demo, for so many seconds with each
seed. They are tested on unseen synthetic patients, a third as many, of another seed and of shifted ranges, and on the
labelled real scans of a folder, beside the rule without a network. The first preset is compared with each other side.
A patient's figure is the mean over the seeds. build/worth.md gets the tables, build/worth.json every patient's figures.
"""

import importlib.util
import json
import logging
import multiprocessing
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from components.core.settings import Settings, checked
from pipelines.image_tags import ROOT
from pipelines.presets import load
from tests.benchmarks.worth_scans import ingested, training_set, unseen_set
from tests.benchmarks.worth_tables import METRICS, differences, figures, speeds, tables
from tests.conftest import REAL_SCANS

GRID = {"image_size", "pixel_mm", "base_channels", "batch_size"}
"""What all take from the demo."""
MONAI, RULE = "MONAI", "rule"
NO_MONAI = "MONAI is not installed, so it is left out: .venv/bin/python -m pip install -r requirements-dev.txt"
BUILD = ROOT / "build"


@dataclass(frozen=True)
class Side:
    """One that trains, in a process of its own that stays: its name, its module in tests/benchmarks, its settings."""

    name: str
    module: str
    settings: Settings
    process: ProcessPoolExecutor

    def call(self, function: str, *arguments: Any) -> Any:
        return self.process.submit(_called, self.module, function, *arguments).result()

    def scores(self, function: str, *arguments: Any) -> list[dict]:
        """Of each scan its patient and what is compared."""
        return [{name: scan[name] for name in ("patient", *METRICS)} for scan in self.call(function, *arguments)]


def measure(
    seconds: float = 300,
    seeds: int = 3,
    patients: int = 48,
    real: str = "",
    presets: str = "best baseline",
    set: str = "",
    build: Path = BUILD,
) -> Iterator[dict]:
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as processes:
        folder = Path(temporary)
        training = training_set(folder / "training", int(patients))
        tests = {"synthetic": unseen_set(folder / "unseen", max(2, int(patients) // 3))}
        if (scans := Path(real or REAL_SCANS / "isles-layout")).is_dir():
            tests["real"] = ingested(scans, folder / "real")
        else:
            yield {"what": "real scans", "skipped": f"there is no folder {scans}: real=FOLDER names another"}
        sides = list(_sides(presets.split(), set, processes))
        if not any(side.name == MONAI for side in sides):
            yield {"what": "MONAI", "skipped": NO_MONAI}

        costs: dict[str, list[dict]] = {side.name: [] for side in sides}
        found = {name: {side.name: [] for side in sides} for name in tests}
        for seed in range(int(seeds)):
            for side in sides:
                model = folder / f"{side.name}-{seed}"
                costs[side.name].append(side.call("train", training, model, side.settings, float(seconds), seed))
                for name, cases in tests.items():
                    found[name][side.name].append(side.scores("measure", model, cases))
                print(f"{side.name}, seed {seed}: {costs[side.name][-1]}", file=sys.stderr, flush=True)
        ours = next(side for side in sides if side.name != MONAI)
        for name, cases in tests.items():
            found[name][RULE] = [ours.scores("rule", cases)]
    rows = [*figures(found), *differences(found, ours.name), *speeds(costs, ours.name, MONAI)]
    yield from rows
    build.mkdir(exist_ok=True)
    (build / "worth.json").write_text(json.dumps({"costs": costs, "patients": found, "rows": rows}, indent=1))
    (build / "worth.md").write_text(tables(rows, costs, float(seconds)))
    yield {"what": "tables", "file": str(build / "worth.md")}


def _sides(presets: list[str], over: str, processes: ExitStack) -> Iterator[Side]:
    """Ours, a preset each, in the order given, and MONAI's, where it is installed, after the first."""
    spawn = multiprocessing.get_context("spawn")
    grid = load("demo").model_dump(include=GRID)
    names = [presets[0], *[MONAI] * (importlib.util.find_spec("monai") is not None), *presets[1:]]
    for name in names:
        preset = load(presets[0] if name == MONAI else name).model_dump()
        settings = checked(preset | grid | dict(pair.split("=") for pair in over.split()))
        process = processes.enter_context(ProcessPoolExecutor(1, spawn, initializer=_quiet))
        yield Side(name, "worth_monai" if name == MONAI else "worth_ours", settings, process)


def _called(module: str, function: str, *arguments: Any) -> Any:
    return getattr(import_module(f"tests.benchmarks.{module}"), function)(*arguments)


def _quiet() -> None:
    logging.disable(logging.WARNING)
