"""What is left of a scan's file: the voxels and where they lie, to the bit, and not a word more."""

import gzip
import io

import nibabel as nib
import numpy as np
import pytest
from nibabel.nifti1 import Nifti1Extension

from components.scans.prediction_mark import mark_of_mask
from components.scans.volumes import BadVolume, read
from pipelines.strip_header import stripped

NAME = "SOMCHAI^JAIDEE"
TEXTS = {"descrip": 80, "aux_file": 24, "intent_name": 16, "db_name": 18, "data_type": 10}


def telling(data: np.ndarray, affine=None, swapped: bool = False) -> nib.Nifti1Image:
    """An image whose header says in every place that takes a word or a time who was scanned, and when."""
    header = nib.Nifti1Header(endianness=">" if swapped else "<")
    image = nib.Nifti1Image(data, np.diag([2.0, -2.0, 5.0, 1.0]) if affine is None else affine, header)
    image.header.set_data_dtype(data.dtype)
    for field, length in TEXTS.items():
        image.header[field] = NAME[:length].encode()
    image.header["toffset"], image.header["slice_duration"] = 20240131.0, 83112.0
    image.header["extents"], image.header["session_error"], image.header["glmax"] = 19560412, 4711, 1200
    image.header["pixdim"][4:] = 83112
    image.header.extensions.append(Nifti1Extension("comment", NAME.encode()))
    return image


def stored(tmp_path, image, name="a.nii.gz"):
    path = tmp_path / name
    nib.save(image, path)
    return path


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32, np.float64])
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("swapped", [False, True])
def test_voxels_and_geometry_stay_to_the_bit_and_no_word_stays(tmp_path, make_scan, dtype, name, swapped):
    path = stored(tmp_path, telling(make_scan()[0].astype(dtype), swapped=swapped), name)
    content = stripped(path)
    assert content[:2] == b"\x1f\x8b" if name.endswith("gz") else content[344:348] == b"n+1\0"
    clean = tmp_path / f"clean-{name}"
    clean.write_bytes(content)
    (before, old), (after, new) = read(path), read(clean)
    assert np.array_equal(before, after)
    assert np.array_equal(old.affine, new.affine) and (old.shape, old.repairs) == (new.shape, new.repairs)
    raw = gzip.decompress(content) if name.endswith("gz") else content
    assert NAME[:8].encode() not in raw and NAME.encode() not in content
    header = nib.Nifti1Header.from_fileobj(io.BytesIO(raw))
    assert [header[f].item() for f in ("toffset", "slice_duration", "extents", "session_error", "glmax")] == [0] * 5
    assert (header["pixdim"][4:] == 1).all() and len(raw) == 352 + before.size * np.dtype(dtype).itemsize


def test_scaling_a_trailing_axis_and_a_missing_orientation_stay_what_they_are(tmp_path, make_scan):
    image = telling(make_scan()[0][..., None].astype(np.int16))
    image.header.set_slope_inter(0.5, -3)
    image.header["sform_code"] = image.header["qform_code"] = 0
    path = stored(tmp_path, image)
    clean = tmp_path / "clean.nii.gz"
    clean.write_bytes(stripped(path))
    (before, old), (after, new) = read(path), read(clean)
    assert np.array_equal(before, after) and (old.shape, old.repairs) == (new.shape, new.repairs)


@pytest.mark.parametrize(
    ("unused", "fields"),
    [
        ("sform_code", ("srow_x", "srow_y", "srow_z")),
        ("qform_code", ("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z")),
    ],
)
def test_words_in_a_form_that_the_header_calls_unused_go(tmp_path, make_scan, unused, fields):
    image = telling(make_scan()[0])
    image.set_qform(image.affine, 1)
    image.set_sform(image.affine, 1)
    image.header[unused] = 0
    raw = bytearray(image.to_bytes())
    for name in fields:
        kind, at = nib.nifti1.header_dtype.fields[name]
        raw[at : at + kind.itemsize] = NAME.encode()[:4].ljust(4) * (kind.itemsize // 4)
    path = tmp_path / "a.nii"
    path.write_bytes(raw)
    clean = tmp_path / "clean.nii"
    clean.write_bytes(stripped(path))
    assert NAME.encode()[:4] in path.read_bytes() and NAME.encode()[:4] not in clean.read_bytes()
    (before, old), (after, new) = read(path), read(clean)
    assert np.array_equal(before, after) and np.array_equal(old.affine, new.affine)


@pytest.mark.parametrize("codes", [(1, 4), (1, 0), (0, 1)])
def test_both_forms_and_their_codes_stay(tmp_path, make_scan, codes):
    image = telling(make_scan()[0])
    turned = np.array([[1, 0, 0, 3], [0, 0.96, -0.28, 8], [0, 0.28, 0.96, -6], [0, 0, 0, 1]]) @ image.affine
    image.set_qform(image.affine, codes[0])
    image.set_sform(turned, codes[1])
    path, clean = stored(tmp_path, image), tmp_path / "clean.nii.gz"
    clean.write_bytes(stripped(path))
    before, after = (nib.load(p).header for p in (path, clean))
    fields = [f for code, form in zip(codes, (("quatern_b", "quatern_c", "quatern_d", "qoffset_y"), ("srow_y",)),
                                      strict=True) if code for f in form]  # fmt: skip
    assert all(np.array_equal(before[field], after[field]) for field in ("qform_code", "sform_code", *fields))
    assert (int(after["qform_code"]), int(after["sform_code"])) == codes
    assert read(clean)[1].repairs == read(path)[1].repairs


def test_what_gzip_says_of_a_file_and_what_lies_behind_the_voxels_go_too(tmp_path, make_scan):
    raw = telling(make_scan()[0]).to_bytes() + NAME.encode()
    path = tmp_path / "a.nii.gz"
    with path.open("wb") as file, gzip.GzipFile(f"{NAME}.nii", "wb", fileobj=file, mtime=1706659200) as packed:
        packed.write(raw)
    content = stripped(path)
    assert NAME.encode() not in content and NAME.encode() not in gzip.decompress(content)
    assert content[3] == 0 and content[4:8] == bytes(4)  # no name, no time


@pytest.mark.parametrize("order", ["C", "F"])
def test_an_array_keeps_its_values_and_loses_what_its_header_is_padded_with(tmp_path, make_scan, order):
    data, path = np.asarray(make_scan()[0], order=order), tmp_path / "a.npy"
    np.save(path, data)
    length = len(path.read_bytes()) - data.nbytes
    path.write_bytes(path.read_bytes()[: length - 25] + f" # {NAME}".ljust(24).encode() + b"\n" + data.tobytes(order))
    assert NAME.encode() in path.read_bytes() and np.array_equal(np.load(path), data)
    content = stripped(path)
    assert NAME.encode() not in content
    assert np.array_equal(np.load(io.BytesIO(content)), data)


@pytest.mark.parametrize("name", ["a.nii.gz", "a.npy"])
def test_what_is_no_scan_has_no_bare_content_and_the_reason_quotes_nothing_of_it(tmp_path, name):
    path = tmp_path / name
    said = (
        b"{'SOMCHAI^JAIDEE': 1}",
        b"'SOMCHAI^JAIDEE'",
        b"{'descr': 'SOMCHAI^JAIDEE', 'fortran_order': 1, 'shape': 3}",
    )
    headers = [b"\x93NUMPY\x01\x00\x76\x00" + header.ljust(117) + b"\n" for header in said]
    for content in (b"", NAME.encode(), b"\x1f\x8b" + NAME.encode(), *headers):
        path.write_bytes(content)
        with pytest.raises(BadVolume) as reason:
            stripped(path)
        assert NAME not in str(reason.value) and str(tmp_path) not in str(reason.value)


@pytest.mark.parametrize("array", [
    np.zeros((4, 4, 4), [("SOMCHAI^JAIDEE", "f4")]), np.array([[["SOMCHAI^JAIDEE"]]]),
    np.array([[[b"SOMCHAI^JAIDEE"]]], object),
])  # fmt: skip
def test_a_reason_names_no_field_of_an_array(tmp_path, array):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(BadVolume) as reason:
        stripped(tmp_path / "a.npy")
    assert NAME not in str(reason.value)


def test_the_same_file_has_the_same_bare_content_whenever_it_was_written(tmp_path, make_scan):
    paths = [stored(tmp_path, telling(make_scan()[0]), name) for name in ("a.nii.gz", "b.nii.gz")]
    assert stripped(paths[0]) == stripped(paths[1])


def test_the_mark_of_a_prediction_stays_and_nothing_that_only_looks_like_it(tmp_path, make_scan):
    image = telling(make_scan()[2])
    for text, kept in ((mark_of_mask(make_scan()[2]), True), (f"dwi-stroke mask {NAME}", False)):
        image.header["descrip"] = text
        content = gzip.decompress(stripped(stored(tmp_path, image)))
        assert (text.encode() in content) is kept and NAME.encode() not in content
