"""The answer in DICOM: the mask at its place for other readers, its source's patient, and what it says about itself."""

import io
import shutil
import subprocess

import highdicom as hd
import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from components.scans.geometry import BadVolume
from components.scans.volumes import nifti_bytes, read_nifti_bytes
from pipelines.dicom.answer import COLOUR, MAY_BE_EMPTY, answer, answer_names, is_ours, is_unchanged, named
from pipelines.dicom.choose import choose
from pipelines.dicom.convert import DWI, convert
from pipelines.dicom.headers import read_series
from tests.support.dicom_studies import SeriesOptions, Study, write_enhanced, write_series

MODEL = "models:/dwi-attention-unet/3"
VOXELS = np.random.default_rng(1).integers(0, 4000, (30, 28, 6)).astype(np.uint16)


def affine(degrees: float, last_axis: float) -> np.ndarray:
    whole = np.eye(4)
    turned = nib.eulerangles.euler2mat(np.radians(degrees), np.radians(degrees / 2))
    whole[:3, :3] = turned @ np.diag([-1.9, -2.1, last_axis])
    whole[:3, 3] = 18, 16, -12
    return whole


PLACES = {"axial": affine(0, 5), "oblique": affine(25, 5), "oblique, feet first": affine(-17, -5)}


@pytest.fixture
def lesion() -> np.ndarray:
    """A mask (columns, rows, planes) without any symmetry."""
    mask = np.zeros(VOXELS.shape, np.uint8)
    mask[5:14, 8:11, 2:4] = 1
    mask[20:23, 4:20, 3] = 1
    return mask


@pytest.fixture(params=["classic", "enhanced"])
def layout(request) -> str:
    return request.param


@pytest.fixture
def answered(tmp_path):
    """answered(mask, affine, layout) -> the answer's files below tmp_path/out, the mask's NIfTI file, the sources."""

    def make(mask: np.ndarray, place: np.ndarray, layout: str = "classic", model: str = MODEL):
        source, out, study = tmp_path / "in", tmp_path / "out", Study()
        if layout == "classic":
            write_series(source, VOXELS, place, study)
        else:
            kinds = ("b0", "trace", "direction")
            write_enhanced(source / "file", [(VOXELS, SeriesOptions(kind=kind)) for kind in kinds], place, study)
        series, *_ = read_series(sorted(source.iterdir()))
        converted = convert(choose(series))
        _, geometry = read_nifti_bytes(converted.files[DWI])
        canonical = nib.as_closest_canonical(nib.Nifti1Image(mask, place))
        nifti = nifti_bytes(geometry.native(np.asarray(canonical.dataobj)), geometry.space)
        shutil.rmtree(out, ignore_errors=True)
        files = answer(converted.chosen, converted.files[DWI], nifti, model)
        assert sorted(files) == sorted(answer_names(converted.chosen))
        for name, content in files.items():
            path = out / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        (tmp_path / "mask.nii.gz").write_bytes(nifti)
        return out, tmp_path / "mask.nii.gz", source

    return make


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_the_mask_read_back_is_the_mask_at_its_place(answered, lesion, place, layout):
    out, mask, _ = answered(lesion, place, layout)
    segmentation = hd.seg.segread(out / "segmentation.dcm")
    frames = segmentation.pixel_array
    back = np.zeros_like(lesion)
    for frame, groups in zip(frames, segmentation.PerFrameFunctionalGroupsSequence, strict=True):
        position = np.array(groups.PlanePositionSequence[0].ImagePositionPatient) * (-1, -1, 1)
        column, row, plane = np.linalg.inv(place)[:3, :3] @ (position - place[:3, 3])
        assert abs(column) < 0.01 and abs(row) < 0.01 and abs(plane - round(plane)) < 0.01
        back[:, :, round(plane)] = frame.T
    assert np.array_equal(back, lesion)

    by_itk, nifti = sitk.ReadImage(out / "segmentation.dcm"), sitk.ReadImage(mask)
    moved = sitk.Resample(nifti, by_itk, sitk.Transform(), sitk.sitkNearestNeighbor)
    assert np.array_equal(sitk.GetArrayFromImage(by_itk) > 0, sitk.GetArrayFromImage(moved) > 0)
    assert sitk.GetArrayFromImage(moved).sum() == lesion.sum()


def test_each_frame_refers_to_the_image_at_its_place(answered, lesion, layout):
    out, _, source = answered(lesion, PLACES["oblique, feet first"], layout)
    images = {header.SOPInstanceUID: header for header in map(pydicom.dcmread, source.iterdir())}
    segmentation = pydicom.dcmread(out / "segmentation.dcm")
    referred = set()
    for frame in segmentation.PerFrameFunctionalGroupsSequence:
        reference = frame.DerivationImageSequence[0].SourceImageSequence[0]
        image = images[reference.ReferencedSOPInstanceUID]
        if layout == "enhanced":
            image = image.PerFrameFunctionalGroupsSequence[reference.ReferencedFrameNumber - 1]
            assert image.MRDiffusionSequence[0].DiffusionDirectionality == "ISOTROPIC"
            image = image.PlanePositionSequence[0]
        assert np.allclose(image.ImagePositionPatient, frame.PlanePositionSequence[0].ImagePositionPatient)
        referred.add((reference.ReferencedSOPInstanceUID, reference.get("ReferencedFrameNumber")))
    assert len(referred) == VOXELS.shape[2]
    series = segmentation.ReferencedSeriesSequence[0]
    assert series.SeriesInstanceUID == next(iter(images.values())).SeriesInstanceUID


def test_it_belongs_to_the_patient_and_the_study_of_its_source(answered, lesion, layout):
    out, _, source = answered(lesion, PLACES["axial"], layout)
    before = pydicom.dcmread(next(source.iterdir()))
    for path in out.rglob("*.dcm"):
        after = pydicom.dcmread(path)
        for keyword in ("PatientID", "PatientName", "PatientBirthDate", "StudyInstanceUID", "AccessionNumber"):
            assert after[keyword].value == before[keyword].value
        assert after.SeriesInstanceUID != before.SeriesInstanceUID
    assert pydicom.dcmread(out / "segmentation.dcm").FrameOfReferenceUID == before.FrameOfReferenceUID


def test_it_says_what_it_is(answered, lesion):
    out, _, _ = answered(lesion, PLACES["axial"])
    segmentation = pydicom.dcmread(out / "segmentation.dcm")
    (segment,) = segmentation.SegmentSequence
    assert segment.SegmentAlgorithmType == "AUTOMATIC"
    (algorithm,) = segment.SegmentationAlgorithmIdentificationSequence
    assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == ("dwi-attention-unet", "3")
    assert segmentation.ContentDescription == "RESEARCH USE ONLY"
    series = set()
    for path in out.rglob("*.dcm"):
        file = pydicom.dcmread(path)
        said = file.SeriesDescription
        assert said.startswith("RESEARCH USE ONLY") and "dwi-attention-unet 3" in said
        assert (file.ManufacturerModelName, file.SoftwareVersions) == ("dwi-attention-unet", "3")
        assert is_ours(path)
        series.add((file.SeriesInstanceUID, file.SeriesNumber))
    assert len(series) == 2


def test_it_says_that_the_model_is_of_synthetic_scans_alone(tmp_path):
    write_series(tmp_path, VOXELS, PLACES["axial"], Study())
    series, *_ = read_series(sorted(tmp_path.iterdir()))
    converted = convert(choose(series))
    files = answer(converted.chosen, converted.files[DWI], converted.files[DWI], MODEL, synthetic=True)
    segmentation, *pictures = (pydicom.dcmread(io.BytesIO(file)) for file in files.values())
    assert "SYNTHETIC" in segmentation.ContentDescription and len(segmentation.ContentDescription) <= 64
    assert all("SYNTHETIC" in picture.ImageComments for picture in pictures)


def test_the_outline_is_burnt_into_the_slice_of_the_lesion(answered, lesion, layout):
    out, _, _ = answered(lesion, PLACES["oblique, feet first"], layout)
    pictures = [pydicom.dcmread(path) for path in sorted((out / "outline").iterdir())]
    assert [picture.InstanceNumber for picture in pictures] == list(range(1, 7))
    outlined = []
    for picture in pictures:
        pixels = picture.pixel_array
        scale = pixels.shape[0] // 28
        assert pixels.shape == (28 * scale, 30 * scale, 3) and pixels.shape[1] >= 512
        assert np.allclose(np.array(picture.PixelSpacing) * scale, (2.1, 1.9))
        rows, columns = np.nonzero((pixels == COLOUR).all(axis=-1))
        outlined.append({(int(c) // scale, int(r) // scale) for r, c in zip(rows, columns, strict=True)})
        assert (pixels[-30:] == 255).all(axis=-1).any()  # the notice
    for plane, found in enumerate(reversed(outlined)):  # feet first: the last plane of the array is the lowest
        inside = {(int(c), int(r)) for c, r in np.argwhere(lesion[:, :, plane])}
        assert found <= inside and bool(found) == bool(inside)


def test_no_lesion_is_an_answer_too(answered, lesion):
    out, _, _ = answered(np.zeros_like(lesion), PLACES["axial"])
    segmentation = hd.seg.segread(out / "segmentation.dcm")
    assert segmentation.NumberOfFrames == VOXELS.shape[2] and not segmentation.pixel_array.any()


@pytest.fixture
def study(tmp_path):
    write_series(tmp_path / "in", VOXELS, PLACES["axial"], Study())
    return lambda: convert(choose(read_series(sorted((tmp_path / "in").iterdir()))[0]))


def answers(converted, mask: np.ndarray | None = None, model: str = MODEL, **options) -> list[pydicom.Dataset]:
    """Return the files of an answer: the segmentation, then the pictures."""
    scan = converted.files[DWI]
    _, geometry = read_nifti_bytes(scan)
    nifti = scan if mask is None else nifti_bytes(geometry.native(mask), geometry.space)
    return [pydicom.dcmread(io.BytesIO(f)) for f in answer(converted.chosen, scan, nifti, model, **options).values()]


def uids(files: list[pydicom.Dataset]) -> set[str]:
    return {str(uid) for file in files for uid in (file.SOPInstanceUID, file.SeriesInstanceUID)}


def test_the_same_input_gives_the_same_uids_and_another_one_others(study, lesion):
    first = uids(answers(study(), lesion))
    assert len(first) == 3 + VOXELS.shape[2] and uids(answers(study(), lesion)) == first
    others = (
        {"model": "models:/dwi-attention-unet/4"}, {"mask": lesion[::-1]}, {"synthetic": True}, {"review": "small"},
        {"review": None},
    )  # fmt: skip
    assert not [other for other in others if first & uids(answers(study(), **({"mask": lesion} | other)))]


@pytest.mark.parametrize("keyword", ["PatientID", "PatientName", "PatientBirthDate", "StudyInstanceUID"])
def test_another_patient_or_study_gives_other_uids(study, lesion, tmp_path, keyword):
    first = uids(answers(study(), lesion))
    for path in (tmp_path / "in").iterdir():
        header = pydicom.dcmread(path)
        header[keyword].value = "19000101"
        header.save_as(path)
    assert not first & uids(answers(study(), lesion))


@pytest.mark.parametrize("synthetic", [False, True])
@pytest.mark.parametrize(
    ("review", "warning"),
    [("volume > 99 % of those in training (µ²); é" * 90, "NEEDS REVIEW"), (None, "REVIEW UNKNOWN")],
)
def test_it_says_that_it_needs_review(study, lesion, review, warning, synthetic):
    segmentation, *pictures = answers(study(), lesion, review=review, synthetic=synthetic)
    usual = answers(study(), lesion, synthetic=synthetic)[1:]
    for file in (segmentation, *pictures):
        assert warning in file.SeriesDescription and len(file.SeriesDescription) <= 64
        assert "RESEARCH USE ONLY" in file.SeriesDescription
    said = segmentation.ContentDescription
    assert said.startswith(f"{warning}. RESEARCH USE ONLY") and len(said) <= 64 and ("SYNTHETIC" in said) == synthetic
    assert len(segmentation.SegmentSequence[0].SegmentDescription) <= 1024
    for picture, before in zip(pictures, usual, strict=True):
        assert warning in picture.ImageComments and len(picture.ImageComments) <= 10240
        changed = (picture.pixel_array != before.pixel_array).any(axis=(1, 2))
        assert changed[-66:-44].any() and not changed[-40:].any() and not changed[:-70].any()
    if review:
        assert "volume > 99 % of those" in pictures[0].ImageComments
        assert "volume > 99 % of those" in segmentation.SegmentSequence[0].SegmentDescription


def test_without_a_reason_it_asks_for_no_review(study, lesion):
    assert not any("REVIEW" in str(file) for file in answers(study(), lesion))


@pytest.mark.parametrize("name", ["segmentation.dcm", "outline/0002.dcm"])
def test_a_changed_voxel_is_seen(answered, lesion, name):
    out, *_ = answered(lesion, PLACES["axial"])
    assert is_unchanged(out / name)
    file = pydicom.dcmread(out / name)
    file.save_as(out / name)
    assert is_unchanged(out / name)
    file.PixelData = bytes([file.PixelData[0] ^ 1]) + file.PixelData[1:]
    file.save_as(out / name)
    assert is_ours(out / name) and not is_unchanged(out / name)


def answer_to(folder, change) -> list[pydicom.Dataset]:
    """Return the answer to a study with changed headers."""
    for path in write_series(folder, VOXELS, PLACES["axial"], Study()):
        header = pydicom.dcmread(path)
        change(header)
        header.save_as(path)
    series, *_ = read_series(sorted(folder.iterdir()))
    return answers(convert(choose(series)))


def test_an_anonymized_study_gets_an_answer(tmp_path):
    def empty(header: pydicom.Dataset) -> None:
        for keyword in (*MAY_BE_EMPTY, "SliceThickness", "SpacingBetweenSlices", "Manufacturer", "SeriesNumber"):
            del header[keyword]

    assert {str(file.PatientName) for file in answer_to(tmp_path, empty)} == {""}


@pytest.mark.parametrize("characters", ["ISO_IR 192", "ISO_IR 166"])
def test_a_thai_name_stays_itself(tmp_path, characters):
    def rename(header: pydicom.Dataset) -> None:
        header.SpecificCharacterSet, header.PatientName = characters, "สมชาย^ใจดี"

    assert {str(file.PatientName) for file in answer_to(tmp_path, rename)} == {"สมชาย^ใจดี"}


@pytest.mark.filterwarnings("error")
def test_no_warning_has_the_name_of_a_patient(tmp_path):
    def rename(header: pydicom.Dataset) -> None:
        header.PatientName = "Somchai"

    assert {str(file.PatientName) for file in answer_to(tmp_path, rename)} == {"Somchai"}


def test_without_a_frame_of_reference_the_reason_is_given(tmp_path):
    with pytest.raises(BadVolume, match=r"no answer in DICOM.*Frame Of Reference"):
        answer_to(tmp_path, lambda header: header.pop("FrameOfReferenceUID"))


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("models:/a/3", ("a", "3")),
        ("runs:/0123/model", ("runs:/0123/model", "runs:/0123/model")),
        ("models:/" + "n" * 80 + "/12", ("n" * 64, "12")),
    ],
)
def test_name_and_version_of_a_model(address, expected):
    assert named(address) == expected


def test_a_file_of_others_is_not_ours(answered, lesion, tmp_path):
    _, mask, source = answered(lesion, PLACES["axial"])
    assert not is_ours(mask) and not is_ours(next(source.iterdir())) and not is_ours(tmp_path / "none")


@pytest.mark.skipif(not shutil.which("dciodvfy"), reason="dciodvfy is not installed (Debian's dicom3tools)")
def test_the_validator_finds_no_error(answered, lesion, layout):
    out, _, _ = answered(lesion, PLACES["oblique"], layout)
    for path in (out / "segmentation.dcm", out / "outline" / "0001.dcm"):
        done = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True)
        assert "Error" not in done.stdout + done.stderr, done.stdout + done.stderr
