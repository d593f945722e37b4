"""The b-value of a DWI, from what a converter wrote beside it."""

import json

import pytest

from components.scans.b_value import MOST_BYTES, as_file, b_value, in_file


@pytest.fixture
def file(tmp_path):
    """file(".bval", "0 1000") -> the path of such a file beside a DWI."""

    def write(suffix: str, content: str | bytes):
        path = tmp_path / f"sub-1_dwi{suffix}"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


@pytest.mark.parametrize(
    ("content", "largest"),
    [("800", 800), ("0 1000\n", 1000),
     ("0\t0 700 1200 5\n", 1200), ("0,1000", 1000), ("1e3", 1000), ("0\n999.5\n", 999.5)],
)  # fmt: skip
def test_a_bval_file_holds_the_b_value_of_the_dwi_as_its_largest_number(file, content, largest):
    assert in_file(file(".bval", content)) == largest


@pytest.mark.parametrize(
    ("fields", "value"),
    [({"DiffusionBValue": 900}, 900), ({"bval": "1200"}, 1200), ({"b_value": [0, 800]}, 800),
     ({"B-values": [50.5]}, 50.5),
     ({"bval": 7, "DiffusionBValue": 900}, 900), ({"EchoTime": 0.09}, None), ({}, None)],
)  # fmt: skip
def test_a_sidecar_may_name_it(file, fields, value):
    assert in_file(file(".json", json.dumps(fields))) == value


@pytest.mark.parametrize(
    ("suffix", "content", "why"),
    [
        (".bval", "", "no b-values"), (".bval", "0 x", "no b-values"), (".bval", b"\xff\xfe", "not UTF-8"),
        (".bval", "0 0", "not above 0"), (".bval", "-5", "not above 0"), (".bval", "1e9", "at most 10000"),
        (".bval", "nan", "at most 10000"), (".bval", "inf", "at most 10000"),
        (".bval", "1 " * MOST_BYTES, "larger than 1 MiB"),
        (".json", "", "not JSON"), (".json", "[" * 100_000, "not JSON"), (".json", "[1000]", "not a JSON object"),
        (".json", '{"DiffusionBValue": true}', "no b-values"), (".json", '{"DiffusionBValue": []}', "no b-values"),
        (".json", '{"DiffusionBValue": [[1000]]}', "no b-values"), (".json", '{"bval": NaN}', "at most 10000"),
        (".json", '{"bval": ' + "9" * 5000 + "}", "not JSON"), (".json", '{"bval": 0}', "not above 0"),
    ],
    ids=lambda v: repr(v)[:20],
)  # fmt: skip
def test_a_file_that_holds_no_b_value_says_why(file, suffix, content, why):
    with pytest.raises(ValueError, match=why) as error:
        in_file(file(suffix, content))
    assert len(str(error.value)) < 100


def test_a_file_that_cannot_be_read_says_why(tmp_path):
    with pytest.raises(ValueError, match="cannot be read"):
        in_file(tmp_path / "gone.bval")


def test_the_bval_file_comes_before_the_sidecar_and_both_before_the_setting(file):
    bval, sidecar = file(".bval", "0 800"), file(".json", '{"DiffusionBValue": 900}')
    for files, value, origin in (
        ([bval, sidecar], 800, "b = 800 s/mm² as in the .bval file"),
        ([sidecar], 900, "b = 900 s/mm² as in the JSON sidecar"),
        ([], 700, "b = 700 s/mm² as set by b_value"),
    ):
        found = b_value(files, 700)
        assert (found.value, found.origin, found.notes) == (value, origin, ())


def test_a_file_of_no_use_is_passed_over_with_a_line(file):
    found = b_value([file(".bval", "zero"), file(".json", '{"bval": 900}')], 700)
    assert found.value == 900
    assert found.notes == ("the .bval file was ignored: it holds no b-values (numbers)",)
    assert b_value([file(".json", '{"EchoTime": 1}')], 700).notes == ()


def test_where_nothing_says_it_1000_is_taken_and_said():
    found = b_value([])
    assert (found.value, found.origin, found.notes) == (1000, "b-value unknown: 1000 s/mm² taken", ())


@pytest.mark.parametrize(("value", "said"), [(299, 1), (300, 0), (5000, 0), (5001, 1)])
def test_a_b_value_that_is_unusual_in_stroke_is_used_and_said(value, said):
    found = b_value([], value)
    assert found.value == value and len(found.notes) == said
    assert all("unusual for a DWI in stroke (300 to 5000)" in line for line in found.notes)


@pytest.mark.parametrize("suffix", [".bval", ".json"])
def test_a_file_of_the_number_alone_is_read_back(file, suffix):
    assert in_file(file(suffix, as_file(suffix, 1000.0))) == 1000
    assert as_file(suffix, 800.123456789) == as_file(suffix, 800.123)
    assert as_file(".json", None) == b"{}" and as_file(".bval", None) == b""
