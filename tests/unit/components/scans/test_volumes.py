"""Scans as real archives hold them, and files that are broken or hostile."""

import gzip
import itertools
import os
import pickle
import tracemalloc
import zlib

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from nibabel.orientations import axcodes2ornt, inv_ornt_aff, ornt_transform
from scipy.spatial.transform import Rotation

from components.scans.volumes import BadVolume, nifti_bytes, read, read_nifti_bytes, write

DATA = np.random.default_rng(0).normal(100, 20, (9, 8, 7)).astype(np.float32)
AFFINE = np.array([[2, 0, 0, -90], [0, 2.5, 0, -126], [0, 0, 5, -72], [0, 0, 0, 1.0]])
ORIENTATIONS = [
    "".join(axes)
    for letters in itertools.product("RL", "AP", "SI")
    for axes in itertools.permutations(letters)
]  # fmt: skip


def nifti(data=DATA, affine=AFFINE, **header) -> bytes:
    """An uncompressed NIfTI-1 file; `header` sets fields of it as they are, sensible or not."""
    return nifti_with(nib.Nifti1Image(data, affine), **header)


def nifti_with(image: nib.Nifti1Image, **header) -> bytes:
    raw = bytearray(image.to_bytes())
    for name, value in header.items():
        dtype, at = nib.nifti1.header_dtype.fields[name]
        raw[at : at + dtype.itemsize] = np.asarray(value, dtype.base).tobytes().ljust(dtype.itemsize, b"\0")
    return bytes(raw)


def stored_as(axes: str) -> tuple[np.ndarray, np.ndarray]:
    """DATA, which is RAS, with its axes permuted and flipped to `axes`, and the affine that goes with it."""
    to_stored = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(axes))
    return nib.orientations.apply_orientation(DATA, to_stored), AFFINE @ inv_ornt_aff(to_stored, DATA.shape)


def rotated(degrees, zooms=(2, 2.5, 5), flips=(1, 1, 1)) -> np.ndarray:
    affine = np.diag([1.0, 1, 1, 1])
    affine[:3, :3] = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix() @ np.diag(np.multiply(zooms, flips))
    affine[:3, 3] = (-90, 12, 7)
    return affine


STRAIGHT, TILTED = rotated((0, 0, 0)), rotated((12, 3, 5))


def two_forms(qform=STRAIGHT, sform=TILTED, codes=(1, 4), data=DATA, **header) -> bytes:
    """A file with a qform and an sform of its own and their codes; a code of 0 leaves the form unset."""
    image = nib.Nifti1Image(data, sform)
    image.set_qform(qform, codes[0])
    image.set_sform(sform, codes[1])
    return nifti_with(image, **header)


def seen_by_others(folder, blob: bytes) -> dict:
    """Where ITK, and nibabel by either form, place a file, and the codes of its forms."""
    path = folder / f"{len(list(folder.iterdir()))}.nii"
    path.write_bytes(gzip.decompress(blob) if blob[:2] == b"\x1f\x8b" else blob)
    itk, header = sitk.ReadImage(str(path)), nib.load(path).header
    placed = {"itk": [*itk.GetOrigin(), *itk.GetSpacing(), *itk.GetDirection()], "nibabel": nib.load(path).affine}
    placed |= {form: getattr(header, f"get_{form}")(coded=True)[0] for form in ("qform", "sform")}
    return placed | {"codes": [int(header[f"{form}_code"]) for form in ("qform", "sform")]}


def refused(blob: bytes) -> str:
    with pytest.raises(BadVolume) as error:
        read_nifti_bytes(blob)
    assert "\n" not in str(error.value)
    return str(error.value)


# What is read


@pytest.mark.parametrize("name", ["scan.nii", "scan.nii.gz"])
def test_a_nifti_file_is_read_as_float32(tmp_path, name):
    nib.save(nib.Nifti1Image(DATA, AFFINE), tmp_path / name)
    data, geometry = read(tmp_path / name)
    assert data.dtype == np.float32 and np.array_equal(data, DATA)
    assert geometry.orientation == "RAS" and geometry.voxel_mm == (2, 2.5, 5) and geometry.repairs == ()


def test_a_gzip_file_is_known_by_its_content_not_its_name(tmp_path):
    (tmp_path / "packed.nii").write_bytes(gzip.compress(nifti()))
    (tmp_path / "plain.nii.gz").write_bytes(nifti())
    for path in tmp_path.iterdir():
        assert np.array_equal(read(path)[0], DATA)


def test_a_gzip_file_may_come_in_several_members():
    raw = nifti()
    blob = gzip.compress(raw[:1000]) + gzip.compress(raw[1000:])
    assert np.array_equal(read_nifti_bytes(blob)[0], DATA)


def test_an_npy_file_is_taken_as_it_stands_and_has_no_geometry(tmp_path):
    np.save(tmp_path / "scan.npy", DATA.astype(np.float64))
    data, geometry = read(tmp_path / "scan.npy")
    assert data.dtype == np.float32 and np.array_equal(data, DATA)
    assert geometry.affine is geometry.orientation is geometry.voxel_mm is None
    assert np.array_equal(geometry.native(data), DATA)


def test_a_two_dimensional_npy_file_is_one_slice(tmp_path):
    np.save(tmp_path / "slice.npy", DATA[:, :, 0])
    assert np.array_equal(read(tmp_path / "slice.npy")[0], DATA[:, :, :1])


def test_an_npy_file_in_fortran_order_is_the_same_array(tmp_path):
    np.save(tmp_path / "scan.npy", np.asfortranarray(DATA))
    assert np.array_equal(read(tmp_path / "scan.npy")[0], DATA)


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8"])
@pytest.mark.parametrize("order", "<>")
def test_every_intensity_type_is_read_in_either_byte_order(dtype, order):
    data = np.arange(60).reshape(3, 4, 5).astype(dtype) - (30 if dtype[0] in "if" else 0)
    header = nib.Nifti1Header(endianness=order)
    header.set_data_dtype(dtype)
    blob = nib.Nifti1Image(data, AFFINE, header, dtype=header.get_data_dtype()).to_bytes()
    assert nib.Nifti1Header(blob[:348]).endianness == order
    assert np.array_equal(read_nifti_bytes(blob)[0], data)


@pytest.mark.parametrize("dtype", ["?", "u1", ">i2", "<u8", "f2", ">f4", "f8"])
def test_every_intensity_type_is_read_from_npy(tmp_path, dtype):
    data = (np.arange(60) % 2).reshape(3, 4, 5).astype(dtype)
    np.save(tmp_path / "scan.npy", data)
    assert np.array_equal(read(tmp_path / "scan.npy")[0], data)


@pytest.mark.parametrize(("slope", "intercept"), [(0.25, -10), (-2, 5), (1, 1000), (1, 0)])
def test_the_headers_slope_and_intercept_are_honoured(slope, intercept):
    stored = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    data, _ = read_nifti_bytes(nifti(stored, scl_slope=slope, scl_inter=intercept))
    np.testing.assert_allclose(data, stored * slope + intercept, rtol=1e-6)


@pytest.mark.parametrize("slope", [0, np.nan])
def test_a_slope_of_zero_or_nan_means_none(slope):
    stored = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    assert np.array_equal(read_nifti_bytes(nifti(stored, scl_slope=slope, scl_inter=7))[0], stored)


def test_header_extensions_are_passed_over():
    image = nib.Nifti1Image(DATA, AFFINE)
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"Jane Doe " * 500))
    assert np.array_equal(read_nifti_bytes(image.to_bytes())[0], DATA)


def test_padding_after_the_voxels_is_passed_over():
    for blob in (nifti() + bytes(512), gzip.compress(nifti() + bytes(512))):
        assert np.array_equal(read_nifti_bytes(blob)[0], DATA)


# Orientation


@pytest.mark.parametrize("axes", ORIENTATIONS)
def test_every_orientation_is_brought_to_ras_and_back_exactly(axes):
    stored, affine = stored_as(axes)
    data, geometry = read_nifti_bytes(nifti(stored, affine))
    assert geometry.orientation == axes
    assert np.array_equal(data, DATA)
    np.testing.assert_allclose(geometry.canonical_affine, AFFINE, atol=1e-4)
    assert geometry.voxel_mm == pytest.approx((2, 2.5, 5))
    assert np.array_equal(geometry.native(data), stored)


def test_there_are_48_orientations():
    assert len(set(ORIENTATIONS)) == 48


@pytest.mark.parametrize("flips", [(1, 1, 1), (-1, 1, 1), (1, -1, -1)])
@pytest.mark.parametrize("degrees", [(0, 0, 20), (15, -10, 30), (0, 90, 10), (80, 5, -95), (170, 3, 3)])
def test_a_world_point_of_an_oblique_scan_keeps_its_value(degrees, flips):
    stored_affine = rotated(degrees, flips=flips)
    data, geometry = read_nifti_bytes(nifti(DATA, stored_affine))
    for voxel in [(0, 0, 0), (8, 0, 3), (4, 7, 6), (1, 2, 5)]:
        world = stored_affine @ [*voxel, 1]
        canonical = np.linalg.solve(geometry.canonical_affine, world)[:3]
        assert np.abs(canonical - canonical.round()).max() < 1e-3
        assert data[tuple(canonical.round().astype(int))] == DATA[voxel]
    assert np.array_equal(geometry.native(data), DATA)


@pytest.mark.parametrize("degrees", [(0, 0, 0), (15, -10, 30), (0, 90, 10), (80, 5, -95)])
def test_canonical_is_what_nibabel_calls_closest_to_canonical(degrees):
    blob = nifti(DATA, rotated(degrees, flips=(-1, 1, 1)))
    closest = nib.as_closest_canonical(nib.Nifti1Image.from_bytes(blob))
    data, geometry = read_nifti_bytes(blob)
    assert np.array_equal(data, closest.get_fdata())
    np.testing.assert_allclose(geometry.canonical_affine, closest.affine, atol=1e-6)


@pytest.mark.parametrize("codes", [(0, 1), (1, 0), (1, 1)])
@pytest.mark.parametrize("degrees", list(itertools.product((0, 30, 45, 90, -45, 135), repeat=3))[::5])
def test_a_canonical_volume_reads_as_canonical_again_even_where_axes_tie(degrees, codes, tmp_path):
    for flips in ((1, 1, 1), (-1, 1, 1), (1, -1, -1)):
        affine = rotated(degrees, flips=flips)
        data, geometry = read_nifti_bytes(two_forms(affine, affine, codes))
        write(tmp_path / "canonical.nii.gz", data, geometry.canonical_space)
        again, canonical_geometry = read(tmp_path / "canonical.nii.gz")
        assert canonical_geometry.orientation == "RAS" and np.array_equal(again, data)


def test_the_sform_comes_before_the_qform():
    image = nib.Nifti1Image(DATA, AFFINE)
    image.set_qform(np.diag([-1.0, 1, 1, 1]), code=1)
    assert read_nifti_bytes(image.to_bytes())[1].orientation == "RAS"
    image.set_sform(None, code=0)
    assert read_nifti_bytes(image.to_bytes())[1].orientation == "LAS"


def test_a_header_without_orientation_is_taken_as_las_and_that_is_said():
    data, geometry = read_nifti_bytes(nifti(sform_code=0, qform_code=0))
    assert geometry.orientation == "LAS" and "no orientation in the header" in geometry.repairs[0]
    assert np.array_equal(data, DATA[::-1])


ALONE = {"sform_code": 0, "qform_code": 1}
ROUNDED_UP = {"quatern_b": 0.7071, "quatern_c": 0.70712}


@pytest.mark.parametrize(
    ("header", "quaternion", "said"),
    [
        ({"pixdim": [0, 2, 2.5, 5, 0, 0, 0, 0]}, (0, 0, 0), "qfac (pixdim[0]) is 0 in the header: taken as 1"),
        (ROUNDED_UP, (0.5**0.5, 0.5**0.5, 0), "has length 1.000005 by rounding: made 1"),
        ({"quatern_c": 1 + 5e-7}, (0, 1, 0), "by rounding"),
        ({"quatern_b": 0.57735, "quatern_c": 0.57735, "quatern_d": 0.5774}, (3**-0.5,) * 3, "by rounding"),
    ],
    ids=["qfac 0", "four digits", "the last bit of single precision", "mixed digits"],
)
def test_what_the_standard_or_rounding_explains_is_mended_and_said(tmp_path, header, quaternion, said):
    turn = Rotation.from_quat([*quaternion, max(0, 1 - np.square(quaternion).sum()) ** 0.5]).as_matrix()
    blob = nifti(**ALONE | {"quatern_b": 0, "quatern_c": 0, "quatern_d": 0} | header)
    _, geometry = read_nifti_bytes(blob)
    np.testing.assert_allclose(geometry.affine[:3, :3], turn @ np.diag([2, 2.5, 5]), atol=2e-3)
    assert len(geometry.repairs) == 1 and said in geometry.repairs[0]
    path = tmp_path / "scan.nii"
    path.write_bytes(blob)
    itk = sitk.ReadImage(str(path))
    sides_lps = np.reshape(itk.GetDirection(), (3, 3)) @ np.diag(itk.GetSpacing())
    np.testing.assert_allclose(geometry.affine[:3, :3], np.diag([-1, -1, 1]) @ sides_lps, atol=1e-4)


@pytest.mark.parametrize(
    "header",
    [{"quatern_b": 9}, {"quatern_b": 0.8, "quatern_c": 0.61}, {"quatern_d": np.nan}, {"quatern_b": np.inf},
     {"pixdim": [3, 2, 2.5, 5, 0, 0, 0, 0]}, {"pixdim": [np.nan, 2, 2.5, 5, 0, 0, 0, 0]}],
)  # fmt: skip
def test_a_qform_that_is_no_rotation_is_refused_where_it_counts_alone(header):
    assert "not a rotation" in refused(nifti(**ALONE | header))
    assert read_nifti_bytes(nifti(qform_code=1, **header))[1].orientation == "RAS"


def test_a_qform_that_is_a_rotation_but_for_single_precision_needs_no_word():
    for degrees in [(0, 0, 0), (0, 0, 180), (15, -10, 30), (80, 5, -95), (180, 0, 0)]:
        image = nib.Nifti1Image(DATA, rotated(degrees))
        image.set_qform(rotated(degrees), 1)
        image.set_sform(None, 0)
        assert read_nifti_bytes(image.to_bytes())[1].repairs == ()


@pytest.mark.parametrize(("degrees", "apart"), [(0, None), (0.05, None), (0.5, "0.3 mm"), (20, "12.1 mm")])
def test_two_forms_are_told_by_the_millimetres_between_them_at_the_corners(degrees, apart):
    """30 mm from the first voxel to the farthest edge, which a small turn about its first axis moves."""
    straight, turned = np.diag([2.0, 2.5, 5.0, 1.0]), np.eye(4)
    turned[:3, :3] = Rotation.from_euler("x", degrees, degrees=True).as_matrix()
    repairs = read_nifti_bytes(two_forms(straight, turned @ straight))[1].repairs
    far = 2 * np.hypot(17.5, 30) * np.sin(np.radians(degrees) / 2)
    assert (apart is None) == (far < 0.1)
    said = f"two places for the scan, up to {far:.1f} mm apart: that of the sform taken"
    assert repairs == () if apart is None else (said in repairs[0] and len(repairs) == 1)
    if apart:
        assert apart in repairs[0]


# Shapes


def test_a_trailing_axis_of_one_is_dropped_said_and_restored():
    data, geometry = read_nifti_bytes(nifti(DATA[..., None]))
    assert data.shape == (9, 8, 7) and geometry.repairs == ("dropped a trailing axis of length one",)
    assert geometry.native(data).shape == (9, 8, 7, 1)


def test_a_trailing_axis_of_one_is_dropped_from_npy_too(tmp_path):
    np.save(tmp_path / "scan.npy", DATA[..., None])
    data, geometry = read(tmp_path / "scan.npy")
    assert np.array_equal(data, DATA) and geometry.native(data).shape == (9, 8, 7, 1)


@pytest.mark.parametrize("shape", [(6, 6), (6, 6, 3, 2), (6, 6, 3, 1, 2), (6,)])
def test_any_other_number_of_axes_is_refused(shape):
    assert "is not a 3-D volume" in refused(nifti(np.zeros(shape, np.float32)))


@pytest.mark.parametrize("shape", [(6, 6, 3, 2), (6,), (), (6, 6, 1, 1, 1)])
def test_any_other_number_of_axes_is_refused_from_npy(tmp_path, shape):
    np.save(tmp_path / "scan.npy", np.zeros(shape, np.float32))
    with pytest.raises(BadVolume, match="is not a 3-D volume"):
        read(tmp_path / "scan.npy")


def test_an_empty_array_is_refused(tmp_path):
    np.save(tmp_path / "scan.npy", np.zeros((6, 0, 6), np.float32))
    with pytest.raises(BadVolume):
        read(tmp_path / "scan.npy")


# Types that hold no intensities


@pytest.mark.parametrize(
    "dtype", [np.complex64, np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])], ids=["complex", "RGB"]
)
def test_a_nifti_type_that_is_no_intensity_is_refused(dtype):
    assert "holds no intensities" in refused(nib.Nifti1Image(np.zeros((3, 4, 5), dtype), AFFINE).to_bytes())


@pytest.mark.parametrize("dtype", [np.complex64, np.dtype([("a", "f4"), ("b", "f4")]), "U5", "M8[s]"])
def test_an_npy_type_that_is_no_intensity_is_refused(tmp_path, dtype):
    np.save(tmp_path / "scan.npy", np.zeros((3, 4, 5), dtype))
    with pytest.raises(BadVolume, match="holds no intensities"):
        read(tmp_path / "scan.npy")


class Bomb:
    """Leaves a trace where it is unpickled."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("how", ["object array", "bare pickle", "npz"])
def test_a_pickle_in_an_npy_file_is_refused_and_never_run(tmp_path, how):
    trace, path = tmp_path / "it ran", tmp_path / "scan.npy"
    array = np.array([Bomb(trace)], dtype=object)
    with path.open("wb") as file:
        if how == "npz":
            np.savez(file, a=array)
        else:
            pickle.dump(array, file) if how == "bare pickle" else np.save(file, array, allow_pickle=True)
    with pytest.raises(BadVolume):
        read(path)
    assert not trace.exists()


def test_the_pickle_of_that_test_would_have_run(tmp_path):
    pickle.loads(pickle.dumps(Bomb(tmp_path / "it ran")))
    assert (tmp_path / "it ran").exists()


# Geometry that cannot be


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_affine_that_is_not_finite_is_refused(value):
    assert "not finite" in refused(nifti(srow_x=[2, 0, 0, value]))


@pytest.mark.parametrize(
    "rows",
    [{"srow_x": [0, 0, 0, 0]}, {"srow_x": [2, 2.5, 0, 0], "srow_y": [0, 0, 0, 0]}],
    ids=["an axis without length", "two parallel axes"],
)
def test_a_singular_affine_is_refused(rows):
    assert "singular" in refused(nifti(**rows))


@pytest.mark.parametrize("zooms", [(0.01, 2, 5), (2, 2, 200), (2000, 2000, 5000)])
def test_an_absurd_voxel_size_is_refused(zooms):
    assert "is not that of a brain scan" in refused(nifti(DATA, np.diag([*zooms, 1])))


# Broken and hostile files


@pytest.mark.parametrize(
    "content", [b"", b"\x1f\x8b", b"not a scan", b"\0" * 352, np.random.default_rng(0).bytes(2000)]
)
def test_what_is_no_nifti_is_refused(content):
    refused(content)
    refused(gzip.compress(content))


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"not a scan", b"PK\x03\x04 not a zip"])
def test_what_is_no_npy_is_refused(tmp_path, content):
    (tmp_path / "scan.npy").write_bytes(content)
    with pytest.raises(BadVolume):
        read(tmp_path / "scan.npy")


def test_a_header_of_another_format_is_refused():
    refused(nifti(magic=b"\0\0\0\0"))  # Analyze 7.5: left and right are anyone's guess
    refused(nifti(magic=b"ni1\0"))  # its voxels are in another file
    refused(nib.Nifti2Image(DATA, AFFINE).to_bytes())


@pytest.mark.parametrize("lost", [1, 8, 9, 100, 500])
def test_a_truncated_gzip_file_is_refused(lost):
    assert "cut short" in refused(gzip.compress(nifti())[:-lost])


def test_a_truncated_plain_file_is_refused():
    assert "cut short" in refused(nifti()[:-1])


def test_a_truncated_npy_file_is_refused(tmp_path):
    np.save(tmp_path / "scan.npy", DATA)
    (tmp_path / "scan.npy").write_bytes((tmp_path / "scan.npy").read_bytes()[:-1])
    with pytest.raises(BadVolume):
        read(tmp_path / "scan.npy")


def test_a_flipped_bit_in_a_gzip_file_never_passes_as_another_scan():
    blob = gzip.compress(nifti())
    for at in range(20, len(blob) - 8, 23):
        damaged = bytearray(blob)
        damaged[at] ^= 16
        try:
            assert np.array_equal(read_nifti_bytes(bytes(damaged))[0], DATA)
        except BadVolume:
            continue


def test_a_header_that_promises_more_voxels_than_there_are_is_refused():
    for blob in (nifti(dim=[3, 9, 8, 70, 1, 1, 1, 1]), gzip.compress(nifti(dim=[3, 9, 8, 70, 1, 1, 1, 1]))):
        assert "cut short" in refused(blob)


def test_a_header_that_promises_fewer_voxels_than_there_are_is_refused():
    raw = nifti(np.tile(DATA, (3, 3, 3)), dim=[3, 9, 8, 7, 1, 1, 1, 1])
    for blob in (raw, gzip.compress(raw)):
        assert "more than" in refused(blob)


def test_a_header_that_promises_more_voxels_than_any_brain_scan_is_refused_before_they_are_read():
    assert "is not that of a brain scan" in refused(nifti(dim=[3, 32767, 32767, 32767, 1, 1, 1, 1]))


@pytest.mark.parametrize("dim", [[3, -9, 8, 7, 1, 1, 1, 1], [3, 0, 8, 7, 1, 1, 1, 1], [0] * 8, [99] * 8, [-3] * 8])
def test_impossible_dimensions_are_refused(dim):
    refused(nifti(dim=dim))


@pytest.mark.parametrize("offset", [np.nan, np.inf, -np.inf, 1e30, 1e9])
def test_an_impossible_place_of_the_voxels_is_refused(offset):
    refused(nifti(vox_offset=offset))


@pytest.mark.parametrize("code", [0, 1, 999, -1])
def test_an_unknown_data_type_is_refused(code):
    refused(nifti(datatype=code))


def test_an_intercept_that_is_not_finite_is_refused():
    refused(nifti(scl_slope=1, scl_inter=np.nan))


def gzip_bomb(head: bytes, megabytes: int = 200) -> bytes:
    packer = zlib.compressobj(level=9, wbits=31)
    return packer.compress(head) + b"".join(packer.compress(bytes(1 << 20)) for _ in range(megabytes)) + packer.flush()


@pytest.mark.parametrize("header", [{}, {"vox_offset": 1e9}], ids=["honest header", "header that lies about the start"])
def test_a_gzip_bomb_is_refused_before_it_unfolds(header):
    bomb = gzip_bomb(nifti(**header))
    assert len(bomb) < 1e6
    tracemalloc.start()
    refused(bomb)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20e6


# What is written


def test_what_is_written_reads_back_with_its_geometry(tmp_path):
    write(tmp_path / "scan.nii.gz", DATA, AFFINE)
    data, geometry = read(tmp_path / "scan.nii.gz")
    assert np.array_equal(data, DATA) and np.array_equal(geometry.affine, AFFINE)
    assert [p.name for p in tmp_path.iterdir()] == ["scan.nii.gz"]


def test_others_read_it_in_millimetres_with_its_own_type(tmp_path):
    write(tmp_path / "mask.nii.gz", (DATA > 100).astype(np.uint8), AFFINE)
    image = nib.load(tmp_path / "mask.nii.gz")
    assert image.get_data_dtype() == np.uint8 and image.header.get_xyzt_units()[0] == "mm"
    assert np.array_equal(image.dataobj, DATA > 100) and np.array_equal(image.affine, AFFINE)


@pytest.mark.parametrize("codes", [(1, 4), (2, 1), (1, 1), (1, 0), (0, 1), (0, 3), (0, 0)])
@pytest.mark.parametrize("data", [DATA, DATA[..., None]], ids=["3-D", "with a trailing axis"])
@pytest.mark.parametrize("flips", [(1, 1, 1), (-1, 1, 1), (1, -1, -1)])
def test_other_programs_place_a_mask_where_they_place_its_scan(tmp_path, codes, data, flips):
    """By whichever form they go: forms that differ, as SPM leaves them, only one of them, or neither."""
    scan = two_forms(rotated((0, 5, 90), flips=flips), rotated((12, 5, 88), flips=flips), codes, data)
    volume, geometry = read_nifti_bytes(scan)
    mask = nifti_bytes(geometry.native((volume > 100).astype(np.uint8)), geometry.space)
    itself, other = seen_by_others(tmp_path, scan), seen_by_others(tmp_path, mask)
    assert itself["codes"] == other["codes"] == list(codes)
    for program, place in itself.items():
        assert (place is None) == (other[program] is None)
        assert place is None or np.array_equal(place, other[program])
    assert np.array_equal(nib.Nifti1Image.from_bytes(gzip.decompress(mask)).dataobj, data > 100)


@pytest.mark.parametrize("header", [{"xyzt_units": 1}, {"xyzt_units": 0}, {"pixdim": [1, 1, 1, 1, 0, 0, 0, 0]}])
def test_a_mask_has_its_scans_unit_and_stated_sides_for_other_programs_go_by_them(tmp_path, header):
    scan = two_forms(**header)
    volume, geometry = read_nifti_bytes(scan)
    mask = nifti_bytes(geometry.native(volume), geometry.space)
    assert seen_by_others(tmp_path, scan)["itk"] == seen_by_others(tmp_path, mask)["itk"]


@pytest.mark.parametrize("header", [{"pixdim": [0, 2, 2.5, 5, 0, 0, 0, 0], **ALONE}, {**ALONE, **ROUNDED_UP}])
def test_of_a_mended_scan_the_mask_has_the_mended_header_which_all_programs_take(tmp_path, header):
    volume, geometry = read_nifti_bytes(nifti(**header))
    (tmp_path / "scan.nii").write_bytes(nifti(**header))
    itk = sitk.ReadImage(str(tmp_path / "scan.nii"))
    mask = seen_by_others(tmp_path, nifti_bytes(geometry.native(volume), geometry.space))
    np.testing.assert_allclose(mask["itk"], [*itk.GetOrigin(), *itk.GetSpacing(), *itk.GetDirection()], atol=1e-5)
    np.testing.assert_allclose(mask["nibabel"], geometry.affine, atol=1e-5)


@pytest.mark.parametrize("codes", [(1, 4), (2, 1), (1, 0), (0, 3)])
@pytest.mark.parametrize("axes", ["RAS", "LPS", "PIL", "SAR"])
def test_a_canonical_volume_carries_both_forms_turned_alike(tmp_path, axes, codes):
    stored, sform = stored_as(axes)
    tilt = np.eye(4)
    tilt[:3, :3], tilt[:3, 3] = Rotation.from_euler("x", 12, degrees=True).as_matrix(), (3, 8, -6)
    volume, geometry = read_nifti_bytes(two_forms(tilt @ sform, sform, codes, stored))
    written = seen_by_others(tmp_path, nifti_bytes(volume, geometry.canonical_space))
    assert written["codes"] == list(codes)
    for form, code, affine in zip(("qform", "sform"), codes, (tilt @ AFFINE, AFFINE), strict=True):
        assert (written[form] is None) == (code == 0)
        assert code == 0 or np.abs(written[form] - affine).max() < 1e-3


def test_the_same_scan_is_written_as_the_same_bytes(monkeypatch):
    first = nifti_bytes(DATA, AFFINE)
    monkeypatch.setattr("time.time", lambda: 2e9)
    assert nifti_bytes(np.asfortranarray(DATA), AFFINE.copy()) == first


def test_free_text_of_the_header_is_not_in_what_is_written():
    image = nib.Nifti1Image(DATA, AFFINE)
    for field in ("descrip", "aux_file", "db_name", "intent_name"):
        image.header[field] = b"DOE^JANE"
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"DOE^JANE 180654.605"))
    blob = image.to_bytes()
    assert blob.count(b"DOE^JANE") == 5

    data, geometry = read_nifti_bytes(blob)
    written = gzip.decompress(nifti_bytes(data, geometry.canonical_affine))
    assert b"DOE" not in written and len(written) == 352 + DATA.nbytes
    header = nib.Nifti1Header(written[:348])
    assert all(not header[field].item() for field in ("descrip", "aux_file", "db_name", "intent_name"))


def test_a_link_where_the_part_goes_is_not_followed(tmp_path):
    (tmp_path / "theirs").write_text("theirs")
    (tmp_path / "m.nii.gz.part").symlink_to(tmp_path / "theirs")
    write(tmp_path / "m.nii.gz", DATA, AFFINE)
    assert (tmp_path / "theirs").read_text() == "theirs"
    assert np.array_equal(read(tmp_path / "m.nii.gz")[0], DATA)
