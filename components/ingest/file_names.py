"""Read the layout, the patient and the session from file names, and refuse unusable names.

Patterns ignore case. Names are compared in one Unicode form (NFC).
"""

import re
from collections.abc import Iterable

from components.core.text import can_be_shown, composed, look

SCAN = r"\.(?:nii\.gz|nii|npy)"
FLAT = re.compile(rf"^(?P<parent>(?:.*/)?)(?P<kind>images|masks)/(?P<stem>[^/]+?)(?P<ending>{SCAN})$", re.IGNORECASE)
SLICE = re.compile(r"^(.+)_Slice_(\d+)$", re.IGNORECASE)
"""A single slice (`.npy` only): patient and number, as in Patient_012_Slice_007."""
SESSION = re.compile(r"^(?P<patient>.+?)_ses-(?P<session>.*)$", re.IGNORECASE | re.DOTALL)
OWNER = r"^(?P<root>(?:.*/)?)(?P<subject>sub-[^/]+)/(?:(?P<session>ses-[^/]+)/)?"
BIDS_DWI = re.compile(rf"{OWNER}(?:dwi/)?[^/]+_(?P<kind>dwi|adc)\.nii(?:\.gz)?$", re.IGNORECASE)
BIDS_B0 = re.compile(rf"{OWNER}(?:dwi/)?[^/]+_b0\.nii(?:\.gz)?$", re.IGNORECASE)
BIDS_MASK = re.compile(
    r"^(?P<root>(?:.*?/)?)derivatives/(?:.*/)?(?P<subject>sub-[^/]+)/(?:(?P<session>ses-[^/]+)/)?(?:[^/]+/)?"
    r"[^/]*[_-](?:msk|mask|lesion|seg|dseg)\.nii(?:\.gz)?$",
    re.IGNORECASE,
)
"""A mask below derivatives/. It is a lesion mask unless its name says that it is a brain mask (`is_brain_mask`)."""
KIND = re.compile(r"[_-](?:dwi|adc|b0|msk|mask|lesion|seg|dseg)$", re.IGNORECASE)
"""The last part of a BIDS file name, before the extension."""
DERIVED, SOURCE = re.compile(r"(?:^|/)derivatives/", re.IGNORECASE), re.compile(r"(?:^|/)sourcedata/", re.IGNORECASE)
"""BIDS folders without scans: results computed from the scans, and the raw data from which the scans were made."""

MOST_NAME_BYTES, MOST_KEY_BYTES, MOST_SLICE_NUMBER = 240, 1024, 9999
"""File systems allow 255 bytes for a name (and suffixes such as .part need some), S3 allows 1024 for a key."""
OUTSIDE = re.compile(r"(?:^|/)\.{1,2}(?:/|$)|^/|//")
HIDDEN = re.compile(r"(?:^|/)(?:\.|__MACOSX/)", re.IGNORECASE)
"""Files that desktops and archives add: ._NAME, .Trash/, __MACOSX/."""
SCAN_ENDING = re.compile(rf"{SCAN}$", re.IGNORECASE)


def name_problem(key: str) -> str | None:
    """Return why a file name is unusable on disks and in reports; None if it is usable."""
    if not all(map(can_be_shown, key)):
        return "its name has characters that cannot be displayed or are not UTF-8: rename it"
    if OUTSIDE.search(key):
        return "its key leaves its folder or has an empty part (//): rename it"
    if len(key.encode()) > MOST_KEY_BYTES or any(len(part.encode()) > MOST_NAME_BYTES for part in key.split("/")):
        return f"its name is too long: at most {MOST_NAME_BYTES} bytes, {MOST_KEY_BYTES} with its folders. Rename it."
    return None


def similar_names(names: Iterable[str]) -> str:
    """Return the reason for refusing names that look the same: one patient could count as two."""
    return f"these names differ only in case, spaces or Unicode form: {', '.join(sorted(names))}. Rename one of them."


def data_set_folder(key: str) -> str | None:
    """Return the folder ("" or with a final /) that holds images/ or sub-X of a scan; None if the layout is unknown."""
    if match := FLAT.match(key):
        return match["parent"]
    match = BIDS_DWI.match(key) or BIDS_B0.match(key)
    return match["root"] if match else None


def patient_and_session(stem: str) -> tuple[str, str | None]:
    """Split NAME_ses-1 or NAME_SES-1 into ("NAME", "ses-1"); return (stem, None) if it has no session."""
    found = SESSION.match(stem)
    return (found["patient"], f"ses-{found['session'].split('_')[0]}") if found else (stem, None)


def is_brain_mask(key: str) -> bool:
    """Return whether the file name, without the labels of patient and session, is the name of a brain mask."""
    return "brain" in _without_owner(key) and "lesion" not in _without_owner(key)


def owner_conflict(key: str) -> str | None:
    """Return how a file and its folder disagree about the patient or the session; None if they agree.

    A file name without a patient or a session belongs to its folder.
    """
    folders = owner_folders(key)
    for entity, what in (("sub-", "patient"), ("ses-", "session")):
        folder = next((name for name in folders if look(name).startswith(entity)), None)
        others = [part for part in re.split(r"_|-(?=ses-)", _without_owner(key)) if part.startswith(entity)]
        if folder and others:
            return f"{key} is in the folder of {folder} and names another {what}: move it, or rename one of them"
    return None


def session_in_name(key: str) -> str | None:
    """Return the session in a file's own name, in the form of `look`; None if there is no session in it."""
    parts = re.split(r"_|-(?=ses-)", look(_stem(key)))
    return next((part for part in parts if part.startswith("ses-")), None)


def owner_folders(key: str) -> list[str]:
    """Return the last folder sub-X in the path of a file, and the first folder ses-Y below it."""
    folders = key.split("/")[:-1]
    at = max((i for i, folder in enumerate(folders) if look(folder).startswith("sub-")), default=None)
    if at is None:
        return []
    session = [folder for folder in folders[at + 1 :] if look(folder).startswith("ses-")]
    return [folders[at], *session[:1]]


def _stem(key: str) -> str:
    return KIND.sub("", SCAN_ENDING.sub("", composed(key.rsplit("/", 1)[-1])))


def _without_owner(key: str) -> str:
    """Return a file's name, in the form of `look`, without the patient and the session of its folders."""
    name = look(SCAN_ENDING.sub("", key.rsplit("/", 1)[-1]))
    kind = KIND.search(name)
    ending, name = (kind[0], name[: kind.start()]) if kind else ("", name)
    for folder in map(look, owner_folders(key)):
        label = f"(?:{re.escape(folder)}|{re.escape(folder[4:])})"
        name = re.sub(rf"(?<![^_-]){label}(?=_|$|-ses-)", "", name, count=1)
    return name + ending
