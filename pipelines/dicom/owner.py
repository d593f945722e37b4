"""Whose a DICOM study or a mask is, by the names of folders and files: never by a header."""

from dataclasses import dataclass

from components.ingest.file_names import patient_and_session

LAYOUT = "Give each patient a folder NAME (sessions: NAME/ses-1), and its mask the name masks/NAME.nii.gz"


@dataclass(frozen=True)
class Owner:
    """A patient, and a session or "", as in BIDS: sub-NAME and ses-Y. `name` is the patient in the data set."""

    subject: str
    session: str
    name: str

    @property
    def named(self) -> str:
        """The start of the names of their files."""
        return "_".join(filter(None, (self.subject, self.session)))

    def scan_key(self, ending: str) -> str:
        """Return the key of a scan in the layout of BIDS."""
        return "/".join(filter(None, (self.subject, self.session, "dwi", f"{self.named}_{ending}")))

    @property
    def mask_key(self) -> str:
        """The key of the mask in the layout of BIDS."""
        return "/".join(filter(None, ("derivatives", self.subject, self.session, f"{self.named}_msk.nii.gz")))


def owner(name: str, session: str = "") -> Owner:
    """Return the owner for NAME or NAME_ses-Y; `session` is that of a folder inside."""
    patient, in_name = patient_and_session(name)
    subject = patient if patient.startswith("sub-") else f"sub-{patient}"
    return Owner(subject, session or in_name or "", patient)


def owner_of_folder(home: str) -> Owner | None:
    """Return whose a study in the folder `home` of a data set is; None if that is no folder of one patient."""
    names = [part for part in home.split("/") if part]
    if names and names[0].casefold() == "images":
        del names[0]
    if not names:
        return None
    below = names[1] if len(names) > 1 else ""
    return owner(names[0], below if below.casefold().startswith("ses-") else "")
