"""Many cases at once: the bad ones are refused by name, the others are kept."""

import logging
import re

import nibabel as nib
import numpy as np
import pytest

from components.artifacts.cases import Cases
from components.core.errors import StepError
from components.ingest import ingest
from components.ingest.discover import discover
from components.ingest.ingest import check, log_summary, require_enough
from components.ingest.report import lesion_text, write_report
from tests.support.artifacts import make_case, make_cases
from tests.support.viewer import viewed, without_viewer


@pytest.fixture
def data_set(tmp_path, make_scan, write_case):
    """Two good patients, one lesion-free, one unlabelled, one with a mask of three labels."""
    folder = tmp_path / "set"
    for seed, name in enumerate(("sub-a", "sub-b", "sub-free", "sub-unlabelled", "sub-bad")):
        dwi, adc, mask = make_scan(seed)
        masks = {"sub-free": {"mask": mask * 0}, "sub-unlabelled": {}, "sub-bad": {"mask": mask * 2}}
        write_case(folder, name, dwi=dwi, adc=adc, **masks.get(name, {"mask": mask}))
    return folder


@pytest.fixture
def checked(tmp_path, keys_of):
    def run(folder, target="cases") -> Cases:
        found = discover(keys_of(folder))
        return check(found, folder, tmp_path / target, data_uri="s3://bucket/set", data_version="0123456789abcdef")

    return run


def test_the_bad_are_refused_by_name_and_the_others_are_kept(data_set, checked):
    found = checked(data_set)
    assert [c.patient for c in found.cases] == ["sub-a", "sub-b", "sub-free", "sub-unlabelled"]
    assert [c.labelled for c in found.cases] == [True, True, True, False]
    assert found.refused == {"sub-bad_ses-0001": "the mask is not binary: it holds 0, 2; expected 0 and 1"}
    assert found.layout == "BIDS" and found.ignored == [] and found.synthetic is False


def test_nothing_of_a_refused_case_is_kept(tmp_path, data_set, checked):
    kept = {name for c in checked(data_set).cases for name in c.files.values()}
    assert {p.name for p in (tmp_path / "cases").iterdir()} == kept


def test_the_result_does_not_depend_on_how_many_work_at_it(tmp_path, data_set, checked, monkeypatch):
    many = checked(data_set, "many")
    monkeypatch.setattr(ingest, "cpus", lambda: 1)
    assert checked(data_set, "one") == many
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "many" / path.name).read_bytes()


def test_the_cases_are_read_as_they_were_written(tmp_path, data_set, checked):
    found = checked(data_set)
    found.write(tmp_path / "cases")
    assert Cases.read(tmp_path / "cases") == found


def test_a_set_is_synthetic_by_its_description(data_set, checked):
    (data_set / "dataset_description.json").write_text('{"Name": "SYNTHETIC demo"}')
    assert checked(data_set).synthetic is True


def test_the_log_has_refusals_unlabelled_scans_and_counts(data_set, checked, caplog):
    caplog.set_level(logging.INFO)
    log_summary(checked(data_set))
    assert "refused    sub-bad_ses-0001: the mask is not binary" in caplog.text
    assert "unlabelled sub-unlabelled_ses-0001: no mask" in caplog.text
    assert "3 labelled scans of 3 patients (1 lesion-free), 1 unlabelled, 1 refused" in caplog.text


def test_three_patients_with_a_lesion_are_enough():
    require_enough(make_cases([make_case(p, lesion_voxels=n) for p, n in (("a", 5), ("b", 1), ("c", 9))]))


@pytest.mark.parametrize("third", [("b", 9), ("c", 0), ("c", None)], ids=["same patient", "lesion-free", "unlabelled"])
def test_fewer_are_an_error_with_advice(third):
    cases = [make_case(p, lesion_voxels=n) for p, n in (("a", 5), ("b", 1), third)]
    with pytest.raises(
        StepError, match=r"3 labelled patients.*2 found in s3://b; 1 cases were refused.*make check-data"
    ):
        require_enough(make_cases(cases, refused={"x": "reason"}, data_uri="s3://b"))


@pytest.mark.parametrize(
    ("labelled", "voxels", "ml", "text"),
    [(False, None, None, "unlabelled"), (True, 0, 0.0, "lesion-free"), (True, 7, None, "7 voxels"),
     (True, 7, 0.2163, "0.216 mL")],
)  # fmt: skip
def test_a_lesion_is_described(labelled, voxels, ml, text):
    assert lesion_text(make_case("a", labelled=labelled, lesion_voxels=voxels, lesion_ml=ml)) == text


def test_the_report_shows_every_case_and_every_refusal_and_needs_nothing_from_elsewhere(tmp_path, data_set, checked):
    write_report(checked(data_set), tmp_path / "cases", tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    for words in ("sub-a_ses-0001", "lesion-free", "it holds 0, 2; expected 0 and 1", "version 0123456789ab", "RAS"):
        assert words in page
    pictures = re.findall(r'<img src="([^"]*)"', page)
    assert len(pictures) == 4 and all(p.startswith("data:image/jpeg;base64,") for p in pictures)
    assert not re.search(r"https?://|<script src|<link", page)
    assert len(without_viewer(page)) < 1e6
    kinds = {name: [layer["kind"] for layer in case["layers"]] for name, case in viewed(page).items()}
    assert len(kinds) == 4 and kinds["sub-a_ses-0001"] == ["scan", "mask"]
    assert [name for name, found in kinds.items() if found == ["scan"]]  # the scans without a lesion


def test_names_that_came_with_the_data_do_nothing_in_the_report(tmp_path, make_scan, write_npy, checked):
    dwi, _, mask = make_scan()
    write_npy(tmp_path / "set", "<img src=x onerror=alert(1)>", dwi, mask)
    write_npy(tmp_path / "set", "<b>bad", dwi, mask * 3)
    write_report(checked(tmp_path / "set"), tmp_path / "cases", tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "&lt;img src=x onerror" in page and "&lt;b&gt;bad" in page
    assert "<img src=x" not in page and "<b>bad" not in page


# Real scans

UNITS = {
    "sub-strokecase0009": ("1e-3 mm2/s", "LAS"),
    "sub-strokecase0121": ("1e-3 mm2/s", "LAS"),
    "sub-ads01": (None, "RAS"),
    "sub-ads02": ("mm2/s", "RAS"),
    "sub-kinghaw": ("1e-6 mm2/s", "LAS"),
}


def test_real_scans_in_the_isles_layout_are_what_their_table_says(tmp_path, real_scans, checked):
    folder = real_scans / "isles-layout"
    found = checked(folder)
    cases = {c.patient: c for c in found.cases}
    assert found.refused == {}
    assert {p: (c.adc_unit_found, c.orientation_found) for p, c in cases.items()} == UNITS
    assert {p for p, c in cases.items() if not c.labelled} == {"sub-kinghaw"}
    assert cases["sub-strokecase0009"].lesion_voxels == 523
    assert cases["sub-ads01"].lesion_ml == pytest.approx(165, abs=1)
    assert cases["sub-ads02"].lesion_ml == pytest.approx(0.22, abs=0.01)

    for case in found.cases:
        (source,) = folder.glob(f"{case.patient}/*/dwi/*_dwi.nii.gz")
        canonical = nib.as_closest_canonical(nib.load(source))
        kept = nib.load(tmp_path / "cases" / case.files["dwi"])
        assert np.array_equal(kept.get_fdata(), canonical.get_fdata().astype(np.float32))
        np.testing.assert_allclose(kept.affine, canonical.affine, atol=1e-4)
        if "adc" in case.files:
            adc = nib.load(tmp_path / "cases" / case.files["adc"]).get_fdata()
            assert 0.4 < np.median(adc[(kept.get_fdata() > kept.get_fdata().mean()) & (adc > 0)]) < 1.5


def test_real_scans_in_the_npy_layout_are_accepted(real_scans, checked):
    found = checked(real_scans / "npy-layout")
    cases = {c.case: c for c in found.cases}
    assert found.refused == {} and all(c.labelled for c in cases.values())
    assert set(cases) == {"Patient_001", "Patient_002", "Patient_009", "Patient_121"}
    assert cases["Patient_001"].slice_numbers == list(range(10, 20))
    assert cases["Patient_009"].lesion_voxels == 523
