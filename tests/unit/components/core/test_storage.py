import hashlib
import logging
import os
import socket
import stat
import tempfile

import pytest
from botocore.exceptions import ReadTimeoutError

from components.core import s3_client, storage
from components.core.errors import StepError
from components.core.storage import Object, Storage, digest_of, file_sha256, local_path, scratch

LISTING = [Object("images/a.npy", 10, "e1"), Object("images/b.npy", 20, "e2"), Object("masks/a.npy", 10, "e3")]
NO_CLIENT = object()


@pytest.mark.parametrize(
    ("uri", "bucket", "prefix"),
    [("s3://data", "data", ""), ("s3://data/", "data", ""), ("s3://data/site-a/2024", "data", "site-a/2024/"),
     ("s3://data/site-a/", "data", "site-a/")],
)  # fmt: skip
def test_an_address_is_a_bucket_and_a_prefix(uri, bucket, prefix):
    storage = Storage(uri, NO_CLIENT)
    assert (storage.bucket, storage.prefix, storage.uri) == (bucket, prefix, uri.rstrip("/"))


@pytest.mark.parametrize(
    "uri", ["", "data/scans", "/data/scans", "gs://data", "file:///data", "s3:/data", "s3:///scans"]
)
def test_an_address_that_is_not_s3_is_refused_with_how_to_write_it(uri):
    with pytest.raises(StepError, match=r"is not an S3 address\. Write it as s3://bucket/prefix"):
        Storage(uri, NO_CLIENT)


def test_a_key_lands_below_its_folder(tmp_path):
    assert local_path(tmp_path, "images/a.npy") == tmp_path / "images" / "a.npy"
    assert local_path(tmp_path, "images/..a/b..npy").is_relative_to(tmp_path)


@pytest.mark.parametrize(
    "key", ["../a.npy", "images/../../a.npy", "/etc/passwd", "..", "x/../../scans-of-others/a.npy"]
)
def test_a_key_that_would_land_outside_is_refused(tmp_path, key):
    folder = tmp_path / "scans"
    with pytest.raises(StepError, match="points outside its folder"):
        local_path(folder, key)


def test_a_key_that_would_leave_through_a_link_is_refused(tmp_path):
    (tmp_path / "scans").mkdir()
    (tmp_path / "scans" / "images").symlink_to(tmp_path)
    with pytest.raises(StepError):
        local_path(tmp_path / "scans", "images/a.npy")


def test_the_digest_does_not_depend_on_the_order_of_the_listing():
    assert digest_of(reversed(LISTING)) == digest_of(LISTING)


@pytest.mark.parametrize(
    "changed",
    [[], LISTING[:2], [*LISTING, Object("c", 0, "")], [Object("images/A.npy", 10, "e1"), *LISTING[1:]],
     [Object("images/a.npy", 11, "e1"), *LISTING[1:]], [Object("images/a.npy", 10, "e9"), *LISTING[1:]],
     [Object("images/a.npy1", 0, "e1"), *LISTING[1:]]],
    ids=["nothing", "one fewer", "one more", "key", "size", "etag", "a digit from size to key"],
)  # fmt: skip
def test_the_digest_changes_with_every_key_size_and_etag(changed):
    assert digest_of(changed) != digest_of(LISTING)


def test_a_key_that_is_no_text_has_a_digest_too():
    assert digest_of([Object("images/M\udcfcller.npy", 1, "e")]) != digest_of([Object("images/Müller.npy", 1, "e")])


def test_a_file_has_the_sha256_that_everybody_computes(tmp_path):
    (tmp_path / "a").write_bytes(b"scan" * 100_000)
    assert file_sha256(tmp_path / "a") == hashlib.sha256(b"scan" * 100_000).hexdigest()


def test_no_wait_of_a_minute_is_silent_about_the_address(monkeypatch, caplog):
    now = [0.0]

    def times_out(**_):
        now[0] += 30  # what the client's own tries take
        raise ReadTimeoutError(endpoint_url="http://s3.example.org:9000", error="")

    class Client:
        head_object = staticmethod(times_out)

    monkeypatch.setenv("S3_ENDPOINT_URL", "http://me:secret@s3.example.org:9000")
    monkeypatch.setattr(storage.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(storage.time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    with caplog.at_level(logging.WARNING), pytest.raises(StepError):
        Storage("s3://bucket/prefix", Client()).sha256("key")
    assert now[0] > 60 and len(caplog.messages) >= 2
    first = caplog.messages[0]
    assert first.startswith("s3://bucket/prefix at http://***@s3.example.org:9000: ReadTimeoutError; trying again")


def test_a_server_that_takes_the_request_and_never_answers_is_named_at_each_try(monkeypatch, caplog):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        for name, value in {"S3_ENDPOINT_URL": address, "AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s"}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(s3_client, "ANSWER_SECONDS", 0.2)
        there = Storage("s3://bucket/prefix")
        there.patience = 0
        with caplog.at_level(logging.WARNING), pytest.raises(StepError, match=address):
            there.list()
    assert caplog.messages.count(f"S3 at {address}: ReadTimeoutError") >= 2


def test_temporary_files_go_to_a_folder_that_no_other_login_made_or_reads(tmp_path, monkeypatch):
    monkeypatch.delenv("SCRATCH_DIR", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert scratch() == tmp_path / "dwi-stroke" and stat.S_IMODE(scratch().stat().st_mode) == 0o700
    monkeypatch.setattr(os, "getuid", lambda: tmp_path.stat().st_uid + 1)
    with pytest.raises(StepError, match=r"dwi-stroke belongs to another user\. Set SCRATCH_DIR"):
        scratch()
    monkeypatch.setenv("SCRATCH_DIR", str(tmp_path))
    assert scratch() == tmp_path / "dwi-stroke"
