"""DATA with DICOM: the copy that the pipeline gets, and that nothing of the headers is in it."""

import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest

from components.core.errors import StepError
from components.ingest.discover import discover
from components.ingest.ingest import check
from components.scans.volumes import read
from pipelines.dicom import data_set
from pipelines.dicom.convert import convert
from pipelines.dicom.data_set import as_nifti
from pipelines.pseudonyms import pseudonymized
from pipelines.upload import files_of, listed
from tests.support.dicom_studies import PLANTED, Study, write_series
from tests.support.planted import found, plant_in_header

AFFINE = np.array([[-2.0, 0, 0, 31], [0, -2.0, 0, 25], [0, 0, 5.0, -9], [0, 0, 0, 1]])
KEY = "b1946ac92492d2347c6235b4d2611184-a key of a test"


@pytest.fixture
def patient(make_scan, tmp_path):
    """patient("A", seed) writes a study with DWI, b0 and ADC map below data/A, and its mask; returns the volumes."""

    def write(name: str, seed: int = 0, adc: bool = True, mask: bool = True, study: Study | None = None):
        dwi, adc_map, lesion = make_scan(seed)
        dwi = np.rint(10 * dwi).astype(np.uint16)
        study, folder = study or Study(), tmp_path / "data" / name / "DICOM"
        write_series(folder / "S3", (dwi * 3).clip(0, 65535), AFFINE, study, number=3, kind="b0")
        write_series(folder / "S4", dwi, AFFINE, study, number=4)
        if adc:
            write_series(folder / "S5", np.rint(1000 * adc_map).astype(np.uint16), AFFINE, study, number=5, kind="adc")
        if mask:
            path = tmp_path / "data" / "masks" / f"{name.replace('/', '_').removeprefix('images_')}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(lesion, AFFINE), path)
            plant_in_header(path)
        return dwi, lesion

    return write


@pytest.fixture
def copied(tmp_path):
    """copied(series="") -> the copy of data/ and the files in it."""

    def make(series: str = "") -> tuple[Path, list[str]]:
        copy = Path(as_nifti(str(tmp_path / "data"), series, tmp_path / "state"))
        return copy, sorted(files_of(copy))

    return make


def test_the_copy_is_a_data_set_that_ingest_takes_whole(patient, copied, tmp_path):
    volumes = {"sub-A": patient("A"), "sub-B_ses-1": patient("B/ses-1", 1), "sub-C": patient("images/C", 2)}
    copy, keys = copied()
    validated = check(discover(keys), copy, tmp_path / "cases", data_uri="x", data_version="y")
    assert not validated.refused
    records = {case.case: case for case in validated.cases}
    assert records.keys() == volumes.keys()
    for name, (dwi, lesion) in volumes.items():
        assert records[name].lesion_voxels == lesion.sum() and "adc" in records[name].files
        image, _ = read(copy / next(key for key in keys if key.endswith(f"{name}_dwi.nii.gz")))
        assert np.array_equal(image, dwi[::-1, ::-1])


def test_nothing_of_a_header_is_in_the_copy(patient, copied, tmp_path):
    patient("A")
    copy, keys = copied()
    assert keys == [
        "derivatives/sub-A/sub-A_msk.nii.gz", "sub-A/dwi/sub-A_adc.nii.gz", "sub-A/dwi/sub-A_dwi.nii.gz",
    ]  # fmt: skip
    planted = [*PLANTED, "Prasert^Wongsa", "ep2d_diff", "20260203", "Synthetic"]
    assert found(tmp_path / "data", planted[:1]) and not found(copy.parent, planted)


def test_with_a_key_the_folders_get_pseudonyms_too(patient, copied, tmp_path):
    patient("Somchai-Jaidee")
    copy, _ = copied()
    renamed = Path(pseudonymized(str(copy), KEY, tmp_path / "state"))
    assert len(files_of(renamed)) == 3
    assert not found(renamed, [*PLANTED, "Somchai", "Jaidee"])


def test_with_a_key_no_message_has_a_name(patient, tmp_path, caplog):
    caplog.set_level("DEBUG")
    patient("Somchai")
    patient("Jaidee/first", 1, mask=False)
    patient("Jaidee/second", 2, mask=False)
    (tmp_path / "data" / "Malee.nii").touch()
    as_nifti(str(tmp_path / "data"), "", tmp_path / "state", private=True)
    assert "3 DICOM studies or masks refused or left out" in caplog.text
    with pytest.raises(StepError) as refused:
        as_nifti(str(tmp_path / "data"), "77", tmp_path / "state", private=True)
    for name in ("Somchai", "Jaidee", "Malee", "ep2d_diff", str(tmp_path / "data")):
        assert name not in caplog.text + str(refused.value)


def test_a_b0_that_cannot_be_compared_is_left_out_and_each_call_says_so(patient, copied, tmp_path, caplog):
    caplog.set_level("INFO")
    patient("A", adc=False)
    for path in (tmp_path / "data/A/DICOM").rglob("IM*"):
        header = pydicom.dcmread(path)
        header.Manufacturer, header.RescaleIntercept = "Philips", 0
        header.RescaleSlope = 2 if path.parent.name == "S3" else 3
        header.save_as(path)
    for _ in range(2):
        caplog.clear()
        assert not [key for key in copied()[1] if "b0" in key or key.endswith(".json")]
        assert "the b0 image was left out: the values of series 3" in caplog.text


def test_without_an_adc_map_the_b0_image_and_the_b_value_come_along(patient, copied, caplog):
    caplog.set_level("INFO")
    patient("A", adc=False)
    copy, keys = copied()
    assert "sub-A/dwi/sub-A_b0.nii.gz" in keys and "sub-A/dwi/sub-A_adc.nii.gz" not in keys
    assert (copy / "sub-A/dwi/sub-A_dwi.json").read_text() == '{"DiffusionBValue": 1000.0}'
    assert "taken      sub-A: DWI: series 4 (ep2d_diff): trace, b = 1000 s/mm², 5 images" in caplog.text


def test_a_second_call_converts_only_what_changed(patient, copied, monkeypatch, tmp_path):
    patient("A")
    patient("B", 1)
    copy, keys = copied()
    times = {key: (copy / key).stat().st_mtime_ns for key in keys}
    shutil.rmtree(tmp_path / "data/B")
    patient("B", 2, adc=False)
    converted = []
    monkeypatch.setattr(data_set, "convert", lambda chosen: converted.append(1) or convert(chosen))
    _, now = copied()
    assert len(converted) == 1
    assert all((copy / key).stat().st_mtime_ns == times[key] for key in now if "sub-A" in key)


@pytest.mark.parametrize("stray", ["A/mask.nii.gz", "masks/Z.nii.gz", "masks/A.npy", "A/DICOM/masks/A.nii.gz"])
def test_a_mask_elsewhere_is_named_and_left_out(patient, copied, tmp_path, caplog, stray):
    patient("A", mask=False)
    path = tmp_path / "data" / stray
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"")
    _, keys = copied()
    assert stray in caplog.text and "masks/NAME.nii.gz" in caplog.text
    assert not [key for key in keys if "msk" in key]


def test_studies_that_cannot_be_used_are_named_and_the_others_go_on(patient, copied, tmp_path, caplog):
    patient("A")
    patient("B/first", 1, mask=False)
    patient("B/second", 2, mask=False)
    _, keys = copied()
    assert not [key for key in keys if "sub-B" in key]
    assert "refused    B/first" in caplog.text and "refused    B/second" in caplog.text and "ses-1" in caplog.text


def test_when_all_are_refused_it_is_an_error(patient, copied, tmp_path):
    write_series(tmp_path / "data" / "A", np.ones((32, 24, 5), np.uint16), AFFINE, Study(), kind="direction")
    with pytest.raises(StepError, match="None of the 1 DICOM studies"):
        copied()


def test_series_chooses(patient, copied, tmp_path):
    patient("A")
    study = Study(pydicom.dcmread(next((tmp_path / "data/A/DICOM/S4").iterdir())).StudyInstanceUID)
    write_series(tmp_path / "data/A/S9", np.full((32, 24, 5), 7, np.uint16), AFFINE, study, number=9)
    with pytest.raises(StepError, match=r"2 series could be the DWI\. Choose one: SERIES=4 \(or 9\)"):
        copied()
    copy, _ = copied("9")
    assert (read(copy / "sub-A/dwi/sub-A_dwi.nii.gz")[0] == 7).all()
    with pytest.raises(StepError, match="SERIES=77"):
        copied("77")


def test_a_data_set_in_nifti_with_dicom_beside_it_stays_what_it_was(patient, tmp_path, caplog, make_scan):
    patient("A")
    (tmp_path / "data/images").mkdir()
    nib.save(nib.Nifti1Image(make_scan(5)[0], AFFINE), tmp_path / "data/images/A.nii.gz")
    data = str(tmp_path / "data")
    assert as_nifti(data, "", tmp_path / "state") == data
    assert "left out: 15 DICOM files" in caplog.text
    _, sent = listed(Path(data))
    assert sorted(sent) == ["images/A.nii.gz", "masks/A.nii.gz"]


def test_sites_come_along_under_the_names_of_the_copy(patient, copied, tmp_path):
    patient("A")
    (tmp_path / "data/participants.tsv").write_text("participant_id\tsite\tage\nA\tKorat\t77\n")
    copy, _ = copied()
    assert (copy / "participants.tsv").read_text() == "participant_id\tsite\tscanner\nsub-A\tKorat\t\n"


@pytest.mark.parametrize("data", ["", "s3://bucket/prefix", "/no/such/folder"])
def test_other_data_is_passed_on(data, tmp_path):
    assert as_nifti(data, "", tmp_path) == data
