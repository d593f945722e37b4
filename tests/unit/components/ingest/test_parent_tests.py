"""The parent's test scans are read again where they are unchanged, and what is missing stops nothing."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from components.artifacts.cases import PARENT_TESTS, Cases
from components.artifacts.evaluation import ScanDigests
from components.core.errors import StepError
from components.ingest import parent_tests
from components.ingest.discover import discover
from components.ingest.ingest import check
from components.ingest.parent_tests import ingest_parent_tests
from components.registry.parent import Ancestor
from components.registry.scan_digests import scan_digests
from tests.support.artifacts import make_case, make_cases, make_split

NAMES = [f"sub-{number}_ses-0001" for number in range(4)]
PATIENTS = {"train": ["sub-0"], "val": ["sub-1"], "test": ["sub-2", "sub-3"]}


@pytest.fixture
def scans(tmp_path, make_scan, write_case) -> Path:
    """The parent's data set, as it is in the bucket."""
    for number in range(4):
        dwi, adc, mask = make_scan(number)
        write_case(tmp_path / "scans", f"sub-{number}", dwi=dwi, adc=adc, mask=mask)
    return tmp_path / "scans"


@pytest.fixture
def bucket(scans, monkeypatch, tmp_path):
    """A storage whose objects are the files of `scans`."""

    def keys() -> list[str]:
        return [path.relative_to(scans).as_posix() for path in sorted(scans.rglob("*")) if path.is_file()]

    def download(objects, folder: Path) -> None:
        for found in objects:
            (folder / found.key).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(scans / found.key, folder / found.key)

    listed = SimpleNamespace(list=lambda: [SimpleNamespace(key=key) for key in keys()], download=download)
    monkeypatch.setenv("SCRATCH_DIR", str(tmp_path / "scratch"))
    monkeypatch.setattr(parent_tests, "Storage", lambda uri: listed)
    return listed


@pytest.fixture
def registered(scans, bucket, tmp_path, monkeypatch) -> ScanDigests:
    """The list of scans of the parent's version."""
    keys = [found.key for found in bucket.list()]
    ingested = check(discover(keys), scans, tmp_path / "then", data_uri="s3://theirs/scans", data_version="1" * 64)
    split = make_split(PATIENTS, cases={s: [f"{p}_ses-0001" for p in own] for s, own in PATIENTS.items()})
    digests = scan_digests(ingested, split)
    monkeypatch.setattr(parent_tests, "ancestors", lambda _: [Ancestor("models:/m/1", digests)])
    return digests


def read_again(tmp_path: Path, patient: str = "sub-local") -> Cases:
    (tmp_path / "cases").mkdir(exist_ok=True)
    make_cases([make_case(patient)]).write(tmp_path / "cases")
    ingest_parent_tests(f"models:/m/1#{'a' * 64}", tmp_path / "cases")
    return Cases.read(tmp_path / "cases" / PARENT_TESTS)


def test_the_test_scans_alone_are_read_as_they_were(registered, tmp_path):
    found = read_again(tmp_path)
    was = {case.case: case.voxel_sha256 for case in registered.cases}
    assert {case.case: case.voxel_sha256 for case in found.cases} == {name: was[name] for name in NAMES[2:]}
    for case in found.cases:
        assert all((tmp_path / "cases" / PARENT_TESTS / file).is_file() for file in case.files.values())
    assert (found.notes, found.data_uri) == ([], "s3://theirs/scans")
    assert not list((tmp_path / "scratch" / "dwi-stroke").iterdir())


def test_names_of_the_parents_patients_do_not_enter_a_run_with_pseudonyms(registered, tmp_path):
    found = read_again(tmp_path, patient="sub-p0123456789abcdef")
    assert found.notes == ["models:/m/1 was tested on patients under their own names, and this run has pseudonyms"]
    assert not list((tmp_path / "cases" / PARENT_TESTS).glob("*.nii.gz"))


def test_a_scan_that_changed_is_left_out_with_a_note(registered, scans, tmp_path):
    next(scans.rglob("sub-2_*_dwi.nii.gz")).write_bytes(b"other")
    found = read_again(tmp_path)
    assert [case.case for case in found.cases] == NAMES[3:]
    assert found.notes == [f"test scans of the parent that were changed or removed: {NAMES[2]}"]


def test_scans_that_are_gone_are_the_reason(registered, scans, tmp_path):
    shutil.rmtree(scans)
    found = read_again(tmp_path)
    assert found.cases == []
    assert found.notes == ["none of the 2 test scans of the parent is unchanged under s3://theirs/scans"]


def test_a_storage_that_cannot_be_reached_stops_nothing(registered, monkeypatch, tmp_path):
    def refused(uri):
        raise StepError("access denied")

    monkeypatch.setattr(parent_tests, "Storage", refused)
    assert read_again(tmp_path).notes == ["access denied"]


def test_a_parent_whose_scans_are_unknown_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(parent_tests, "ancestors", lambda _: [Ancestor("s3://models/theirs", None)])
    assert read_again(tmp_path).notes == ["the test scans of s3://models/theirs are unknown"]
