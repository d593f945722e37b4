"""Replace the names in the keys of scans by pseudonyms: patients, sessions, folders, and other file names."""

import hashlib
import hmac
import re
from collections import defaultdict

from components.core.text import PSEUDONYM, composed, look
from components.ingest.file_names import FLAT, SCAN_ENDING, SESSION, SLICE, session_in_name

BIDS_KIND = re.compile(
    r"[_-](?:(?:dwi|adc|b0|msk|mask|lesion|seg|dseg)\.nii(?:\.gz)?|dwi\.(?:bval|json))$", re.IGNORECASE
)
PLAIN = {"derivatives", "dwi"}
"""Folders whose names belong to the layout: they stay."""


class PseudonymNames:
    """Pseudonyms for names, by HMAC-SHA256: with the same key, the same name gets the same pseudonym.

    patients: pseudonym to name. spellings: pseudonym to the names that it stands for.
    """

    def __init__(self, key: str) -> None:
        self.key = key.encode()
        self.patients: dict[str, str] = {}
        self.spellings: dict[str, set[str]] = defaultdict(set)

    def of(self, kind: str, name: str) -> str:
        """Return the pseudonym of a name of this kind ("patient", "session", "folder", "file", "data set")."""
        digest = hmac.new(self.key, f"{kind}\0{name}".encode("utf-8", "surrogateescape"), hashlib.sha256)
        return f"p{digest.hexdigest()[:16]}"

    def flat(self, key: str) -> str:
        """Return the new key of a file in the layout images/NAME, masks/NAME; "" for another layout."""
        found = FLAT.match(key)
        if not found:
            return ""
        _, kind, stem, extension = map(str, found.groups(""))
        slice_of = SLICE.match(stem)
        name = slice_of[1] if slice_of else stem
        session_of = SESSION.match(name)
        patient = session_of["patient"] if session_of else name
        new = self._patient(patient, patient, "")
        if session_of:
            new += f"_ses-{self._one('session', f'{patient}/{session_of[2]}')}"
        folders = key.split("/")[:-2]
        return "/".join([*map(self._folder, folders), kind, new + stem[len(name) :] + extension])

    def bids(self, key: str) -> str:
        """Return the new key of sub-X/ses-Y/dwi/sub-X_ses-Y_dwi, or of a mask in derivatives; "" for another layout."""
        *folders, file = key.split("/")
        kind, subjects = BIDS_KIND.search(file), [i for i, f in enumerate(folders) if f.casefold().startswith("sub-")]
        if FLAT.match(key) and not subjects:
            return self._predicted(folders, file)
        if not kind or not subjects:
            return ""
        at = subjects[-1]
        subject, *below = folders[at:]
        old, new = [subject], [self._patient(subject, subject[4:], subject[:4])]
        if below and below[0].casefold().startswith("ses-"):
            session = below.pop(0)
            old.append(session)
            new.append(session[:4] + self._one("session", f"{subject[4:]}/{session[4:]}"))
        stem, name = file[: kind.start()], "_".join(new)
        if len(old) == 1 and (named := session_in_name(key)):
            name += f"_ses-{self._one('session', f'{subject[4:]}/{named[4:]}')}"
        if stem != "_".join(old):
            name += f"_{self._one('file', stem)}"
        return "/".join([*map(self._folder, folders[:at]), *new, *map(self._folder, below), name + kind[0]])

    def _predicted(self, folders: list[str], file: str) -> str:
        """Return the new key of a mask that `make predict` wrote for a case in BIDS: results/masks/sub-X_ses-Y."""
        stem = SCAN_ENDING.sub("", file)
        ending = file[len(stem) :]
        session_of = SESSION.match(stem)
        subject = session_of["patient"] if session_of else stem
        new = self._patient(subject, subject[4:], subject[:4])
        if session_of:
            new += f"_ses-{self._one('session', f'{subject[4:]}/{session_of[2]}')}"
        return "/".join([*map(self._folder, folders[:-1]), folders[-1], new + ending])

    def folders(self, home: str) -> str:
        """Return the new key of a folder, which is "" or ends with "/"."""
        return "".join(f"{self._folder(name)}/" for name in home.split("/")[:-1])

    def unclear(self, key: str) -> bool:
        """Return whether a pseudonym in a new key stands for several names that look alike: one patient, or two?"""
        return any(len(self.spellings[pseudonym]) > 1 for pseudonym in PSEUDONYM.findall(key))

    def _patient(self, whole: str, name: str, before: str) -> str:
        pseudonym = before + self._one("patient", name)
        self.patients[pseudonym] = whole
        return pseudonym

    def _folder(self, name: str) -> str:
        return name if name.casefold() in PLAIN else self._one("folder", name)

    def _one(self, kind: str, name: str) -> str:
        pseudonym = self.of(kind, look(name))
        self.spellings[pseudonym].add(composed(name))
        return pseudonym
