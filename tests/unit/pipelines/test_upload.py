"""What upload refuses before it sends anything. The mirror itself needs object storage: see tests/integration."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest

from components.core.errors import StepError
from pipelines.upload import files_of, listed, upload


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(StepError, match=r"^DATA=.*/nowhere is not a folder\. Give a folder of scans, or s3://"):
        upload(tmp_path / "nowhere", tmp_path / "state")


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "scan.nii.gz").touch()
    with pytest.raises(StepError, match="is not a folder"):
        upload(tmp_path / "scan.nii.gz", tmp_path / "state")


def test_a_folder_without_scans_is_named_and_what_systems_leave_behind_is_no_scan(tmp_path):
    (tmp_path / "scans" / "images").mkdir(parents=True)
    (tmp_path / "scans" / ".DS_Store").touch()
    with pytest.raises(StepError, match="holds no files"):
        upload(tmp_path / "scans", tmp_path / "state")


def test_dicom_and_archives_are_left_out_and_counted(tmp_path, caplog):
    scans = {"scan.nii.gz": b"scan", "participants.tsv": b"participant_id\n"}
    others = {
        "IM1": bytes(128) + b"DICM", "IM2": b"\x08\0\x05\0CS\x0a\0ISO_IR 192", "scan.nii": bytes(128) + b"DICM",
        "study.zip": b"PK\x03\x04", "study": b"PK\x03\x04", "old.tar.gz": b"",
    }  # fmt: skip
    for name, content in (scans | others).items():
        (tmp_path / name).write_bytes(content)
    assert listed(tmp_path)[1].keys() == scans.keys()
    assert "not uploaded: 3 DICOM files" in caplog.text and "not uploaded: 3 zips" in caplog.text


def test_a_link_out_of_the_folder_is_left_out_and_named(tmp_path, caplog):
    (tmp_path / "private.nii.gz").write_bytes(b"not meant to be sent")
    (tmp_path / "scans").mkdir()
    (tmp_path / "scans" / "link.nii.gz").symlink_to(tmp_path / "private.nii.gz")
    with pytest.raises(StepError, match="holds no files"):
        upload(tmp_path / "scans", tmp_path / "state")
    assert "left out: link.nii.gz is a link out of the folder" in caplog.text


@pytest.fixture
def folder_for_all():
    """A folder that another login can reach."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def as_another_login(call) -> str:
    """Return what a call says of itself under a login that is not root: "" or the message of its StepError."""
    if os.getuid() != 0:
        return _outcome(call)
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        try:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            os.write(writer, _outcome(call).encode())
        finally:
            os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    with os.fdopen(reader) as said:
        return said.read()


def _outcome(call) -> str:
    try:
        return f"no error: {call()}"
    except StepError as error:
        return str(error)


@pytest.mark.parametrize("closed", ["hospital-b", "hospital-b/images", "hospital-b/images/P2.npy"])
def test_what_cannot_be_read_is_named_and_never_taken_for_absent(folder_for_all, closed):
    for site, name in (("hospital-a", "P1"), ("hospital-b", "P2")):
        (folder_for_all / site / "images").mkdir(parents=True)
        (folder_for_all / site / "images" / f"{name}.npy").write_bytes(b"1")
    (folder_for_all / closed).chmod(0)
    try:
        said = as_another_login(lambda: files_of(folder_for_all.resolve()))
    finally:
        (folder_for_all / closed).chmod(0o700)
    assert said.startswith(f"{closed} cannot be read (Permission denied)"), said


def test_a_hidden_folder_that_cannot_be_read_holds_no_scan(folder_for_all):
    (folder_for_all / ".Trash").mkdir(mode=0)
    (folder_for_all / "P1.npy").write_bytes(b"1")
    said = as_another_login(lambda: list(files_of(folder_for_all.resolve())))
    (folder_for_all / ".Trash").chmod(0o700)
    assert said == "no error: ['P1.npy']"
