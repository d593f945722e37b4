"""Read from the name of a file what it shows: the DWI, or a map or an image that belongs to it."""

import re
from dataclasses import dataclass

from components.core.text import look

DWI = {"dwi"}
WORDS = {
    "adc": "an ADC map",
    "b0": "a b0 image",
    "flair": "a FLAIR image",
    **dict.fromkeys(("t1", "t1w", "t1ce", "t1c"), "a T1-weighted image"),
    **dict.fromkeys(("t2", "t2w"), "a T2-weighted image"),
    **dict.fromkeys(("t2star", "t2s", "t2starw"), "a T2*-weighted image"),
    "swi": "a susceptibility-weighted image",
    **dict.fromkeys(("pwi", "cbf", "cbv", "mtt", "ttp", "tmax"), "a perfusion map"),
    **dict.fromkeys(("tof", "mra"), "an angiogram"),
    **dict.fromkeys(("ct", "ncct", "cta", "ctp"), "a CT scan"),
    **dict.fromkeys(("msk", "mask", "lesion", "seg", "dseg", "probability"), "a mask"),
}
"""The last part of a name, after _ or -, or the whole name, and what such a file is."""
FOLDERS = {"dwi", "adc", "b0", "flair", "swi", "t1w", "t2w"}
"""Names of folders that hold one kind of file each."""
CHANNEL = re.compile(r"^(.*)_(\d{4})$")
"""nnU-Net's names: CASE_0000 is the first channel of CASE, CASE_0001 the second."""
MOST_CHANNELS = 8


@dataclass(frozen=True)
class Named:
    """`kind` is "dwi", a key of `WORDS`, or "" if the name gives no kind; `of` is the name without the kind."""

    kind: str
    of: str

    @property
    def is_mask(self) -> bool:
        return WORDS.get(self.kind) == "a mask"


def named(stem: str) -> Named:
    """Return the kind in the path of a file (without its extension)."""
    *folders, name = look(stem).split("/")
    before, _, last = re.sub("-", "_", name).rpartition("_")
    if last in DWI or last in WORDS:
        return Named(last, "/".join([*folders, name[: len(before)]]))
    for at in reversed(range(len(folders))):
        if folders[at] in FOLDERS:
            return Named(folders[at], "/".join([*folders[:at], *folders[at + 1 :], name]))
    return Named("", "/".join([*folders, name]))


def channels(stems: list[str]) -> dict[str, str]:
    """Return the stems that are further channels in nnU-Net's names, each with its first channel; not long series."""
    by_case: dict[str, dict[str, str]] = {}
    for stem in stems:
        if match := CHANNEL.match(stem):
            by_case.setdefault(look(match[1]), {})[match[2]] = stem
    return {
        stem: numbered["0000"]
        for numbered in by_case.values()
        if "0000" in numbered and len(numbered) <= MOST_CHANNELS
        for number, stem in numbered.items()
        if number != "0000"
    }
