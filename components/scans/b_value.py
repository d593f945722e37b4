"""The b-value of a DWI, s/mm²: from the files that lie beside it, else from the setting `b_value`."""

import json
import math
from dataclasses import dataclass
from pathlib import Path

UNKNOWN = 1000.0
"""Taken where nothing says it: that of ISLES'22 and of clinical stroke protocols."""
MOST = 10_000
USUAL = 300, 5000
"""Of a DWI in stroke. Outside them it is used, and said."""
MOST_BYTES = 2**20
BVAL, SIDECAR = ".bval", ".json"
KINDS = {BVAL: "the .bval file", SIDECAR: "the JSON sidecar"}
FIELD = "DiffusionBValue"
NAMES = ("diffusionbvalue", "bvalue", "bval", "bvalues", "bvals")
"""How sidecars name it, in small letters and without what is no letter."""


@dataclass(frozen=True)
class BValue:
    """s/mm²; where it came from, to end "ADC computed from b0, ..."; and what a person should know of it."""

    value: float
    origin: str
    said: tuple[str, ...] = ()


def b_value(files: list[Path], setting: float = 0) -> BValue:
    """Return the b-value of a DWI.

    `files` lie beside it, the first one that holds a b-value counts; one that cannot be used is passed over with a
    line. `setting` (0 where unknown) is for a DWI without such a file.
    """
    said, value, origin = [], setting, "as set by b_value"
    for path in files:
        try:
            found = in_file(path)
        except ValueError as why:
            said.append(f"{KINDS[path.suffix]} was passed over: {why}")
            continue
        if found is not None:
            value, origin = found, f"as in {KINDS[path.suffix]}"
            break
    if not value:
        return BValue(UNKNOWN, f"b-value unknown: {UNKNOWN:g} s/mm² taken", tuple(said))
    if not USUAL[0] <= value <= USUAL[1]:
        said.append(f"b = {value:g} s/mm² is unusual for a DWI in stroke ({USUAL[0]} to {USUAL[1]})")
    return BValue(value, f"b = {value:g} s/mm² {origin}", tuple(said))


def in_file(path: Path) -> float | None:
    """Return the largest b-value in a `.bval` file or in a JSON sidecar; None where a sidecar does not name it.

    A scan and the b0 that was parted from it share one file, so the largest belongs to the DWI.

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
        raise ValueError("it is no JSON object")
    named = {"".join(filter(str.isalpha, key.lower())): value for key, value in fields.items()}
    given = next((named[name] for name in NAMES if name in named), None)
    if given is None:
        return None
    return _largest(" ".join(map(str, given)) if isinstance(given, list) else str(given))


def _largest(text: str) -> float:
    try:
        largest = max(float(word) for word in text.replace(",", " ").split())
    except ValueError:
        raise ValueError("it holds no b-values, which are numbers") from None
    if not math.isfinite(largest) or not 0 < largest <= MOST:
        raise ValueError(f"its largest b-value is {largest:g} s/mm², not above 0 and at most {MOST}")
    return largest
