"""What is DICOM, by its first bytes: also a data set without the header of a file."""

import io
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from components.scans.volumes import nifti_bytes
from pipelines.dicom.dicom_files import is_archive, is_dicom, lacks_file_header
from tests.support.dicom_studies import Study, write_series


@pytest.fixture
def file(tmp_path) -> Path:
    return write_series(tmp_path, np.ones((8, 8, 2), np.uint16), np.eye(4), Study())[0]


def test_a_whole_file(file):
    assert is_dicom(file) and not lacks_file_header(file)


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian])
@pytest.mark.parametrize("first", ["SpecificCharacterSet", "ImageType", "SOPClassUID", "StudyDate"])
def test_a_data_set_without_the_header_of_a_file(file, first, syntax):
    data, out = pydicom.dcmread(file), io.BytesIO()
    data.SpecificCharacterSet = "ISO_IR 192"
    data.ImageType = ["ORIGINAL"]
    for element in [e for e in data if e.tag < pydicom.tag.Tag(first)]:
        del data[element.tag]
    implicit, little = syntax == ImplicitVRLittleEndian, syntax != ExplicitVRBigEndian
    if not little:
        del data.PixelData
    pydicom.dcmwrite(out, data[:0x00090000], implicit_vr=implicit, little_endian=little)
    file.write_bytes(out.getvalue())
    assert is_dicom(file) and lacks_file_header(file)


def test_a_file_that_lost_its_first_132_bytes(file):
    file.write_bytes(file.read_bytes()[132:])
    assert is_dicom(file) and lacks_file_header(file)


@pytest.mark.parametrize(
    "content",
    [
        nifti_bytes(np.ones((4, 4, 4), np.float32), nib.Nifti1Image(np.ones((4, 4, 4)), np.eye(4)).affine),
        b"",
        b"patient,site\nsub-1,a\n",
        b'{"DiffusionBValue": 1000}',
        "\ufeffpatient".encode("utf-8-sig"),
        bytes(400),
        (348).to_bytes(4, "little") + bytes(400),
        b"\x93NUMPY\x01\x00v\x00",
    ],
)
def test_other_files(file, content):
    file.write_bytes(content)
    assert not is_dicom(file) and not is_archive(file)


def test_archives(file, tmp_path):
    file.write_bytes(b"PK\x03\x04...")
    (tmp_path / "study.tar.gz").write_bytes(b"x")
    assert is_archive(file) and is_archive(tmp_path / "study.tar.gz")
