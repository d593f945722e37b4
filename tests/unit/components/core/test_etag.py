"""ETags as S3 servers give them. The values of the objects in parts are those that AWS computes."""

import hashlib

import pytest

from components.core.etag import MIB, agrees, is_md5

CONTENT = bytes(range(256)) * 4096 * 17  # 17 MiB


def in_parts(size: int) -> str:
    parts = [hashlib.md5(CONTENT[at : at + size]).digest() for at in range(0, len(CONTENT), size)]
    return f"{hashlib.md5(b''.join(parts)).hexdigest()}-{len(parts)}"


def test_the_md5_of_the_bytes_agrees_whatever_its_letters_case():
    assert agrees("5eb63bbbe01eeed093cb22bb8f5acdc3", b"hello world")
    assert agrees("5EB63BBBE01EEED093CB22BB8F5ACDC3", b"hello world")
    assert not agrees("5eb63bbbe01eeed093cb22bb8f5acdc3", b"hello worlc")


@pytest.mark.parametrize("size", [5 * MIB, 8 * MIB, 16 * MIB, 25 * MIB])
def test_an_object_in_parts_of_a_usual_size_agrees(tmp_path, size):
    (tmp_path / "a").write_bytes(CONTENT)
    assert agrees(in_parts(size), CONTENT)
    assert agrees(in_parts(size), tmp_path / "a")
    assert not agrees(in_parts(size), CONTENT[:-1] + b"x")


@pytest.mark.parametrize("etag", ["", "e1", in_parts(7 * MIB + 1), "0" * 31, "0" * 33])
def test_what_cannot_be_computed_again_does_not_agree_and_is_no_md5(etag):
    assert not agrees(etag, CONTENT)
    assert not is_md5(etag)
