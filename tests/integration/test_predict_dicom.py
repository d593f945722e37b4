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
import SimpleITK as sitk
from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless, JPEGLSLossless

from components.core.errors import StepError
from components.registry.tracking import MODEL_NAME
from pipelines.predict.folder import predict_folder
from tests.support.dicom_studies import PLANTED, SeriesOptions, Study, write_enhanced, write_series

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
    champion(bias=0.0)

    def run(source: Path, **options) -> dict[str, dict]:
        predict_folder(source, tmp_path / "out", CHAMPION, tmp_path / "state", False, modality_check=False, **options)
        with (tmp_path / "out" / "predictions.csv").open(encoding="utf-8-sig", newline="") as file:
            return {row["case"]: row for row in csv.DictReader(file)}

    return run


def voxels_at(path: Path) -> dict[tuple, float]:
    """Return the values of a NIfTI file by place: RAS+ millimetres, rounded."""
    image = nib.load(path)
    index = np.indices(image.shape[:3]).reshape(3, -1)
    places = (image.affine[:3, :3] @ index + image.affine[:3, 3:]).T
    return dict(zip(map(tuple, places.round(1) + 0.0), np.asarray(image.dataobj).ravel().tolist(), strict=True))


@pytest.mark.parametrize("affine", ORIENTATIONS.values(), ids=ORIENTATIONS)
def test_a_volume_gives_one_mask_as_nifti_and_as_dicom(predict, voxels, tmp_path, affine):
    (tmp_path / "nifti").mkdir()
    nib.save(nib.Nifti1Image(voxels, affine), tmp_path / "nifti" / "case.nii.gz")
    predict(tmp_path / "nifti")
    expected = voxels_at(tmp_path / "out" / "masks" / "case.nii.gz")
    assert 0 < sum(expected.values()) < len(expected)
    shutil.rmtree(tmp_path / "out")
    write_series(tmp_path / "dicom" / "case" / "S4", voxels, affine, Study())
    predict(tmp_path / "dicom")
    assert voxels_at(tmp_path / "out" / "masks" / "dicom.nii.gz") == expected


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, JPEGLSLossless, JPEG2000Lossless])
@pytest.mark.parametrize("layout", ["classic", "enhanced"])
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
    mask = voxels_at(out / row["mask"])
    file = out / "dicom" / "patient" / "segmentation.dcm"

    ours = hd.seg.segread(file)
    volume = ours.get_volume(combine_segments=True)
    to_ras = np.diag([-1.0, -1.0, 1.0, 1.0]) @ volume.affine
    index = np.indices(volume.array.shape).reshape(3, -1)
    places = (to_ras[:3, :3] @ index + to_ras[:3, 3:]).T
    assert dict(zip(map(tuple, places.round(1) + 0.0), volume.array.ravel().tolist(), strict=True)) == mask

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
