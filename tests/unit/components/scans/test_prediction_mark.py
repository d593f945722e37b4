"""The mark of a prediction: it survives what other programs do to a file, and a changed voxel breaks it."""

import gzip
import shutil

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from components.scans.prediction_mark import PROBABILITY, digest, in_header, mark_of_mask, read_mark, stamped
from components.scans.volumes import nifti_bytes, read

AFFINE = np.diag([-2.0, 2.0, 5.0, 1.0])


@pytest.fixture
def mask(make_scan):
    return make_scan()[2]


@pytest.fixture
def predicted(tmp_path, mask):
    """A mask as a model writes it."""
    path = tmp_path / "mask.nii.gz"
    path.write_bytes(nifti_bytes(mask, AFFINE, mark_of_mask(mask)))
    return path


def as_nibabel_saves(source, target):
    image = nib.load(source)
    nib.save(nib.Nifti1Image(image.get_fdata(), image.affine, image.header), target)


def as_nibabel_turns(source, target):
    nib.save(nib.as_closest_canonical(nib.load(source)), target)


def as_itk_saves(source, target):
    sitk.WriteImage(sitk.ReadImage(source), target)


@pytest.mark.parametrize("tool", [shutil.copy, as_nibabel_saves, as_nibabel_turns, as_itk_saves])
def test_a_copy_by_another_program_is_still_known(tmp_path, predicted, mask, tool):
    copy = tmp_path / "copy.nii.gz"
    tool(predicted, copy)
    assert read_mark(copy).digest == digest(read(copy)[0]) == digest(mask)
    assert np.array_equal(read(copy)[0], mask[::-1])


@pytest.mark.parametrize("turn", [(0, 2, 1), (1, 0, 2), (2, 0, 1)])
@pytest.mark.parametrize("flips", [(), (0,), (1, 2), (0, 1, 2)])
def test_the_digest_does_not_depend_on_the_order_of_axes_nor_on_the_type(mask, turn, flips):
    assert digest(np.flip(mask, flips).transpose(turn).astype(np.float64)) == digest(mask)


def test_one_changed_voxel_is_another_digest(mask):
    for at in (np.argwhere(mask)[0], np.argwhere(mask == 0)[7]):
        changed = mask.copy()
        changed[tuple(at)] ^= 1
        assert digest(changed) != digest(mask)


def test_an_array_has_no_mark_and_neither_has_what_is_no_scan(tmp_path, mask):
    np.save(tmp_path / "mask.npy", mask)
    (tmp_path / "text.nii").write_text("no scan")
    (tmp_path / "cut.nii.gz").write_bytes(gzip.compress(bytes(400))[:15])
    (tmp_path / "plain.nii").write_bytes(gzip.decompress(nifti_bytes(mask, AFFINE)))
    for name in ("mask.npy", "text.nii", "cut.nii.gz", "plain.nii", "gone.nii"):
        assert read_mark(tmp_path / name) is None


def test_probabilities_say_what_they_are_and_have_no_digest(tmp_path, mask):
    path = tmp_path / "p.nii.gz"
    path.write_bytes(nifti_bytes(mask.astype(np.float32), AFFINE, PROBABILITY))
    assert read_mark(path).text == PROBABILITY and read_mark(path).digest is None


def test_a_file_is_stamped_once_and_nothing_else_of_it_changes(mask):
    plain = nifti_bytes(mask, AFFINE)
    once = stamped(plain, mark_of_mask(mask))
    assert in_header(gzip.decompress(once)) == in_header(gzip.decompress(nifti_bytes(mask, AFFINE, mark_of_mask(mask))))
    assert stamped(once, PROBABILITY) == once and gzip.decompress(once)[228:] == gzip.decompress(plain)[228:]


def test_free_text_is_no_mark():
    for text in (b"", b"TE=89;Time=1", b"dwi-stroke mask Somchai", b"dwi-stroke mask " + b"0" * 32 + b" Somchai"):
        assert in_header(bytes(148) + text.ljust(80, b"\0") + bytes(120)) is None
