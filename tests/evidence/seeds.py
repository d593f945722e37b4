"""How much the demo's numbers differ from seed to seed: section seeds of `make evidence`."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from components.artifacts.metric_labels import METRIC_LABELS
from components.core.errors import StepError
from tests.evidence.page import table

SEEDS = (42, 43, 44)
"""The demo's own first: in a fresh checkout its model becomes champion."""
FIGURES = {
    "test_dice_mean": METRIC_LABELS["dice"].short,
    "test_lesion_dice_mean": METRIC_LABELS["lesion_dice"].short,
    "test_rule_dice_mean": "rule: Dice",
    "test_lesion_f1_mean": METRIC_LABELS["lesion_f1"].short,
    "test_absolute_volume_difference_ml_mean": METRIC_LABELS["absolute_volume_difference_ml"].with_unit(),
}


def section() -> str:
    """Run the demo with each seed; the patients stay in their subsets."""
    runs = {seed: _run(seed) for seed in SEEDS}
    figures = {seed: [run["metrics"][name] for name in FIGURES] for seed, run in runs.items()}
    body = [[str(seed), *(f"{v:.3f}" for v in figures[seed])] for seed in sorted(runs)]
    values = np.array([*figures.values()])
    for word, of in (("mean", values.mean(0)), ("standard deviation", values.std(0, ddof=1))):
        body.append([word, *(f"{v:.3f}" for v in of)])
    patients = runs[42]["metrics"]["test_patients"]
    return f"""`make pipeline-run` on the synthetic demo scans, with other seeds of weights and sampling, and the
same {patients:.0f} test patients. Digits repeat only on one machine in one precision and memory
format, which `auto` chooses by what is fastest at that moment.

{table(["seed", *FIGURES.values()], body)}"""


def _run(seed: int) -> dict:
    command = [sys.executable, "-m", "pipelines", "run", "--preset", "demo", "--set", f"random_seed={seed}"]
    if subprocess.run(command).returncode:
        raise StepError(f"the demo did not end well with seed {seed}: see above")
    return json.loads(Path(".local/last-run.json").read_text())
