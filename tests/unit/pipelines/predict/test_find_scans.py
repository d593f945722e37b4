"""Which files of a folder are scans to segment, which belong to one, and which are neither."""

import numpy as np
import pytest

from components.core.errors import StepError
from components.scans.prediction_mark import PROBABILITY, mark_of_mask
from components.scans.volumes import nifti_bytes
from pipelines.predict.find_scans import find


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


@pytest.mark.parametrize(
    ("scan", "adc", "b0"),
    [
        ("p1/dwi.nii.gz", "p1/adc.nii.gz", "p1/b0.nii.gz"),
        ("DWI.nii", "ADC.NII.GZ", "B0.nii"),
        ("p1/scan.nii.gz", "p1/adc.nii.gz", "p1/b0.nii.gz"),
        ("dwi/p1.nii.gz", "adc/p1.nii.gz", "b0/p1.nii.gz"),
        ("p1/dwi/s.nii.gz", "p1/ADC/s.nii.gz", "p1/b0/s.nii.gz"),
    ],
)
def test_companions_are_known_by_a_bare_name_and_by_their_folder(found, scan, adc, b0):
    one = found(scan, adc, b0)
    (case,) = one.cases
    assert (case.image, case.adc, case.b0, one.refused) == ([scan], adc, b0, {})


OTHERS = ["flair", "T1", "t1w", "t2", "swi", "mask", "lesion"]


@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize(("scan", "other"), [("p1/dwi", "p1/{}"), ("p1_dwi", "p1_{}"), ("p1", "p1-{}")])
def test_what_is_another_modality_by_its_name_is_left_alone_beside_the_scan(found, kind, scan, other):
    one = found(f"{scan}.nii.gz", f"{other.format(kind)}.nii.gz")
    assert (names(one), one.refused, one.ignored) == ([scan], {}, [f"{other.format(kind)}.nii.gz"])


@pytest.mark.parametrize("file", ["b_flair.nii", "b_t2.nii", "b_b0.nii", "t1w/b.nii", "p/FLAIR.nii"])
def test_another_modality_without_its_scan_is_refused_for_its_name(found, file):
    one = found("a.nii", "c.nii", file)
    assert (
        names(one) == ["a", "c"]
        and "its name says that it is a" in one.refused[file]
        and "rename it" in one.refused[file]
    )


@pytest.mark.parametrize("file", ["P_adc", "P_FLAIR", "P_0001"])
def test_the_layout_of_images_makes_no_dwi_of_another_modality(found, file):
    one = found("images/P_0000.nii.gz", f"images/{file}.nii.gz")
    assert names(one) == ["P_0000"] and "so it is not segmented: rename it" in one.refused[file]


def test_further_channels_of_nnu_net_are_refused(found):
    one = found("a_0000.nii.gz", "a_0001.nii.gz", "b_0000.nii.gz", "b_0001.nii.gz", "b_0002.nii.gz")
    assert names(one) == ["a_0000", "b_0000"] and len(one.refused) == 3
    assert one.refused["b_0002.nii.gz"].startswith("its name says that it is a further channel of b_0000")


@pytest.mark.parametrize("numbers", [range(1, 4), range(20)])
def test_patients_by_number_are_no_channels(found, numbers):
    one = found(*(f"patient_{n:04}.nii.gz" for n in numbers))
    assert len(one.cases) == len(numbers) and one.refused == {}


def test_two_maps_for_one_scan_are_not_chosen_from(found):
    one = found("x.nii.gz", "x_adc.nii.gz", "x-adc.nii")
    assert one.cases[0].adc == "x-adc.nii" and "has an ADC map already: x-adc.nii" in one.refused["x_adc.nii.gz"]


def test_a_word_within_a_name_says_nothing(found):
    files = ["MD_003.nii", "adcock.nii", "p-t1-dwi.nii", "swiss_001.nii"]
    assert names(found(*files)) == [file.removesuffix(".nii") for file in sorted(files, key=str.casefold)]


@pytest.mark.parametrize("table", ["predictions.csv", "predictions.csv.part"])
@pytest.mark.parametrize("scan", ["a.nii.gz", "images/a.nii.gz", "sub-1/dwi/sub-1_dwi.nii.gz"])
def test_results_in_the_folder_are_no_scans(found, table, scan):
    results = ["masks/a.nii.gz", "masks/deep/a.nii.gz", "probabilities/a.nii.gz", "masks/images/a.nii.gz"]
    one = found(scan, f"results/{table}", *(f"results/{name}" for name in results))
    assert [case.image for case in one.cases] == [[scan]] and one.refused == {}


def test_predictions_are_no_scans_wherever_they_lie_and_however_they_are_called(tmp_path, found):
    mask = np.zeros((16, 16, 3), np.uint8)
    for name, mark in (("lesion42.nii.gz", mark_of_mask(mask)), ("images/p.nii.gz", PROBABILITY)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(nifti_bytes(mask, np.eye(4), mark))
    one = found("a.nii.gz")
    assert names(one) == ["a"] and {"lesion42.nii.gz", "images/p.nii.gz"} <= set(one.ignored)


def test_copies_in_sourcedata_are_no_scans(found):
    one = found("a.nii.gz", "sourcedata/a.nii.gz")
    assert (names(one), one.ignored) == (["a"], ["sourcedata/a.nii.gz"])


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
