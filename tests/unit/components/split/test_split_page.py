"""The split's page: what a person asks of a split, and nothing that a file name could do to a browser."""

import re

import pytest

from components.split.split_page import write_page
from tests.support.artifacts import make_split

SPLIT = make_split(
    {"train": ["ann", "bo", "<b>cy"], "val": ["di"], "test": ["ed"]},
    cases={"train": ["ann_1", "ann_2", "bo_1", "<b>cy_1"], "val": ["di_1"], "test": ["ed_1"]},
    lesion_free=["bo"],
    linked=[["ann", "bo"]],
)


@pytest.fixture
def page_of(tmp_path):
    def write(synthetic: bool = False, **changes) -> str:
        write_page(SPLIT.model_copy(update=changes), synthetic, tmp_path / "split.html")
        return (tmp_path / "split.html").read_text()

    return write


def rows(page: str) -> list[list[str]]:
    return [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in re.findall(r"<tr>(.*?)</tr>", page, re.DOTALL)][1:]


def test_each_subset_has_its_patients_lesion_free_ones_scans_and_shares(page_of):
    assert rows(page_of()) == [
        ["train", "training", "3", "1", "4", "60.0 %", "60.0 %"],
        ["val", "choice of weights and threshold", "1", "0", "1", "20.0 %", "20.0 %"],
        ["test", "test of every run and promotion", "1", "0", "1", "20.0 %", "20.0 %"],
    ]


def test_the_page_warns_that_every_run_uses_the_test_set(page_of):
    page = page_of()
    assert "Every run measures its model on the same test patients, and every promotion decides by them" in page
    assert "Keep some patients apart whom no run has seen" in page


def test_demo_scans_are_called_synthetic(page_of):
    assert "Synthetic demo scans" in page_of(synthetic=True)
    assert "ynthetic" not in page_of()


def test_names_are_listed_and_escaped(page_of):
    page = page_of()
    assert "ann, bo, &lt;b&gt;cy" in page
    assert "<b>cy" not in page


def test_linked_patients_and_too_few_test_patients_are_noted(page_of):
    assert "<li>ann, bo</li>" in page_of()
    assert "too few to conclude" in page_of()
    many = {"train": ["a"], "val": ["b"], "test": [f"t{i}" for i in range(10)]}
    assert "too few to conclude" not in page_of(patients=many)


def test_many_patients_stay_under_a_megabyte_and_are_counted(page_of):
    many = {"train": [f"patient-{i:060d}" for i in range(20_000)], "val": ["b"], "test": ["c"]}
    page = page_of(patients=many)
    assert len(page.encode()) < 1_000_000
    assert "and 19500 more" in page
