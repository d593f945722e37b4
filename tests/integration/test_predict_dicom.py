"""`make predict` of DICOM: the same masks as of NIfTI, and answers that an archive and other readers understand."""

import csv
import shutil
from pathlib import Path

import highdicom as hd
import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless

from components.registry.tracking import MODEL_NAME
from pipelines.predict.folder import predict_folder
from tests.support.dicom_studies import TO_LPS, SeriesOptions, Study, write_enhanced, write_series

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


@pytest.mark.parametrize(
    ("layout", "syntax"),
    [("classic", ExplicitVRLittleEndian), ("enhanced", JPEG2000Lossless)],
)
def test_the_segmentation_is_the_mask(predict, voxels, tmp_path, layout, syntax):
    study, affine, source = Study(), ORIENTATIONS["oblique"], tmp_path / "patient"
    if layout == "classic":
        write_series(source, voxels, affine, study, syntax=syntax)
    else:
        volumes = [
            (voxels // 2, SeriesOptions(kind="b0", syntax=syntax)),
            (voxels, SeriesOptions()),
            (voxels // 3, SeriesOptions(kind="direction")),
        ]
        write_enhanced(source / "file", volumes, affine, study)
    (row,) = predict(source).values()
    assert row["case"] == "patient" and "b = 1000" in row["noted"] and not row["refused"]
    out = tmp_path / "out"
    mask = mask_of(out / row["mask"], affine)
    file = out / "dicom" / "patient" / "segmentation.dcm"

    ours = hd.seg.segread(file)
    volume = ours.get_volume(combine_segments=True)
    assert 0 < mask.sum() < mask.size
    assert np.array_equal(on_grid(volume.array, TO_LPS @ volume.affine, affine), mask)
    _same_by_itk(file, out / row["mask"])
    _refers_to_its_places(ours, source)


def _same_by_itk(file: Path, mask: Path) -> None:
    """Compare with what ITK reads of both: it knows nothing of our code and of highdicom."""
    read = sitk.ReadImage(str(file))
    expected = sitk.ReadImage(str(mask))
    resampled = sitk.Resample(expected, read, sitk.Transform(), sitk.sitkNearestNeighbor)
    assert np.array_equal(sitk.GetArrayFromImage(read) > 0, sitk.GetArrayFromImage(resampled) > 0)


def _refers_to_its_places(segmentation: pydicom.Dataset, source: Path) -> None:
    """Check that each frame refers to the image at its place, with the same header otherwise."""
    images = {}
    for path in source.iterdir():
        header = pydicom.dcmread(path)
        images[header.SOPInstanceUID] = header
    for frame in segmentation.PerFrameFunctionalGroupsSequence:
        reference = frame.DerivationImageSequence[0].SourceImageSequence[0]
        image = images[reference.ReferencedSOPInstanceUID]
        if "NumberOfFrames" in image:
            image = image.PerFrameFunctionalGroupsSequence[reference.ReferencedFrameNumber - 1]
            assert image.MRDiffusionSequence[0].DiffusionDirectionality == "ISOTROPIC"
            image = image.PlanePositionSequence[0]
        assert np.allclose(image.ImagePositionPatient, frame.PlanePositionSequence[0].ImagePositionPatient)
    first = next(iter(images.values()))
    for keyword in ("StudyInstanceUID", "FrameOfReferenceUID", "PatientID", "PatientName", "AccessionNumber"):
        assert segmentation[keyword].value == first[keyword].value
