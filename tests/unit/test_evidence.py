"""The page of what was measured: each section is made alone, and none is left that nothing makes."""

import re

from tests.evidence.__main__ import SECTIONS, main
from tests.evidence.page import HEAD, PAGE, table, updated


def test_a_section_is_added_at_the_end_and_then_replaced_alone():
    page = updated(updated("", "one", "| 1 |"), "two-words", "| 2 |")
    assert page.startswith(HEAD) and page.index("| 1 |") < page.index("## Two words") < page.index("| 2 |")
    again = updated(page, "one", r"| \1 new |")
    assert again == page.replace("| 1 |", r"| \1 new |")


def test_a_section_says_when_on_what_and_by_which_command_it_was_measured():
    said = updated("", "one", "")
    assert re.search(r"on \d\d \w+ \d{4} on \d+ CPU cores?.*, PyTorch [\d.]+: `make evidence ONLY=one`\.", said)


def test_a_table_is_markdown():
    assert table(["a", "b"], [["x", "1"]]) == "| a | b |\n| --- | ---: |\n| x | 1 |"


def test_the_page_holds_no_section_that_nothing_makes():
    assert set(re.findall("<!-- begin (.*) -->", PAGE.read_text())) <= SECTIONS.keys()


def test_an_unknown_section_is_refused_by_name(capsys):
    assert main(["statistics", "weather"]) == 1
    assert "There is no section weather. Sections: " in capsys.readouterr().out
