"""A zip is unpacked into its folder, or refused before it is."""

import stat
import zipfile
from pathlib import Path

import pytest

from components.core.errors import StepError
from pipelines.dicom import unzip as module
from pipelines.dicom.unzip import unzip


@pytest.fixture
def packed(tmp_path):
    """packed({"name": content}) -> a zip with these files."""

    def write(files: dict, how: int = zipfile.ZIP_DEFLATED) -> Path:
        with zipfile.ZipFile(tmp_path / "in.zip", "w", how) as target:
            for name, content in files.items():
                target.writestr(name, content)
        return tmp_path / "in.zip"

    return write


def test_files_come_out_in_their_folders(packed, tmp_path):
    out = tmp_path / "out"
    unzip(packed({"a/IM1": b"one", "a/b/IM2": b"two", "__MACOSX/a": b"", ".DS_Store": b""}), out)
    found = {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert found == {"a/IM1": b"one", "a/b/IM2": b"two"}


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/tmp/x", "C:\\x", "a\\..\\x", "a\x1b[2Jx"])
def test_a_name_that_leaves_the_folder_is_refused(packed, tmp_path, name):
    entry = zipfile.ZipInfo("x")
    entry.filename = name
    with pytest.raises(StepError, match="was not unpacked"):
        unzip(packed({entry: b"x", "good": b"x"}), tmp_path / "out")
    assert not (tmp_path / "out").exists() and not (tmp_path / "x").exists()


def test_a_link_is_refused(packed, tmp_path):
    entry = zipfile.ZipInfo("link")
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    with pytest.raises(StepError, match="link is a link"):
        unzip(packed({entry: b"/etc/passwd"}), tmp_path / "out")


@pytest.mark.parametrize(
    ("limit", "value", "files", "why"),
    [
        ("MOST_FILES", 2, {"a": b"", "b": b"", "c": b""}, "3 files"),
        ("MOST_BYTES", 10, {"a": b"x" * 11}, "11 bytes"),
        ("SMALL", 1000, {"a": bytes(10**6)}, "no scan compresses so well"),
    ],
)
def test_a_bomb_is_refused_before_it_is_unpacked(packed, tmp_path, monkeypatch, limit, value, files, why):
    monkeypatch.setattr(module, limit, value)
    with pytest.raises(StepError, match=why):
        unzip(packed(files), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_size_that_is_a_lie_is_an_error(packed, tmp_path):
    path = packed({"a": bytes(5000)})
    blob = path.read_bytes()
    at = blob.rindex(b"PK\x01\x02") + 24
    path.write_bytes(blob[:at] + (10).to_bytes(4, "little") + blob[at + 4 :])
    with pytest.raises(StepError, match="cannot be unpacked"):
        unzip(path, tmp_path / "out")
    assert (tmp_path / "out" / "a").stat().st_size <= 5000


@pytest.mark.parametrize("how", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_damaged_zip_is_an_error(packed, tmp_path, how):
    path = packed({"a": bytes(range(256)) * 40}, how)
    blob = bytearray(path.read_bytes())
    blob[40:60] = b"\xff" * 20
    path.write_bytes(blob)
    with pytest.raises(StepError, match="cannot be unpacked"):
        unzip(path, tmp_path / "out")


def test_a_name_in_no_encoding_is_an_error(packed, tmp_path):
    path = packed({"é": b"x"})
    path.write_bytes(path.read_bytes().replace("é".encode(), b"\xff\xfe"))
    with pytest.raises(StepError, match="cannot be unpacked"):
        unzip(path, tmp_path / "out")


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("names", [("a/IM1", "A/im1"), ("x", "x")])
def test_a_name_that_is_there_twice_is_refused(tmp_path, names):
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as target:
        for name in names:
            target.writestr(name, b"x")
    with pytest.raises(StepError, match="is there twice"):
        unzip(tmp_path / "in.zip", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_full_disk_is_an_error(packed, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(zipfile.ZipFile, "extract", full)
    with pytest.raises(StepError, match="No space left on device"):
        unzip(packed({"a": b"x"}), tmp_path / "out")
