"""What upload refuses before it sends anything. The mirror itself needs object storage: see tests/integration."""

import pytest

from components.core.step import StepError
from pipelines.upload import upload


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


def test_a_link_out_of_the_folder_is_left_out_and_named(tmp_path, caplog):
    (tmp_path / "private.nii.gz").write_bytes(b"not meant to be sent")
    (tmp_path / "scans").mkdir()
    (tmp_path / "scans" / "link.nii.gz").symlink_to(tmp_path / "private.nii.gz")
    with pytest.raises(StepError, match="holds no files"):
        upload(tmp_path / "scans", tmp_path / "state")
    assert "left out: link.nii.gz is a link out of the folder" in caplog.text
