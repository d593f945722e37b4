"""Labels and predictions: a mask that a model predicted is a label only after a person changed it."""

import gzip
import shutil

import nibabel as nib
import numpy as np
import pytest

from components.ingest.discover import discover
from components.ingest.ingest import check
from components.ingest.label_masks import Predictions
from components.scans.prediction_mark import PROBABILITY, digest, mark_of_mask
from components.scans.volumes import nifti_bytes

AFFINE = np.diag([2.0, 2.0, 5.0, 1.0])
NOT_TAKEN, TAKEN = "is a model's prediction: not used as a label", "changed since: used as a label"


@pytest.fixture
def folder(tmp_path, make_scan):
    """A folder with the scan images/P, which has no mask."""
    put(tmp_path / "set" / "images" / "P.nii.gz", make_scan()[0])
    return tmp_path / "set"


@pytest.fixture
def lesion(make_scan):
    return make_scan()[2]


@pytest.fixture
def case(tmp_path, folder, keys_of):
    """case() -> what ingest keeps of P."""

    def run(scans=folder):
        found = check(discover(keys_of(scans)), scans, tmp_path / "cases")
        assert found.refused == {}
        return found.cases[0]

    return run


@pytest.fixture
def refusal(tmp_path, folder, keys_of):
    def run():
        found = check(discover(keys_of(folder)), folder, tmp_path / "cases")
        assert found.cases == []
        return found.refused["P"]

    return run


def put(path, data, mark=""):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(nifti_bytes(data, AFFINE, mark))
    return path


def predicted(path, mask):
    return put(path, mask, mark_of_mask(mask))


def table(folder, *rows, columns="case,file,mask,voxels"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "predictions.csv").write_text("\n".join([columns, *rows]) + "\n", encoding="utf-8-sig")


def without_header(path):
    """Save a mask as a program does that keeps nothing of a header."""
    image = nib.load(path)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), image.affine), path)


def corrected(mask):
    changed = mask.copy()
    changed[tuple(np.argwhere(mask)[0])] = 0
    return changed


def is_not_taken(case, where):
    return not case.labelled and case.repairs == [f"{where} {NOT_TAKEN}"]


def is_taken(case, where):
    return case.labelled and case.repairs == [f"{where} was predicted by a model and {TAKEN}"]


# The mark in the file itself


@pytest.mark.parametrize("where", ["masks", "results/masks", "old/masks"])
def test_a_prediction_is_not_a_label_in_any_folder(folder, lesion, case, where):
    predicted(folder / where / "P.nii.gz", lesion)
    assert is_not_taken(case(), f"{where}/P.nii.gz")


@pytest.mark.parametrize("where", ["results/masks", "old/masks"])
def test_the_label_beside_a_prediction_is_kept(folder, lesion, case, where):
    predicted(folder / where / "P.nii.gz", lesion)
    put(folder / "masks" / "P.nii.gz", corrected(lesion))
    found = case()
    assert found.labelled and found.lesion_voxels == lesion.sum() - 1
    assert [s.key for s in found.sources] == ["images/P.nii.gz", "masks/P.nii.gz"]


def test_a_prediction_without_a_lesion_is_no_label_either(folder, lesion, case):
    predicted(folder / "masks" / "P.nii.gz", lesion * 0)
    assert is_not_taken(case(), "masks/P.nii.gz")


def test_a_prediction_that_a_person_changed_is_a_label_with_a_line(folder, lesion, case):
    put(folder / "masks" / "P.nii.gz", corrected(lesion), mark_of_mask(lesion))
    assert is_taken(case(), "masks/P.nii.gz")


def test_a_changed_prediction_in_another_data_set_is_no_label(folder, lesion, refusal):
    put(folder / "old" / "masks" / "P.nii.gz", corrected(lesion), mark_of_mask(lesion))
    assert "its mask old/masks/P.nii.gz and its image images/P.nii.gz are in two data sets" in refusal()


def test_two_labels_are_still_too_many(folder, lesion, refusal):
    put(folder / "masks" / "P.nii.gz", lesion)
    put(folder / "old" / "masks" / "P.nii.gz", corrected(lesion), mark_of_mask(lesion))
    assert refusal() == "2 masks where one is expected: masks/P.nii.gz, old/masks/P.nii.gz"


@pytest.mark.parametrize("change", [lambda map_: map_, lambda map_: map_ * 0 + 0.3, corrected])
def test_a_probability_map_is_never_a_label(folder, lesion, case, change):
    put(folder / "masks" / "P.nii.gz", change(lesion.astype(np.float32)), PROBABILITY)
    found = case()
    assert not found.labelled and found.repairs[0].startswith("masks/P.nii.gz is a model's probability map: not")


def test_the_mark_counts_among_the_derivatives_of_bids(tmp_path, make_scan, write_case, lesion, case):
    scans = write_case(tmp_path / "bids", "sub-1", dwi=make_scan()[0])
    below = "sub-1/ses-0001/sub-1_ses-0001_msk.nii.gz"
    predicted(scans / "derivatives" / "ours" / below, lesion)
    assert is_not_taken(case(scans), f"derivatives/ours/{below}")
    put(scans / "derivatives" / below, corrected(lesion))
    assert case(scans).labelled


# The table beside the masks


@pytest.fixture
def results(folder, lesion):
    """results/ as make predict leaves it, its mask without a header of ours."""
    put(folder / "results" / "masks" / "P.nii.gz", lesion)
    table(folder / "results", f"P,P.nii.gz,masks/P.nii.gz,{digest(lesion)}")
    return folder / "results"


def test_a_listed_prediction_is_no_label(results, case):
    assert is_not_taken(case(), "results/masks/P.nii.gz")


@pytest.mark.parametrize("name", ["P.nii.gz", "P.npy"])
def test_a_listed_prediction_is_known_after_it_was_copied_elsewhere(folder, results, lesion, case, name):
    (results / "masks" / "P.nii.gz").unlink()
    if name.endswith(".npy"):
        np.save(folder / "results" / "masks" / name, lesion)
    else:
        put(folder / "masks" / name, lesion)
    assert not case().labelled and case().repairs[0].endswith(NOT_TAKEN)


def test_a_listed_prediction_that_was_changed_in_place_is_a_label(results, lesion, case):
    put(results / "masks" / "P.nii.gz", corrected(lesion))
    assert is_taken(case(), "results/masks/P.nii.gz")


def test_the_list_of_a_call_that_was_stopped_counts_too(results, case):
    (results / "predictions.csv").rename(results / "predictions.csv.part")
    assert is_not_taken(case(), "results/masks/P.nii.gz")


def test_an_expert_who_sees_no_lesion_either_is_believed(folder, lesion, case):
    table(folder / "results", f"P,P.nii.gz,masks/P.nii.gz,{digest(lesion * 0)}")
    put(folder / "masks" / "P.nii.gz", lesion * 0)
    assert case().labelled and case().repairs == []


def test_beside_a_table_without_digests_nothing_is_a_label(folder, lesion, case):
    put(folder / "results" / "masks" / "P.nii.gz", lesion)
    table(folder / "results", columns="case,file,refused")
    assert not case().labelled and "of an earlier version" in case().repairs[0]


@pytest.mark.parametrize("columns", ["id,volume", ""])
def test_a_table_of_somebody_elses_makes_no_prediction(folder, lesion, case, columns):
    put(folder / "masks" / "P.nii.gz", lesion)
    table(folder, "P,3", columns=columns)
    assert case().labelled and case().repairs == []


def test_somebody_elses_table_does_not_join_two_data_sets(folder, lesion, refusal):
    put(folder / "results" / "masks" / "P.nii.gz", lesion)
    table(folder / "results", columns="id,volume")
    assert "are in two data sets" in refusal()


def test_slices_of_a_prediction_are_known_as_a_whole(tmp_path, make_scan, lesion, case):
    scans = tmp_path / "slices"
    for kind, volume in (("images", make_scan()[0]), ("masks", lesion)):
        (scans / kind).mkdir(parents=True)
        for s in range(volume.shape[2]):
            np.save(scans / kind / f"P_Slice_{s:03}.npy", volume[:, :, s])
    assert case(scans).labelled
    table(scans / "results", f"P,P.nii.gz,masks/P.nii.gz,{digest(lesion)}")
    assert not case(scans).labelled


def test_predictions_beside_scans_in_bids_do_not_make_two_layouts(tmp_path, make_scan, write_case, lesion, case):
    scans = write_case(tmp_path / "bids", "sub-1", dwi=make_scan()[0])
    predicted(scans / "results" / "masks" / "sub-1_ses-0001.nii.gz", lesion)
    table(scans / "results", f"sub-1_ses-0001,x,masks/sub-1_ses-0001.nii.gz,{digest(lesion)}")
    assert is_not_taken(case(scans), "results/masks/sub-1_ses-0001.nii.gz")
    put(scans / "results" / "masks" / "sub-1_ses-0001.nii.gz", corrected(lesion))
    assert case(scans).labelled


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff\xfe\0", b'case,file\n"', b"case,file\n" + b'"' + b"x" * 200000, b"case,file,mask\n,,,,,\n\n,"],
)
def test_no_table_ends_the_reader(tmp_path, content):
    (tmp_path / "predictions.csv").write_bytes(content)
    assert Predictions(["predictions.csv", "gone/predictions.csv"], tmp_path).digests == set()


def test_a_whole_folder_of_results_that_was_copied_is_known(folder, results, lesion, case):
    shutil.copytree(results, folder / "copy of results")
    shutil.copytree(results / "masks", folder / "masks")
    without_header(folder / "masks" / "P.nii.gz")
    assert not case().labelled and len(case().repairs) == 3


def test_what_is_kept_of_a_case_holds_no_mark(tmp_path, folder, lesion, case):
    put(folder / "masks" / "P.nii.gz", corrected(lesion), mark_of_mask(lesion))
    kept = tmp_path / "cases" / case().files["mask"]
    assert b"dwi-stroke" not in gzip.decompress(kept.read_bytes())
