"""What a file's name says of what it shows: the DWI, a map or an image that belongs to it, or nothing."""

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
"""The last word of a name, after _ or -, or the whole of it, and what such a file is."""
FOLDERS = {"dwi", "adc", "b0", "flair", "swi", "t1w", "t2w"}
"""Names of folders that sort files by what they show."""
CHANNEL = re.compile(r"^(.*)_(\d{4})$")
"""nnU-Net's way: CASE_0000 is the first channel of CASE, CASE_0001 the second."""
MOST_CHANNELS = 8


@dataclass(frozen=True)
class Named:
    """`kind` is dwi, a key of `WORDS`, or "" where the name says nothing; `of` is the name without it, as it looks."""

    kind: str
    of: str

    @property
    def is_mask(self) -> bool:
        return WORDS.get(self.kind) == "a mask"


def named(stem: str) -> Named:
    """What the path of a file, its extension aside, says."""
    *folders, name = look(stem).split("/")
    before, _, last = re.sub("-", "_", name).rpartition("_")
    if last in DWI or last in WORDS:
        return Named(last, "/".join([*folders, name[: len(before)]]))
    for at in reversed(range(len(folders))):
        if folders[at] in FOLDERS:
            return Named(folders[at], "/".join([*folders[:at], *folders[at + 1 :], name]))
    return Named("", "/".join([*folders, name]))


def channels(stems: list[str]) -> dict[str, str]:
    """The stems that are further channels of another, as nnU-Net names them, and that other; long series are none."""
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
