"""Site and scanner come from participants.tsv, and nothing else; errors in it give a note and stop nothing."""

import pytest

from components.ingest.discover import discover
from components.ingest.ingest import check, log_summary
from components.ingest.participants import read_participants
from components.ingest.report import write_report


@pytest.fixture
def parsed(tmp_path):
    """parsed(text, patients) -> site and scanner of these patients, and notes."""

    def read(text: str | bytes, patients=("a", "b")):
        content = text if isinstance(text, bytes) else text.encode()
        (tmp_path / "participants.tsv").write_bytes(content)
        return read_participants(tmp_path, patients)

    return read


def test_site_and_scanner_are_read_for_each_patient(parsed):
    found = parsed("participant_id\tage\tsite\tscanner\na\t80\tKhon Kaen\tPrisma\nb\t81\tศิริราช\tSkyra\n")
    assert found.site == {"a": "Khon Kaen", "b": "ศิริราช"}
    assert found.scanner == {"a": "Prisma", "b": "Skyra"}
    assert found.notes == []


@pytest.mark.parametrize("column", ["site", "center", "centre", "institution", "Site", "CENTRE"])
def test_a_site_has_several_names(parsed, column):
    assert parsed(f"participant_id\t{column}\na\tBangkok\nb\tBangkok").site == {"a": "Bangkok", "b": "Bangkok"}


def test_manufacturer_and_model_make_a_scanner(parsed):
    found = parsed("participant_id\tmodel\tmanufacturer\na\tPrisma\tSiemens\nb\tn/a\tGE\n")
    assert found.scanner == {"a": "Siemens Prisma", "b": "GE"}


@pytest.mark.parametrize("nothing", ["", " ", "n/a", "N/A", "unknown", "nan", "NaN"])
def test_an_empty_value_is_unknown(parsed, nothing):
    assert parsed(f"participant_id\tsite\na\t{nothing}\nb\tX\n").site == {"b": "X"}


def test_a_province_is_no_missing_number(parsed):
    assert parsed("participant_id\tsite\na\tNan\nb\tNan Hospital\n").site == {"a": "Nan", "b": "Nan Hospital"}


def test_values_are_short_and_in_one_line(parsed):
    found = parsed("participant_id\tsite\na\tone\x00 \x1b[31m  two\nb\t" + 90 * "x" + "\n")
    assert found.site == {"a": "one [31m two", "b": 40 * "x"}


def test_without_the_file_nothing_is_known_and_there_is_no_note(tmp_path):
    found = read_participants(tmp_path, ["a"])
    assert (found.site, found.scanner, found.notes) == ({}, {}, [])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no column participant_id"),
        ("participant_id,site\na,X\n", "no column participant_id"),
        (b"participant_id\tsite\na\t\xff\xfe\n", "not UTF-8"),
        (b"\x00" * (2**24 + 1), "larger than 16 MiB"),
    ],
)
def test_a_file_that_is_no_such_table_is_noted(parsed, text, reason):
    found = parsed(text)
    assert (found.site, found.scanner) == ({}, {})
    assert len(found.notes) == 1 and reason in found.notes[0] and "not usable" in found.notes[0]


def test_a_byte_order_mark_and_windows_line_ends_do_no_harm(parsed):
    assert parsed("\ufeffparticipant_id\tsite\r\na\tX\r\n\r\nb\tY\r\n").site == {"a": "X", "b": "Y"}


def test_what_does_not_fit_is_counted_and_others_are_not_named(parsed):
    found = parsed("participant_id\tsite\na\tX\na\tY\nc\tZ\tmore\nSomchai\tX\n")
    assert found.site == {}
    assert found.notes == [
        "participants.tsv: 1 lines ignored: their number of columns differs from the first line's",
        "participants.tsv: 1 participants without a usable scan here",
        "participants.tsv: 1 (a) ignored: listed twice with different values",
        "participants.tsv: 1 (b) not listed",
    ]


def test_twice_the_same_is_once(parsed):
    assert parsed("participant_id\tsite\na\tX\na\tX\nb\tX\n").notes == []


def test_a_patient_is_one_however_the_name_is_spelled(parsed):
    found = parsed("participant_id\tsite\nSUB-A\tX\nsub-Rene\u0301\tY\n", ("sub-a", "sub-Ren\u00e9"))
    assert found.site == {"sub-a": "X", "sub-Ren\u00e9": "Y"} and found.notes == []


def test_a_table_without_site_and_scanner_is_noted(parsed):
    assert "no column for site or scanner" in parsed("participant_id\tage\na\t80\nb\t81\n").notes[0]


def test_the_records_get_both_in_either_layout_and_nothing_else_is_kept(
    tmp_path, make_scan, write_case, write_npy, keys_of, caplog
):
    dwi, _, mask = make_scan()
    write_case(tmp_path / "bids", "sub-1", dwi=dwi, mask=mask)
    write_npy(tmp_path / "flat", "sub-1", dwi, mask)
    for layout in ("bids", "flat"):
        folder, cases = tmp_path / layout, tmp_path / f"{layout} cases"
        table = (
            "participant_id\tname\tage\tsite\tscanner\nsub-1\tSomchai Jaidee\t80\t<b>North\tPrisma\nsub-9\tx\t1\tS\tT\n"
        )
        (folder / "participants.tsv").write_text(table)
        found = check(discover(keys_of(folder)), folder, cases)
        (case,) = found.cases
        assert (case.site, case.scanner) == ("<b>North", "Prisma")
        assert found.ignored == [] and len(found.notes) == 1
        write_report(found, cases, tmp_path / "report.html")
        page = (tmp_path / "report.html").read_text()
        assert "&lt;b&gt;North" in page and "<b>North" not in page and found.notes[0] in page
        written = found.model_dump_json() + page
        assert "Somchai" not in written and "sub-9" not in written
        caplog.set_level("INFO")
        log_summary(found)
        assert found.notes[0] in caplog.text
