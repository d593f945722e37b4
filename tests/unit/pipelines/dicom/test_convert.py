"""A volume of DICOM images becomes the same volume in NIfTI: each voxel at its place, in every packing."""

from importlib.util import find_spec

import nibabel as nib
import numpy as np
import pytest
from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless, JPEGLSLossless

from components.scans.geometry import BadVolume
from components.scans.volumes import read_nifti_bytes
from pipelines.dicom import convert as convert_module
from pipelines.dicom.choose import choose
from pipelines.dicom.convert import ADC, B0, DWI, SIDECAR_NAME, convert
from pipelines.dicom.headers import read_series
from tests.support.dicom_studies import PLANTED, SeriesOptions, Study, write_enhanced, write_series
from tests.support.planted import unpacked, written

VOXELS = np.random.default_rng(0).integers(0, 4000, (20, 18, 6)).astype(np.uint16)
NEEDS_ENCODER = pytest.mark.skipif(not find_spec("jpeg_ls"), reason="pyjpegls is not installed (Python 3.14)")
SYNTAXES = [ExplicitVRLittleEndian, pytest.param(JPEGLSLossless, marks=NEEDS_ENCODER), JPEG2000Lossless]


def affine(degrees: float, last_axis: float, order=(0, 1, 2)) -> np.ndarray:
    turned = nib.eulerangles.euler2mat(np.radians(degrees), np.radians(degrees / 2))
    whole = np.eye(4)
    whole[:3, :3] = (turned @ np.diag([-1.9, -2.1, last_axis]))[:, order]
    whole[:3, 3] = 18, 16, -12
    return whole


PLACES = {
    "axial": affine(0, 5),
    "oblique": affine(25, 5),
    "feet first": affine(0, -5),
    "oblique, feet first": affine(-17, -5),
    "sagittal": affine(0, 5, (1, 2, 0)),
    "coronal": affine(0, 5, (0, 2, 1)),
}


def converted(folder):
    series, *_ = read_series(path for path in sorted(folder.rglob("*")) if path.is_file())
    return convert(choose(series))


def same_places(nifti: bytes, voxels: np.ndarray, place: np.ndarray) -> bool:
    """Return whether a NIfTI file has each voxel of an array at its place."""
    image, geometry = read_nifti_bytes(nifti)
    expected = nib.as_closest_canonical(nib.Nifti1Image(voxels.astype(np.float32), place))
    assert np.allclose(geometry.canonical_affine, expected.affine, atol=1e-3)
    return np.array_equal(image, expected.get_fdata())


@pytest.mark.sampled(4)
@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_files_of_one_image(tmp_path, place, syntax):
    study = Study()
    write_series(tmp_path / "a", VOXELS, place, study, number=4, syntax=syntax)
    write_series(tmp_path / "b", VOXELS // 2, place, study, number=5, kind="adc", syntax=syntax)
    files = converted(tmp_path).files
    assert same_places(files[DWI], VOXELS, place) and same_places(files[ADC], VOXELS // 2, place)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_frames_of_one_file(tmp_path, place, syntax):
    volumes = [
        (VOXELS // 2, SeriesOptions(kind="b0", syntax=syntax)),
        (VOXELS // 3, SeriesOptions(kind="direction")),
        (VOXELS, SeriesOptions()),
    ]
    write_enhanced(tmp_path / "file", volumes, place, Study())
    files = converted(tmp_path).files
    assert same_places(files[DWI], VOXELS, place) and same_places(files[B0], VOXELS // 2, place)
    assert files[SIDECAR_NAME] == b'{"DiffusionBValue": 1000.0}'


@pytest.mark.parametrize("layout", ["classic", "enhanced"])
def test_the_slope_of_the_values_is_taken_over(tmp_path, layout):
    options = SeriesOptions(slope=0.5, intercept=-3)
    if layout == "classic":
        write_series(tmp_path, VOXELS, PLACES["axial"], Study(), options)
    else:
        write_enhanced(tmp_path / "file", [(VOXELS, options)], PLACES["axial"], Study())
    image, _ = read_nifti_bytes(converted(tmp_path).files[DWI])
    assert np.allclose(np.sort(image.ravel()), np.sort(VOXELS.ravel() * 0.5 - 3))


def test_an_adc_map_of_philips_keeps_its_unit(tmp_path):
    study, options = Study(), {"slope": 0.5, "intercept": 3, "philips_scale": 0.02}
    write_series(tmp_path / "a", VOXELS, PLACES["axial"], study, number=4, vendor="philips")
    write_series(tmp_path / "b", VOXELS, PLACES["axial"], study, number=5, kind="adc", **options)
    image, _ = read_nifti_bytes(converted(tmp_path).files[ADC])
    assert np.allclose(np.sort(image.ravel()), np.sort(VOXELS.ravel() * 0.5 + 3))


def test_an_adc_map_with_other_values_than_its_headers_is_refused(tmp_path, monkeypatch):
    study = Study()
    write_series(tmp_path / "a", VOXELS, PLACES["axial"], study, number=4)
    write_series(tmp_path / "b", VOXELS, PLACES["axial"], study, number=5, kind="adc", slope=0.5)
    real = convert_module.read
    monkeypatch.setattr(convert_module, "read", lambda path: (real(path)[0] * 1.01, real(path)[1]))
    with pytest.raises(BadVolume, match="other values than its headers"):
        converted(tmp_path)


@pytest.mark.parametrize(
    ("scales", "taken"), [((0.02, 0.02), True), ((0.02, 0.04), True), ((0.02, 0), False), ((0, 0), False)]
)
def test_a_b0_of_philips_is_taken_if_its_scale_is_known(tmp_path, scales, taken):
    study, kinds = Study(), ("trace", "b0")
    for number, (kind, scale, slope) in enumerate(zip(kinds, scales, (0.5, 0.25), strict=True)):
        options = {"vendor": "philips", "says_direction": kind == "trace", "slope": slope, "philips_scale": scale}
        write_series(tmp_path / kind, VOXELS, PLACES["axial"], study, number=number, kind=kind, **options)
    result = converted(tmp_path)
    assert (B0 in result.files) == (SIDECAR_NAME in result.files) == (result.chosen.b0 is not None) == taken
    assert taken or "scaled otherwise than the DWI's" in result.chosen.notes[-1]
    if taken:
        dwi, b0 = (read_nifti_bytes(result.files[name])[0] for name in (DWI, B0))
        assert np.allclose(b0 * scales[1], dwi * scales[0], rtol=1e-4)


def test_no_identifier_is_in_the_files(tmp_path):
    write_series(tmp_path, VOXELS, PLACES["axial"], Study())
    for content in converted(tmp_path).files.values():
        for raw in unpacked(content):
            assert not [word for word in PLANTED for way in written(word) if way in raw.lower()]


@pytest.mark.parametrize("layout", ["classic", "enhanced"])
def test_pixels_that_are_cut_short_are_refused(tmp_path, layout):
    if layout == "classic":
        path = write_series(tmp_path, VOXELS, PLACES["axial"], Study())[3]
    else:
        path = write_enhanced(tmp_path / "file", [(VOXELS, SeriesOptions())], PLACES["axial"], Study())
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(BadVolume, match=r"(E|e)xport"):
        converted(tmp_path)


def test_images_in_another_order_are_refused(tmp_path, monkeypatch):
    write_series(tmp_path, VOXELS, PLACES["axial"], Study())
    real = convert_module.read
    monkeypatch.setattr(convert_module, "read", lambda path: (real(path)[0][:, :, ::-1], real(path)[1]))
    with pytest.raises(BadVolume, match="another order"):
        converted(tmp_path)
