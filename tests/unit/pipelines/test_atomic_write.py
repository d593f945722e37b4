"""Small files that are there whole or not at all, whatever lies in their folder and whenever the power goes."""

import os

import pytest

from components.core.errors import StepError
from pipelines.atomic_write import read_json, write_bytes, write_json


def test_what_is_written_is_read_and_nothing_else_is_left(tmp_path):
    write_json(tmp_path / "a.json", {"a": 1})
    write_json(tmp_path / "a.json", {"a": 2})
    assert read_json(tmp_path / "a.json") == {"a": 2}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_the_mode_is_the_one_that_the_login_asks_for(tmp_path):
    before = os.umask(0o027)
    try:
        write_bytes(tmp_path / "a", b"1")
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


def test_a_link_that_was_planted_is_replaced_and_never_followed(tmp_path):
    (tmp_path / "precious").write_bytes(b"theirs")
    for name in ("a", "a.part"):
        (tmp_path / name).symlink_to(tmp_path / "precious")
    write_bytes(tmp_path / "a", b"ours")
    assert (tmp_path / "precious").read_bytes() == b"theirs" and (tmp_path / "a").read_bytes() == b"ours"
    assert not (tmp_path / "a").is_symlink()


def test_the_content_is_on_the_disk_before_it_takes_the_old_ones_place(tmp_path, monkeypatch):
    done = []
    sync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda file: (done.append("sync"), sync(file)))
    monkeypatch.setattr("pathlib.os.replace", lambda *paths: (done.append("replace"), replace(*paths)))
    write_bytes(tmp_path / "a", b"1")
    assert done == ["sync", "replace"]


def test_where_writing_fails_the_old_content_stays(tmp_path, monkeypatch):
    write_bytes(tmp_path / "a", b"old")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_bytes(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("content", [b"", b'{"a": ', b"\0" * 100, b"[" * 100_000, b"\xff\xfe"])
def test_a_broken_file_is_named_with_what_to_do(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(StepError, match=r"/a\.json is broken: .* Delete it and run again\.$"):
        read_json(tmp_path / "a.json")


def test_a_file_that_is_not_there_has_the_content_that_is_asked_for(tmp_path):
    assert read_json(tmp_path / "a.json", {}) == {} and read_json(tmp_path / "a.json") is None
