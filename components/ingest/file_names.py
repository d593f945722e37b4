"""What the name of a file says: which layout it is of, whose it is, and whether it can be a name at all.

Every pattern is blind to capitals, and what is compared is in one coding of its letters.
"""

import re
from collections.abc import Iterable

from components.core.text import can_be_shown, composed, look

SCAN = r"\.(?:nii\.gz|nii|npy)"
FLAT = re.compile(rf"^(?P<parent>(?:.*/)?)(?P<kind>images|masks)/(?P<stem>[^/]+?)(?P<ending>{SCAN})$", re.IGNORECASE)
SLICE = re.compile(r"^(.+)_Slice_(\d+)$", re.IGNORECASE)
"""Single slices, `.npy` only: Patient_XXX_Slice_YYY."""
SESSION = re.compile(r"^(?P<patient>.+?)_ses-(?P<session>.*)$", re.IGNORECASE | re.DOTALL)
OWNER = r"^(?P<root>(?:.*/)?)(?P<subject>sub-[^/]+)/(?:(?P<session>ses-[^/]+)/)?"
BIDS_DWI = re.compile(rf"{OWNER}(?:dwi/)?[^/]+_(?P<kind>dwi|adc)\.nii(?:\.gz)?$", re.IGNORECASE)
BIDS_B0 = re.compile(rf"{OWNER}(?:dwi/)?[^/]+_b0\.nii(?:\.gz)?$", re.IGNORECASE)
BIDS_MASK = re.compile(
    r"^(?P<root>(?:.*?/)?)derivatives/(?:.*/)?(?P<subject>sub-[^/]+)/(?:(?P<session>ses-[^/]+)/)?(?:[^/]+/)?"
    r"[^/]*[_-](?:msk|mask|lesion|seg|dseg)\.nii(?:\.gz)?$",
    re.IGNORECASE,
)
"""A mask among the derivatives, of the lesion unless its name says that it is of the brain (`is_brain_mask`)."""
KIND = re.compile(r"[_-](?:dwi|adc|b0|msk|mask|lesion|seg|dseg)$", re.IGNORECASE)
"""How the name of a file in BIDS ends, its extension aside."""
DERIVED, SOURCE = re.compile(r"(?:^|/)derivatives/", re.IGNORECASE), re.compile(r"(?:^|/)sourcedata/", re.IGNORECASE)
"""Below these folders lie no scans of a BIDS data set, but what was made of them and what they were made of."""

MOST_NAME_BYTES, MOST_KEY_BYTES, MOST_SLICE_NUMBER = 240, 1024, 9999
"""A file system takes 255 bytes for a name (some go to .part and the like), S3 takes 1024 for a key."""
OUTSIDE = re.compile(r"(?:^|/)\.{1,2}(?:/|$)|^/|//")
HIDDEN = re.compile(r"(?:^|/)(?:\.|__MACOSX/)", re.IGNORECASE)
"""What desktops and archives leave beside files: ._NAME, .Trash/, __MACOSX/."""
SCAN_ENDING = re.compile(rf"{SCAN}$", re.IGNORECASE)


def unfit(key: str) -> str | None:
    """Why no file and no line of a report can have this name; None where they can."""
    if not all(map(can_be_shown, key)):
        return "its name holds characters that cannot be shown or are no UTF-8: rename it"
    if OUTSIDE.search(key):
        return "its key leaves its folder or holds an empty step: rename it"
    if len(key.encode()) > MOST_KEY_BYTES or any(len(part.encode()) > MOST_NAME_BYTES for part in key.split("/")):
        return f"its name is too long: at most {MOST_NAME_BYTES} bytes, with its folders {MOST_KEY_BYTES}"
    return None


def look_alike(names: Iterable[str]) -> str:
    """Why names that look alike are refused: one patient could be taken for two."""
    return f"names that differ only in case, spaces or the coding of letters: {', '.join(sorted(names))}"


def patient_and_session(stem: str) -> tuple[str, str | None]:
    """("NAME", "ses-1") of NAME_ses-1 or NAME_SES-1; the whole name and None where it names no session."""
    found = SESSION.match(stem)
    return (found["patient"], f"ses-{found['session'].split('_')[0]}") if found else (stem, None)


def is_brain_mask(key: str) -> bool:
    """Return whether the mask is of the brain by its name, the labels of patient and session aside."""
    return "brain" in _without_owner(key) and "lesion" not in _without_owner(key)


def contradiction(key: str) -> str | None:
    """Why a file is not known to be its folder's: the two name two patients or two sessions; None where they agree.

    A file that names no patient, or no session, is its folder's.
    """
    folders = owner_folders(key)
    for entity, what in (("sub-", "patient"), ("ses-", "session")):
        folder = next((name for name in folders if look(name).startswith(entity)), None)
        others = [part for part in re.split(r"_|-(?=ses-)", _without_owner(key)) if part.startswith(entity)]
        if folder and others:
            return f"{key} lies in the folder of {folder} and names another {what}: move it, or rename one of them"
    return None


def session_in_name(key: str) -> str | None:
    """The session that a file's own name states, as a person sees it; None where it states none."""
    parts = re.split(r"_|-(?=ses-)", look(_stem(key)))
    return next((part for part in parts if part.startswith("ses-")), None)


def owner_folders(key: str) -> list[str]:
    """The last folder called sub-X on the way to a file, and that called ses-Y below it."""
    folders = key.split("/")[:-1]
    at = max((i for i, folder in enumerate(folders) if look(folder).startswith("sub-")), default=None)
    if at is None:
        return []
    session = [folder for folder in folders[at + 1 :] if look(folder).startswith("ses-")]
    return [folders[at], *session[:1]]


def _stem(key: str) -> str:
    return KIND.sub("", SCAN_ENDING.sub("", composed(key.rsplit("/", 1)[-1])))


def _without_owner(key: str) -> str:
    """The name of a file as it looks, without what its folders say already of patient and session."""
    name = look(SCAN_ENDING.sub("", key.rsplit("/", 1)[-1]))
    kind = KIND.search(name)
    ending, name = (kind[0], name[: kind.start()]) if kind else ("", name)
    for folder in map(look, owner_folders(key)):
        label = f"(?:{re.escape(folder)}|{re.escape(folder[4:])})"
        name = re.sub(rf"(?<![^_-]){label}(?=_|$|-ses-)", "", name, count=1)
    return name + ending
