"""`make predict` of DICOM: the same masks as of NIfTI, and answers that an archive and other readers understand."""

import csv
import shutil
import zipfile
from pathlib import Path

import highdicom as hd
import nibabel as nib
import numpy as np
import pydicom
import pytest
from pydicom.uid import JPEG2000Lossless

from components.core.errors import StepError
from components.registry.tracking import MODEL_NAME
from pipelines.predict.registered_model import predict_folder
from tests.support.dicom_studies import PLANTED, TO_LPS, SeriesOptions, Study, write_enhanced, write_series
from tests.support.planted import found

pytestmark = pytest.mark.usefixtures("servers_here")

CHAMPION = f"models:/{MODEL_NAME}@champion"


def placed(degrees: float = 0, upward: bool = True) -> np.ndarray:
    """Return an affine of columns to the left, rows to the back; planes to the head, or to the feet."""
    affine = np.eye(4)
    affine[:3, :3] = nib.eulerangles.euler2mat(np.radians(degrees), 0.1 * np.radians(degrees)) @ np.diag(
        [-2.0, -2.0, 5.0 if upward else -5.0]
    )
    affine[:3, 3] = 31.5, 25.25, -20
    return affine


ORIENTATIONS = {"axial": placed(), "oblique": placed(20), "feet first": placed(upward=False)}


@pytest.fixture
def voxels(make_scan) -> np.ndarray:
    return np.rint(make_scan(3)[0]).clip(0).astype(np.uint16)


@pytest.fixture
def predict(champion, tmp_path):
    """predict(source) -> the rows of predictions.csv by case; results in tmp_path/out."""
    champion(threshold=0.5065)  # between the probabilities that this network gives

    def run(source: Path, **options) -> dict[str, dict]:
        predict_folder(source, tmp_path / "out", CHAMPION, tmp_path / "state", False, modality_check=False, **options)
        with (tmp_path / "out" / "predictions.csv").open(encoding="utf-8-sig", newline="") as file:
            return {row["case"]: row for row in csv.DictReader(file)}

    return run


def on_grid(array: np.ndarray, affine: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """Return the values of an array at the voxels of another grid of the same places (both affines to RAS+)."""
    index = np.indices(array.shape).reshape(3, -1)
    step = np.linalg.inv(grid) @ affine
    there = step[:3, :3] @ index + step[:3, 3:]
    assert np.abs(there - np.rint(there)).max() < 0.01
    there = np.rint(there).astype(int)
    assert there.min() == 0
    moved = np.full(there.max(axis=1) + 1, -1.0)
    moved[tuple(there)] = array.ravel()
    return moved


def mask_of(path: Path, grid: np.ndarray) -> np.ndarray:
    image = nib.load(path)
    return on_grid(np.asarray(image.dataobj), image.affine, grid)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("affine", ORIENTATIONS.values(), ids=ORIENTATIONS)
def test_a_volume_gives_one_mask_as_nifti_and_as_dicom(predict, voxels, tmp_path, affine):
    (tmp_path / "nifti").mkdir()
    nib.save(nib.Nifti1Image(voxels, affine), tmp_path / "nifti" / "case.nii.gz")
    predict(tmp_path / "nifti")
    expected = mask_of(tmp_path / "out" / "masks" / "case.nii.gz", affine)
    assert expected.shape == voxels.shape and 0 < expected.sum() < expected.size
    shutil.rmtree(tmp_path / "out")
    write_series(tmp_path / "dicom" / "case" / "S4", voxels, affine, Study())
    predict(tmp_path / "dicom")
    assert np.array_equal(mask_of(tmp_path / "out" / "masks" / "dicom.nii.gz", affine), expected)


def zipped(folder: Path, path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as target:
        for file in folder.rglob("*"):
            target.write(file, file.relative_to(folder))
    return path


@pytest.mark.slow
@pytest.mark.parametrize("given", ["classic", "enhanced", "zip"])
def test_the_answer_in_dicom_is_the_mask(predict, voxels, tmp_path, given):
    affine, source = ORIENTATIONS["oblique"], tmp_path / "patient"
    if given == "enhanced":
        volumes = [
            (voxels // 2, SeriesOptions(kind="b0", syntax=JPEG2000Lossless)),
            (voxels, SeriesOptions()),
            (voxels // 3, SeriesOptions(kind="direction")),
        ]
        write_enhanced(source / "file", volumes, affine, Study())
    else:
        write_series(source, voxels, affine, Study())
    (row,) = predict(zipped(source, tmp_path / "patient.zip") if given == "zip" else source).values()
    assert row["case"] == "patient" and "b = 1000" in row["noted"] and not row["refused"]
    out = tmp_path / "out"
    mask = mask_of(out / row["mask"], affine)
    volume = hd.seg.segread(out / "dicom" / "patient" / "segmentation.dcm").get_volume(combine_segments=True)
    assert 0 < mask.sum() < mask.size
    assert np.array_equal(on_grid(volume.array, TO_LPS @ volume.affine, affine), mask)
    assert len(list((out / "dicom" / "patient" / "outline").iterdir())) == voxels.shape[2]
    assert found(out, PLANTED) and not found(out, PLANTED, but=[out / "dicom"])


@pytest.mark.slow
def test_a_study_that_is_refused_is_named_and_the_others_go_on(predict, voxels, tmp_path):
    write_series(tmp_path / "in/good", voxels, placed(), Study())
    write_series(tmp_path / "in/directions", voxels, placed(), Study(), kind="direction")
    two = Study()
    write_series(tmp_path / "in/two/a", voxels, placed(), two, number=4)
    write_series(tmp_path / "in/two/b", voxels, placed(), two, number=5)
    rows = predict(tmp_path / "in")
    assert "no trace" in rows["directions"]["refused"] and "SERIES=4 (or 5)" in rows["two"]["refused"]
    assert rows["good"]["mask"] and not rows["good"]["refused"]
    rows = predict(tmp_path / "in", series="5")
    assert rows["two"]["mask"] and rows["good"]["mask"]


@pytest.mark.slow
def test_a_second_call_replaces_its_own_files_and_no_others(predict, voxels, tmp_path):
    write_series(tmp_path / "in", voxels, placed(), Study())
    predict(tmp_path / "in")
    answer = tmp_path / "out" / "dicom" / "in"
    (tmp_path / "out/dicom/gone").mkdir()
    shutil.copy(answer / "segmentation.dcm", tmp_path / "out/dicom/gone/segmentation.dcm")
    before = pydicom.dcmread(answer / "segmentation.dcm").SOPInstanceUID
    predict(tmp_path / "in")
    assert pydicom.dcmread(answer / "segmentation.dcm").SOPInstanceUID == before
    assert not (tmp_path / "out/dicom/gone/segmentation.dcm").exists()
    drawn = pydicom.dcmread(answer / "segmentation.dcm")
    drawn.Manufacturer = "A viewer"
    drawn.save_as(answer / "segmentation.dcm")
    with pytest.raises(StepError, match=r"segmentation\.dcm exists, and make predict did not write it"):
        predict(tmp_path / "in")
    predict(tmp_path / "in", overwrite=True)
    assert pydicom.dcmread(answer / "segmentation.dcm").Manufacturer == "dwi-stroke"


@pytest.mark.slow
def test_a_corrected_answer_is_kept(predict, voxels, tmp_path):
    write_series(tmp_path / "in", voxels, placed(), Study())
    predict(tmp_path / "in")
    path = tmp_path / "out/dicom/in/segmentation.dcm"
    corrected = pydicom.dcmread(path)
    corrected.PixelData = bytes(len(corrected.PixelData))
    corrected.save_as(path)
    with pytest.raises(StepError, match=r"segmentation\.dcm was changed since make predict made it"):
        predict(tmp_path / "in")
    assert not any(pydicom.dcmread(path).PixelData)
    predict(tmp_path / "in", overwrite=True)
    assert any(pydicom.dcmread(path).PixelData)


@pytest.mark.slow
def test_a_model_that_sees_adc_gets_the_map_of_the_study(champion, predict, voxels, make_scan, tmp_path):
    champion(inputs="dwi+adc")
    study = Study()
    write_series(tmp_path / "in/a", voxels, placed(), study, number=4)
    write_series(
        tmp_path / "in/b", np.rint(1000 * make_scan(3)[1]).astype(np.uint16), placed(), study, number=5, kind="adc"
    )
    (row,) = predict(tmp_path / "in").values()
    assert row["mask"] and "ADC map: series 5" in row["noted"]


@pytest.mark.slow
def test_without_an_adc_map_it_is_computed_with_the_b_value_of_the_header(champion, predict, make_scan, tmp_path):
    champion(inputs="dwi+adc")
    study, (dwi, adc, _) = Study(), make_scan(3)
    b0 = dwi * np.exp(0.8 * adc)
    write_series(tmp_path / "in/a", np.rint(100 * dwi).astype(np.uint16), placed(), study, number=4, b_value=800)
    write_series(tmp_path / "in/b", np.rint(100 * b0).astype(np.uint16), placed(), study, number=5, kind="b0")
    (row,) = predict(tmp_path / "in").values()
    assert "ADC computed from b0, b = 800 s/mm²" in row["noted"]


def test_nifti_beside_dicom_is_what_is_segmented(predict, voxels, tmp_path, caplog):
    write_series(tmp_path / "in/dicom", voxels, placed(), Study())
    nib.save(nib.Nifti1Image(voxels, placed()), tmp_path / "in/scan.nii.gz")
    assert predict(tmp_path / "in").keys() == {"scan"}
    assert "left out: 5 DICOM files" in caplog.text
    with pytest.raises(StepError, match="SERIES"):
        predict(tmp_path / "in", series="4")
