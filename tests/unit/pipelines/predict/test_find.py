"""Which files of a folder are scans to segment, which belong to one, and which are neither."""

import pytest

from components.core.step import StepError
from pipelines.predict.find import find


@pytest.fixture
def found(tmp_path):
    """found("a.nii", ...) -> what is found in a folder of such (empty) files."""

    def make(*names: str):
        for name in names:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        return find(tmp_path)

    return make


def names(found) -> list[str]:
    return [case.name for case in found.cases]


def test_a_folder_of_files_is_a_case_a_file(found):
    assert names(found("b.nii", "a.NII.GZ", "deep/c.nii.gz")) == ["a", "b", "deep/c"]


@pytest.mark.parametrize("scan", ["x_dwi.nii.gz", "x-DWI.nii", "x.nii"])
def test_adc_and_b0_belong_to_the_scan_of_their_name(found, scan):
    (case,) = found(scan, "x_adc.nii.gz", "x_b0.nii", "other_b0.nii").cases
    assert (case.image, case.adc, case.b0) == ([scan], "x_adc.nii.gz", "x_b0.nii")


@pytest.mark.parametrize("scan", ["x_dwi.nii.gz", "x.nii"])
def test_the_b_value_belongs_to_the_scan_of_its_name_where_there_is_only_a_b0(found, scan):
    stem = scan.partition(".")[0]
    beside = [f"{stem}.bval", f"{stem}.json"]
    one = found(scan, "x_b0.nii", "x_b0.json", *beside)
    assert one.cases[0].b_values == beside and one.ignored == ["x_b0.json"]
    assert found("x_adc.nii").cases[0].b_values == []


def test_an_adc_map_without_its_scan_is_refused_as_ingest_does(found):
    assert found("a.nii", "b_adc.nii").refused == {"b_adc.nii": "ADC map without a DWI scan"}


def test_masks_are_no_scans_and_do_not_stand_in_the_way(found):
    flat = found("images/a.nii.gz", "masks/a.nii.gz", "masks/alone.nii.gz", "masks/a.npy")
    assert (names(flat), flat.refused) == (["a"], {})


def test_masks_beside_their_scans_are_left_alone_and_listed(found):
    loose = found("a.nii.gz", "a_msk.nii.gz", "a_probability.nii.gz", "readme.txt")
    assert names(loose) == ["a"]
    assert loose.ignored == ["a_msk.nii.gz", "a_probability.nii.gz", "readme.txt"]


def test_bids_gives_sessions_with_their_adc(found):
    stem = "sub-1/ses-2/dwi/sub-1_ses-2"
    (case,) = found(f"{stem}_dwi.nii.gz", f"{stem}_adc.nii.gz", "derivatives/sub-1/ses-2/sub-1_ses-2_msk.nii.gz").cases
    assert (case.name, case.adc) == ("sub-1_ses-2", f"{stem}_adc.nii.gz")


def test_names_that_would_meet_in_the_results_are_refused_both(found):
    both = found("a.nii", "a.nii.gz", "B.nii", "b.nii", "c.nii")
    assert names(both) == ["c"] and both.refused.keys() == {"a.nii", "a.nii.gz", "B.nii", "b.nii"}


@pytest.mark.parametrize("array", ["x.npy", "images/x.npy", "images/x_Slice_001.npy"])
def test_an_array_has_no_space_for_a_mask_to_lie_in(found, array):
    (why,) = found(array).refused.values()
    assert "only NIfTI has" in why


@pytest.mark.parametrize("files", [(), ("a.dcm", "b.txt")])
def test_no_scans_are_an_error_that_says_what_is_expected(found, files):
    with pytest.raises(StepError, match=r"no scans among \d files .*images/NAME"):
        found(*files)


def test_two_layouts_at_once_are_an_error(found):
    with pytest.raises(StepError, match="two layouts at once"):
        found("images/a.nii.gz", "sub-1/dwi/sub-1_dwi.nii.gz")
