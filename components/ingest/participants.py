"""Read site and scanner of each patient from participants.tsv (BIDS), and nothing else."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from components.core.text import look

FILE = "participants.tsv"
SITE = ("site", "center", "centre", "institution")
SCANNER = ("scanner",)
MAKE = ("manufacturer", "model")
"""Both columns together replace a missing column scanner."""
MOST_CHARACTERS, MOST_BYTES, MOST_NAMED = 40, 2**24, 5
UNKNOWN = {"", "n/a", "na", "nan", "none", "unknown"}
PROVINCE = "Nan"
"""A province of Thailand. A missing number is written nan or NaN."""


@dataclass
class Participants:
    """Patient to site and patient to scanner where they are known, and notes about the file for the report."""

    site: dict[str, str] = field(default_factory=dict)
    scanner: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def read_participants(source: Path, patients: Iterable[str]) -> Participants:
    """Read site and scanner of these patients from `source/participants.tsv`; an unusable file only gives a note.

    Names are compared in the form of `look`: without case and in one Unicode form.
    """
    path, by_look = source / FILE, {look(patient): patient for patient in patients}
    if path.is_symlink() or not path.is_file():  # a link may lead out of the folder
        return Participants()
    try:
        rows = _rows(path)
    except ValueError as why:
        return Participants(notes=[f"{FILE} is not usable: {why}"])
    header = [name.strip().lower() for name in rows[0]]
    column = {name: header.index(name) for name in header}
    site, scanner = _columns(column, SITE), _columns(column, SCANNER) or [column[n] for n in MAKE if n in column]
    found = Participants()
    listed: dict[str, list[str | None]] = {}
    different: set[str] = set()
    whole = [row for row in rows[1:] if len(row) == len(header)]
    for row in whole:
        patient = row[column["participant_id"]].strip()
        patient = by_look.get(look(patient), patient)
        values = [_plain(" ".join(row[i] for i in columns)) for columns in (site, scanner)]
        if listed.setdefault(patient, values) != values:
            different.add(patient)
    names = set(by_look.values())
    for patient in names & listed.keys() - different:
        for kept, value in zip((found.site, found.scanner), listed[patient], strict=True):
            if value:
                kept[patient] = value
    if not site and not scanner:
        found.notes.append(f"{FILE} has no column for site or scanner ({', '.join(SITE + SCANNER + MAKE)})")
    counts: tuple[tuple[int | set[str], str], ...] = (
        (len(rows) - 1 - len(whole), "lines ignored: their number of columns differs from the first line's"),
        (len(listed.keys() - names), "participants without a usable scan here"),
        (names & different, "ignored: listed twice with different values"),
        (names - listed.keys(), "not listed"),
    )
    for count, what in counts:
        if count:
            found.notes.append(f"{FILE}: {_counted(count)} {what}")
    return found


def _rows(path: Path) -> list[list[str]]:
    """Return the rows of the table; raise ValueError if it is not a table of participants."""
    if path.stat().st_size > MOST_BYTES:
        raise ValueError(f"it is larger than {MOST_BYTES >> 20} MiB")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8 text") from None
    rows = [line.split("\t") for line in text.splitlines() if line.strip()]
    header = [name.strip().lower() for name in rows[0]] if rows else []
    if "participant_id" not in header:
        raise ValueError("its first line has no column participant_id (columns must be separated by tabs)")
    for name in ("participant_id", *SITE, *SCANNER, *MAKE):
        if header.count(name) > 1:
            raise ValueError(f"its first line has the column {name} twice")
    return rows


def _columns(column: dict[str, int], names: Iterable[str]) -> list[int]:
    return [column[name] for name in names if name in column][:1]


def _plain(value: str) -> str | None:
    """Return a value as one short printable line; None if it is empty or means unknown."""
    words = [
        word
        for word in "".join(c if c.isprintable() else " " for c in value).split()
        if word == PROVINCE or word.lower() not in UNKNOWN
    ]
    return " ".join(words)[:MOST_CHARACTERS].strip() or None


def _counted(counted: int | set[str]) -> str:
    """Return a count, with names only for patients who have scans here: other participants stay private."""
    if isinstance(counted, int):
        return str(counted)
    return f"{len(counted)} ({', '.join(sorted(counted)[:MOST_NAMED])}{', ...' if len(counted) > MOST_NAMED else ''})"
