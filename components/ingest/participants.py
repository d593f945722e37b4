"""participants.tsv (BIDS): at which site and by which scanner each patient was scanned, and nothing else of it."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from components.core.text import look

FILE = "participants.tsv"
SITE = ("site", "center", "centre", "institution")
SCANNER = ("scanner",)
MAKE = ("manufacturer", "model")
"""Where there is no scanner: both together."""
MOST_CHARACTERS, MOST_BYTES, MOST_NAMED = 40, 2**24, 5
UNKNOWN = {"", "n/a", "na", "nan", "none", "unknown"}
PROVINCE = "Nan"
"""In Thailand, and no missing number, which is written nan or NaN."""


@dataclass
class Participants:
    """Patient to site and to scanner, as far as they are known, and what a person should know of the file."""

    site: dict[str, str] = field(default_factory=dict)
    scanner: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def participants(source: Path, patients: Iterable[str]) -> Participants:
    """What `source/participants.tsv` says of these patients; a file that is no such table is noted, not fatal.

    A patient's name counts as it looks: in capitals or not, and however its letters are coded.
    """
    path, patients = source / FILE, {look(patient): patient for patient in patients}
    if path.is_symlink() or not path.is_file():  # a link may lead out of the folder
        return Participants()
    try:
        rows = _rows(path)
    except ValueError as why:
        return Participants(notes=[f"{FILE} is of no use: {why}"])
    header = [name.strip().lower() for name in rows[0]]
    column = {name: header.index(name) for name in header}
    site, scanner = _columns(column, SITE), _columns(column, SCANNER) or [column[n] for n in MAKE if n in column]
    found, listed, differ = Participants(), {}, set()
    whole = [row for row in rows[1:] if len(row) == len(header)]
    for row in whole:
        patient = row[column["participant_id"]].strip()
        patient = patients.get(look(patient), patient)
        values = [_plain(" ".join(row[i] for i in columns)) for columns in (site, scanner)]
        if listed.setdefault(patient, values) != values:
            differ.add(patient)
    patients = set(patients.values())
    for patient in patients & listed.keys() - differ:
        for kept, value in zip((found.site, found.scanner), listed[patient], strict=True):
            if value:
                kept[patient] = value
    if not site and not scanner:
        found.notes.append(f"{FILE} has no column for site or scanner ({', '.join(SITE + SCANNER + MAKE)})")
    for count, what in (
        (len(rows) - 1 - len(whole), "lines of another length than the first, left out"),
        (len(listed.keys() - patients), "participants without a usable scan here"),
        (patients & differ, "listed twice with different values, left out"),
        (patients - listed.keys(), "not in it"),
    ):
        if count:
            found.notes.append(f"{FILE}: {_counted(count)} {what}")
    return found


def _rows(path: Path) -> list[list[str]]:
    """Raises ValueError where it is no table of participants."""
    if path.stat().st_size > MOST_BYTES:
        raise ValueError(f"it is larger than {MOST_BYTES >> 20} MiB")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8 text") from None
    rows = [line.split("\t") for line in text.splitlines() if line.strip()]
    header = [name.strip().lower() for name in rows[0]] if rows else []
    if "participant_id" not in header:
        raise ValueError("its first line names no column participant_id (are its columns parted by tabs?)")
    for name in ("participant_id", *SITE, *SCANNER, *MAKE):
        if header.count(name) > 1:
            raise ValueError(f"its first line names the column {name} twice")
    return rows


def _columns(column: dict[str, int], names: Iterable[str]) -> list[int]:
    return [column[name] for name in names if name in column][:1]


def _plain(value: str) -> str | None:
    """In one line, short, and of characters that print; None where it says nothing."""
    words = [
        word
        for word in "".join(c if c.isprintable() else " " for c in value).split()
        if word == PROVINCE or word.lower() not in UNKNOWN
    ]
    return " ".join(words)[:MOST_CHARACTERS].strip() or None


def _counted(what: int | set[str]) -> str:
    """A count; patients who have scans by name too (other participants' names are not ours to show)."""
    if isinstance(what, int):
        return str(what)
    return f"{len(what)} ({', '.join(sorted(what)[:MOST_NAMED])}{', ...' if len(what) > MOST_NAMED else ''})"
