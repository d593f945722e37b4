"""Which data sets and which versions are synthetic."""

import json

import pytest

from components.artifacts.synthetic import TAG, is_synthetic, says_synthetic


@pytest.mark.parametrize("name", ["SYNTHETIC demo scans", "a synthetic set"])
def test_a_set_is_synthetic_by_its_name(name):
    assert says_synthetic(json.dumps({"Name": name}).encode())


@pytest.mark.parametrize(
    "description",
    [b'{"Name": "Siriraj"}', b'{"name": "synthetic"}', b"{}", b"[]", b"", b"\xff\xfe", b"[" * 100_000, b"synthetic"],
    ids=["patients", "another field", "no name", "a list", "empty", "no UTF-8", "too deep", "no JSON"],
)
def test_any_other_description_is_not_synthetic(description):
    assert not says_synthetic(description)


def test_a_version_is_synthetic_by_its_tag():
    assert is_synthetic(TAG | {"split_digest": "d"})
    assert not is_synthetic({"split_digest": "d", "data_version": "v"})
