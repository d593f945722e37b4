"""The b-value of a DWI, s/mm²: from the files beside it, or from the setting `b_value`."""

import json
import math
from dataclasses import dataclass
from pathlib import Path

UNKNOWN = 1000.0
"""The b-value if no file or setting gives one: that of ISLES'22 and of clinical stroke protocols."""
LARGEST = 10_000
USUAL = 300, 5000
"""Range in stroke DWI. A b-value outside it is used, and reported."""
MOST_BYTES = 2**20
BVAL, SIDECAR = ".bval", ".json"
KINDS = {BVAL: "the .bval file", SIDECAR: "the JSON sidecar"}
FIELD = "DiffusionBValue"
NAMES = ("diffusionbvalue", "bvalue", "bval", "bvalues", "bvals")
"""Names of the b-value in sidecars, in small letters and without other characters."""


@dataclass(frozen=True)
class BValue:
    """A b-value, s/mm².

    origin: where it came from, as the end of "ADC computed from b0, ...". notes: what a person should know about it.
    """

    value: float
    origin: str
    notes: tuple[str, ...] = ()


def b_value(files: list[Path], setting: float = 0) -> BValue:
    """Return the b-value of a DWI.

    The first of `files` that holds a b-value counts; an unusable file is ignored, with a note. `setting`, s/mm² (0:
    unknown), is for a DWI without such a file.
    """
    notes: list[str] = []
    value, origin = setting, "as set by b_value"
    for path in files:
        try:
            found = in_file(path)
        except ValueError as reason:
            notes.append(f"{KINDS[path.suffix]} was ignored: {reason}")
            continue
        if found is not None:
            value, origin = found, f"as in {KINDS[path.suffix]}"
            break
    if not value:
        return BValue(UNKNOWN, f"b-value unknown: {UNKNOWN:g} s/mm² taken", tuple(notes))
    if not USUAL[0] <= value <= USUAL[1]:
        notes.append(f"b = {value:g} s/mm² is unusual for a DWI in stroke ({USUAL[0]} to {USUAL[1]})")
    return BValue(value, f"b = {value:g} s/mm² {origin}", tuple(notes))


def in_file(path: Path) -> float | None:
    """Return the largest b-value in a `.bval` file or in a JSON sidecar; None if a sidecar holds none.

    A scan and the b0 that was separated from it share one file, so the largest b-value is that of the DWI.

    Raises:
        ValueError: the file cannot be read, or holds no b-value.
    """
    try:
        with path.open("rb") as file:
            blob = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise ValueError(f"it cannot be read ({error.strerror})") from None
    if len(blob) > MOST_BYTES:
        raise ValueError(f"it is larger than {MOST_BYTES >> 20} MiB")
    try:
        text = blob.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8 text") from None
    return _largest(text) if path.suffix == BVAL else _in_sidecar(text)


def as_file(suffix: str, value: float | None) -> bytes:
    """Return the content of a file of this kind that holds a b-value and nothing else."""
    if suffix == BVAL:
        return b"" if value is None else f"{value:g}\n".encode()
    return b"{}" if value is None else json.dumps({FIELD: float(f"{value:g}")}).encode()


def _in_sidecar(text: str) -> float | None:
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError("it is not JSON") from None
    if not isinstance(fields, dict):
        raise ValueError("it is not a JSON object")
    named = {"".join(filter(str.isalpha, key.lower())): value for key, value in fields.items()}
    given = next((named[name] for name in NAMES if name in named), None)
    if given is None:
        return None
    return _largest(" ".join(map(str, given)) if isinstance(given, list) else str(given))


def _largest(text: str) -> float:
    try:
        largest = max(float(word) for word in text.replace(",", " ").split())
    except ValueError:
        raise ValueError("it holds no b-values (numbers)") from None
    if not math.isfinite(largest) or not 0 < largest <= LARGEST:
        raise ValueError(f"its largest b-value is {largest:g} s/mm², not above 0 and at most {LARGEST}")
    return largest
