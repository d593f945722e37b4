"""From files to the split: a copy of a scan is found under any header; distinct scans are let through."""

import numpy as np
import pytest

from components.artifacts.split_file import Split
from components.core.errors import StepError
from components.ingest.discover import discover
from components.ingest.ingest import check
from components.split.split import split
from pipelines.demo.scans import simulate_scan


@pytest.fixture(scope="module")
def scans() -> list:
    return [simulate_scan(index, 500 + index) for index in range(5)]


@pytest.fixture
def ran(tmp_path, write_case, keys_of):
    """ran({name: (dwi, mask, affine)}) -> the split of these scans."""

    def run(files: dict) -> Split:
        for name, (dwi, mask, affine) in files.items():
            write_case(tmp_path / "set", name, affine=affine, dwi=dwi, mask=mask)
        found = discover(keys_of(tmp_path / "set"))
        check(found, tmp_path / "set", tmp_path / "cases", data_uri="s3://bucket/set").write(tmp_path / "cases")
        split(tmp_path / "cases", tmp_path / "split.json", tmp_path / "split.html", (0.4, 0.3, 0.3), 1)
        return Split.read(tmp_path)

    return run


def originals(scans: list) -> dict:
    return {f"sub-{i}": (s.dwi.astype(np.float32), s.mask.astype(np.uint8), s.affine) for i, s in enumerate(scans)}


def copy_of(dwi: np.ndarray, mask: np.ndarray, affine: np.ndarray) -> tuple:
    """Its axes swapped and one mirrored, in other units, under a header that knows of nothing of it."""
    turned = [np.ascontiguousarray(v.transpose(1, 0, 2)[::-1]) for v in (dwi, mask)]
    return np.round(3.3 * turned[0] + 40).astype(np.int16), turned[1], np.diag([-1.1, 1.3, 4.0, 1.0])


@pytest.mark.slow
def test_distinct_scans_are_let_through(ran, scans):
    assert ran(originals(scans)).alike == []


def test_a_planted_copy_in_another_subset_stops_the_run_and_both_are_named(ran, scans):
    files = originals(scans)
    planted = files | {name.replace("sub", "sub-copy"): copy_of(*file) for name, file in files.items()}
    with pytest.raises(StepError, match=r"these scans look the same.*sub-\d_ses-0001 \(\w+\) and sub-copy-\d_ses-0001"):
        ran(planted)


@pytest.mark.slow
def test_the_copy_under_the_patient_s_own_name_is_a_session_of_it(ran, scans, tmp_path, write_case):
    files = originals(scans)
    for name, file in files.items():
        dwi, mask, affine = copy_of(*file)
        write_case(tmp_path / "set", name, session="ses-0002", affine=affine, dwi=dwi, mask=mask)
    found = ran(files)
    assert found.alike == [] and sum(map(len, found.cases.values())) == 2 * len(files)
