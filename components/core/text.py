"""Make text from any source safe for a message, a page and a terminal."""

import re
import unicodedata

PSEUDONYM = re.compile(r"p[0-9a-f]{16}")
"""A name that was made with PSEUDONYM_KEY (see pipelines/pseudonyms.py)."""

TURNING = set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""They change the direction of reading: a name looks like another one."""


def is_pseudonym(patient: str) -> bool:
    """Return whether the name of a patient was made with PSEUDONYM_KEY."""
    return PSEUDONYM.fullmatch(patient.removeprefix("sub-")) is not None


def can_be_shown(c: str) -> bool:
    """Return whether a character is text: it does not control a terminal and does not end a line."""
    return unicodedata.category(c) not in ("Cc", "Cs", "Zl", "Zp") and c not in TURNING


def shown(text: str, most: int = 255) -> str:
    """Return the text in one line of at most `most` characters, with escapes such as `\\x1b` for the others."""
    plain = "".join(c if can_be_shown(c) else c.encode("unicode_escape").decode() for c in text[: most + 1])
    return plain if len(plain) <= most else f"{plain[:most]}..."


def look(name: str) -> str:
    """Return a name without the differences that people do not see: case, width of spaces, coding of letters."""
    plain = unicodedata.normalize("NFKC", name).casefold()
    return " ".join("".join(c for c in plain if c.isprintable() or c.isspace()).split())


def composed(name: str) -> str:
    """Return the name in one coding of its letters (NFC): a Mac codes accents differently from Linux and Windows."""
    return unicodedata.normalize("NFC", name)
