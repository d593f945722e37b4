"""Text that came from anywhere, as a message, a page and a terminal can show it."""

import re
import unicodedata

PSEUDONYM = re.compile(r"p[0-9a-f]{16}")
"""A name that PSEUDONYM_KEY made (see pipelines/pseudonyms.py)."""

TURNING = set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""They turn the direction of reading: a name shows as another."""


def can_be_shown(c: str) -> bool:
    """Whether the character neither steers a terminal, nor breaks a line, nor is no text."""
    return unicodedata.category(c) not in ("Cc", "Cs", "Zl", "Zp") and c not in TURNING


def shown(text: str, most: int = 255) -> str:
    """In one line, of at most so many characters, and what cannot be shown as `\\x1b`."""
    plain = "".join(c if can_be_shown(c) else c.encode("unicode_escape").decode() for c in text[: most + 1])
    return plain if len(plain) <= most else f"{plain[:most]}..."


def look(name: str) -> str:
    """What a person sees of a name: neither its case, nor how wide its spaces are, nor how its letters are coded."""
    plain = unicodedata.normalize("NFKC", name).casefold()
    return " ".join("".join(c for c in plain if c.isprintable() or c.isspace()).split())


def composed(name: str) -> str:
    """The name in one coding of its letters (NFC): a Mac writes an accent otherwise than Linux and Windows do."""
    return unicodedata.normalize("NFC", name)
