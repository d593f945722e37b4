import pytest

from components.core.text import shown


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("\u0e2a\u0e21\u0e0a\u0e32\u0e22 1", "\u0e2a\u0e21\u0e0a\u0e32\u0e22 1"),
        ("a\x1b[2Jb", r"a\x1b[2Jb"),
        ("two\nlines", r"two\nlines"),
        ("\udcff", r"\udcff"),
        ("gpj.\u202eexe", r"gpj.\u202eexe"),
        ("x" * 20, "xxxxxxxxxx..."),
    ],
)
def test_whatever_a_text_holds_it_is_shown_in_one_short_line(text, said):
    assert shown(text, 10 if text.startswith("x") else 255) == said
