"""The comparison with MONAI at equal time: its figures by hand, and all of it in small."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from tests.benchmarks.worth import measure
from tests.benchmarks.worth_cost import Cost
from tests.benchmarks.worth_tables import differences, figures, speeds
from tests.relations.phantoms import phantom

TINY = "image_size=64 pixel_mm=3 base_channels=4 precision=float32 memory_format=contiguous"


def scan(patient: str, dice: float, ml: float = 1.0) -> dict:
    return {"patient": patient, "dice": dice, "lesion_f1": dice, "absolute_volume_difference_ml": ml}


def six(*dices: float) -> list[dict]:
    return [scan(f"p{number}", dice) for number, dice in enumerate(dices)]


def named(rows: list[dict], what: str, of: str) -> dict:
    (row,) = [row for row in rows if row["what"] == what and row["of"] == of]
    return row


def test_a_patient_counts_once_with_the_mean_of_their_scans_and_of_the_seeds():
    runs = [[scan("a", 0.2), scan("a", 0.4), scan("b", 0.9)], [scan("a", 0.5), scan("a", 0.5), scan("b", 0.7)]]
    row = named(list(figures({"real": {"best": runs}})), "Dice", "best")
    assert row["mean"] == 0.6 and row["seeds"] == [0.6, 0.6] and row["patients"] == 2
    assert row["interval"] == "none below 5 patients"


def test_differences_are_paired_by_patient_whatever_their_order():
    found = {"real": {"best": [six(0.5, 0.6, 0.7, 0.8, 0.9, 1.0)], "MONAI": [six(0.4, 0.5, 0.6, 0.7, 0.8, 0.9)[::-1]]}}
    row = named(list(differences(found, "best")), "Dice, paired", "best minus MONAI")
    assert row["mean"] == 0.1
    assert row["interval"] == [0.1, 0.1]


def test_speed_is_the_median_over_seeds_of_the_ratio_in_each():
    costs = {
        who: [{"step_pixels_per_s": step, "pixels_per_s": step / 2, "memory_mb": 100.0} for step in steps]
        for who, steps in {"best": (30.0, 20.0, 80.0), "MONAI": (10.0, 20.0, 20.0)}.items()
    }
    alone, loading, memory = speeds(costs, "best", "MONAI")
    assert (alone["ratio"], alone["spread"]) == (3.0, [1.0, 4.0])
    assert loading["ratio"] == 3.0 and memory["ratio"] == 1.0
    assert list(speeds({"best": costs["best"]}, "best", "MONAI")) == []


def test_seconds_of_steps_and_of_loading_are_told_apart(monkeypatch):
    asked, came, learnt = (0.0, 4.0), (1.0, 5.5), (4.0, 7.5)
    times = [time for batch in zip(asked, came, learnt, strict=True) for time in batch]
    clock = SimpleNamespace(perf_counter=iter([*times, 7.5, 7.5]).__next__)
    monkeypatch.setattr("tests.benchmarks.worth_cost.time", clock)
    cost = Cost()
    batches = [np.zeros((2, 5)), np.zeros((4, 5))]
    assert [len(batch) for batch in cost.batches(batches, np.shape)] == [2, 4]
    assert (cost.loading_seconds, cost.step_seconds) == (1.0 + 1.5, 3.0 + 2.0)
    assert (cost.images, cost.pixels) == (6, 30)


@pytest.mark.slow
@pytest.mark.parametrize("inputs", ["dwi", "dwi+adc"])
def test_all_of_it_in_small(inputs, tmp_path, write_case):
    """Every side has its figures on both sets, and its cost."""
    pytest.importorskip("monai", reason="needs MONAI: .venv/bin/python -m pip install -r requirements-dev.txt")
    for seed in range(2):
        real, lesion, _ = phantom(seed)
        adc = np.where(real.voxels > 0, 0.8 - 0.4 * lesion, 0).astype(np.float32)
        images = {"dwi": real.voxels, "adc": adc, "mask": lesion.astype(np.uint8)}
        write_case(tmp_path / "real", f"sub-{seed}", affine=real.affine, **images)
    settings = f"{TINY} inputs={inputs}"
    rows = list(measure(1, 1, 6, str(tmp_path / "real"), "best baseline", settings, tmp_path / "build"))
    for name, patients in (("synthetic", 2), ("real", 2)):
        of = {row["of"]: row for row in rows if row.get("on") == name and row["what"] == "Dice"}
        assert set(of) == {"best", "MONAI", "baseline", "rule"}
        assert all(0 <= row["mean"] <= 1 and row["patients"] == patients for row in of.values())
    assert [row["ratio"] > 0 for row in rows if "ratio" in row] == [True] * 3
    page, kept = ((tmp_path / "build" / name).read_text() for name in ("worth.md", "worth.json"))
    assert page.count("paired differences") == 2 and "best minus MONAI" in page
    assert {run["epochs"] for runs in json.loads(kept)["costs"].values() for run in runs} >= {1}
