"""The table fits a terminal, the page holds everything and is safe to open."""

import re

import pytest

from pipelines.experiments.compare import LeftOut, compare
from pipelines.experiments.comparison_page import page
from pipelines.experiments.comparison_table import WIDTH, table

LONG = "failed: " + "a reason that goes on and on " * 12


@pytest.fixture
def comparison(result):
    names = ("baseline", "n4", "deep-supervision")
    runs = [result(n, s, {f"p{i}": 0.5 + i / 20 for i in range(7)}) for s in (1, 2) for n in names]
    return compare(runs, 10)[0]


def test_the_table_fits_and_is_aligned(comparison):
    text = table(comparison, [LeftOut("adc", 1, LONG)])
    assert max(map(len, text.splitlines())) <= WIDTH
    rows = [line for line in text.splitlines() if "no evidence of a difference" in line]
    assert len(rows) == 6 and len({row.index("no evidence") for row in rows}) == 1
    assert "LEFT OUT adc, seed 1: failed: a reason" in text


def test_the_table_has_every_preset_its_spread_and_its_cost(comparison):
    text = table(comparison, [])
    assert re.search(r"baseline +0\.650 +0\.650 to 0\.650\n", text)
    assert re.search(r"n4 +0\.650 +0\.650 to 0\.650 +\+0\.000 \(\+0\.000 to \+0\.000\) +no evidence", text)
    assert re.search(r"deep-supervision +10 +30\n", text)
    assert text.startswith("SYNTHETIC scans")


def test_one_seed_is_called_one_seed_and_an_unknown_cost_unknown(result):
    text = table(compare([result(dice={"p1": 0.5}, training_seconds=None, run_seconds=None)], 10)[0], [])
    assert re.search(r"baseline +0\.500 +one seed\n", text) and re.search(r"baseline +unknown +unknown\n", text)


def test_without_voxel_sizes_the_volume_difference_is_said_to_be_unknown(result):
    scans = [{"case": "p1", "patient": "p1", "dice": 0.5, "lesion_f1": 0.5, "absolute_volume_difference_ml": None}]
    comparison = compare([result(cases=scans)], 10)[0]
    assert "volume difference in mL (less is better): unknown, the scans have no voxel size" in table(comparison, [])
    assert "volume difference" not in page(comparison, [], "demo")


def test_the_page_holds_the_numbers_the_notes_and_three_pictures_and_loads_nothing(comparison):
    html = page(comparison, [], "demo")
    assert html.count("data:image/png;base64,") == 3
    assert "no evidence of a difference" in html and "7 test patients" in html and "n4-2" in html
    assert "Synthetic demo scans" in html and "The preset demo is <b>baseline</b> here" in html
    assert not re.search(r'(src|href)="(?!data:)', html)


def test_the_page_escapes_what_it_was_told(comparison):
    assert "<script>" not in page(comparison, [LeftOut("adc", 1, "<script>alert(1)</script>")], "demo")


def test_baseline_alone_makes_a_page_without_differences(result):
    html = page(compare([result(dice={"p1": 0.5})], 10)[0], [], "baseline")
    assert html.count("data:image/png;base64,") == 2 and "Differences from baseline" not in html
