"""The cases, the possible masks and the refusals that a list of file names gives."""

from collections.abc import Container, Iterable
from dataclasses import dataclass, field

from components.ingest.file_names import BIDS_MASK, DERIVED, FLAT, SCAN_ENDING, data_set_folder
from components.scans.b_value import BVAL, SIDECAR
from components.scans.prediction_mark import PART, TABLE


@dataclass(frozen=True)
class MaskCandidate:
    """A mask with the name of a case: one file, or one file per slice."""

    keys: list[str]
    in_place: bool
    """Whether it is where the layout expects the mask of that case."""
    predicted: bool
    """Whether it is in a folder of predictions, by the folder's name."""
    folder_in_place: bool
    """Whether that folder of predictions is beside the scans, or below their derivatives/."""


@dataclass
class FoundCase:
    """One scan session of one patient, and the keys of its files."""

    name: str
    patient: str
    session: str | None = None
    image: list[str] = field(default_factory=list)
    """One key, or one per slice in the order of `slice_numbers`."""
    mask: list[str] = field(default_factory=list)
    """The mask that is chosen from `candidates`: one key, or one per slice."""
    adc: str | None = None
    slice_numbers: list[int] | None = None
    b0: str | None = None
    """Read only if there is no ADC map."""
    b_values: list[str] = field(default_factory=list)
    """Files that may hold the b-value (`.bval`, JSON sidecar); read only if b0 is read."""
    candidates: list[MaskCandidate] = field(default_factory=list)
    """All masks with the name of this case. Which of them a model predicted is known after reading them."""
    derivative: str = ""
    """Set by make predict alone: how the names of its results begin in a derivative of BIDS; "" elsewhere."""

    @property
    def keys(self) -> list[str]:
        return [*self.image, *self.mask, *filter(None, [self.adc or self.b0]), *self.b_values]

    @property
    def wanted(self) -> set[str]:
        """All keys that must be read to validate the case."""
        return {*self.keys, *(key for mask in self.candidates for key in mask.keys)}

    def find_b_values(self, keys: Container[str]) -> None:
        """Find the files in `keys` that have the name of the DWI and may hold its b-value."""
        if self.b0 and not self.adc and self.image:
            stem = SCAN_ENDING.sub("", self.image[0])
            self.b_values = [stem + ending for ending in (BVAL, SIDECAR) if stem + ending in keys]

    def choose_mask(self, candidates: list[MaskCandidate]) -> str | None:
        """Take the mask from these candidates; return the reason if the case must be refused."""
        self.mask = candidates[0].keys if candidates else []
        if len(candidates) > 1:
            return f"{len(candidates)} masks where one is expected: {', '.join(c.keys[0] for c in candidates)}"
        if candidates and not candidates[0].in_place:
            return (
                f"its mask {self.mask[0]} and its image {self.image[0]} are in two data sets: images/ and masks/ (or "
                "sub-X/ and derivatives/) must be in one folder. Move one file, or rename it if the patient is another."
            )
        return None


@dataclass
class Found:
    """All cases in a list of keys."""

    layout: str
    cases: list[FoundCase]
    """The usable cases."""
    refused: dict[str, str]
    """Case to the reason of its refusal."""
    ignored: list[str]
    """Keys that are not scans."""
    unclear: list[FoundCase] = field(default_factory=list)
    """Refused cases that become usable if all of their masks but one are predictions."""
    tables: list[str] = field(default_factory=list)
    """Keys of tables that `make predict` may have written."""

    @property
    def wanted(self) -> set[str]:
        """All keys that must be read."""
        return {key for case in (*self.cases, *self.unclear) for key in case.wanted} | set(self.tables)


def is_table(key: str) -> bool:
    return key.rsplit("/", 1)[-1] in (TABLE, TABLE + PART)


def prediction_folders(keys: Iterable[str]) -> set[str]:
    """Return the folders ("" or with a final /) that hold a table of `make predict`."""
    return {key[: key.rfind("/") + 1] for key in keys if is_table(key)}


def in_predictions(key: str, folders: set[str]) -> bool:
    """Return whether the key is in masks/ or probabilities/ of one of these folders of `make predict`."""
    parts = key.split("/")
    return bool(folders) and any(
        "/".join([*parts[:i], ""]) in folders and parts[i].casefold() in ("masks", "probabilities")
        for i in range(len(parts) - 1)
    )


def mask_candidate(images: list[str], masks: list[str], predicted: bool) -> MaskCandidate:
    """Describe the mask of a case: one key per image."""
    pairs = list(zip(images, masks, strict=True))
    return MaskCandidate(
        masks,
        in_place=all(_in_place(image, mask) for image, mask in pairs),
        predicted=predicted,
        folder_in_place=predicted and all(_folder_in_place(image, mask) for image, mask in pairs),
    )


def _in_place(image: str, mask: str) -> bool:
    folder = data_set_folder(image) or ""
    if not FLAT.match(image) and (derived := BIDS_MASK.match(mask)):
        return folder.startswith(derived["root"])  # derivatives/ may be above the patients
    return data_set_folder(mask) == folder


def _folder_in_place(image: str, mask: str) -> bool:
    """Return whether the folder of predictions is beside the scans, or below their derivatives/."""
    results = data_set_folder(mask) or ""
    derived = DERIVED.search(results)
    return data_set_folder(image) in {
        results[: results[:-1].rfind("/") + 1],
        results[: derived.end() - len("derivatives/")] if derived else None,
    }
