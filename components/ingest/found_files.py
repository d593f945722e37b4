"""What a listing of files comes to: cases, the masks that may be theirs, and what is refused."""

from collections.abc import Container, Iterable
from dataclasses import dataclass, field

from components.ingest.file_names import BIDS_DWI, BIDS_MASK, DERIVED, FLAT, SCAN_ENDING
from components.scans.b_value import BVAL, SIDECAR
from components.scans.prediction_mark import PART, TABLE


@dataclass(frozen=True)
class Candidate:
    """A mask that has a case's name: one file, or one per slice.

    beside: it lies where the layout wants the mask of that case. predicted: it lies in a folder of predictions by
    their names, folder_beside: which lies beside the scans.
    """

    keys: list[str]
    beside: bool
    predicted: bool
    folder_beside: bool


@dataclass
class Case:
    """One scan session of one patient and the keys it is made of.

    image and mask hold one key, or one per slice in the order of `slice_numbers`. b0 is of use where there is no adc,
    b_values (a `.bval` file, a JSON sidecar) where there is a b0 of use. mask is what `candidates` come to by their
    names alone; which of them a model has predicted is known once they are read.
    """

    name: str
    patient: str
    session: str | None = None
    image: list[str] = field(default_factory=list)
    mask: list[str] = field(default_factory=list)
    adc: str | None = None
    slice_numbers: list[int] | None = None
    b0: str | None = None
    b_values: list[str] = field(default_factory=list)
    candidates: list[Candidate] = field(default_factory=list)

    @property
    def keys(self) -> list[str]:
        return [*self.image, *self.mask, *filter(None, [self.adc or self.b0]), *self.b_values]

    @property
    def wanted(self) -> set[str]:
        """All that has to be read to decide on the case."""
        return {*self.keys, *(key for candidate in self.candidates for key in candidate.keys)}

    def find_b_values(self, keys: Container[str]) -> None:
        """Take from `keys` the files beside the DWI, of its own name, that may hold its b-value."""
        if self.b0 and not self.adc and self.image:
            stem = SCAN_ENDING.sub("", self.image[0])
            self.b_values = [stem + ending for ending in (BVAL, SIDECAR) if stem + ending in keys]

    def label(self, candidates: list[Candidate]) -> str | None:
        """Take its mask from these candidates; the reason where that cannot be."""
        self.mask = candidates[0].keys if candidates else []
        if len(candidates) > 1:
            return f"{len(candidates)} masks where one is expected: {', '.join(c.keys[0] for c in candidates)}"
        if candidates and not candidates[0].beside:
            return (
                f"its mask {self.mask[0]} and its image {self.image[0]} lie in two data sets: only images/ and masks/ "
                "(or sub-X/ and derivatives/) beside each other hold pairs. Move one, or rename it if it is another's."
            )
        return None


@dataclass
class Found:
    """What a listing holds: usable cases, refused names with their reasons, and keys that are no scans.

    unclear: the refused cases that may be usable, if all but one of their masks turn out to be predictions.
    tables: the keys of the tables that `make predict` may have left.
    """

    layout: str
    cases: list[Case]
    refused: dict[str, str]
    ignored: list[str]
    unclear: list[Case] = field(default_factory=list)
    tables: list[str] = field(default_factory=list)

    @property
    def wanted(self) -> set[str]:
        """The keys to be read of all cases, and the tables."""
        return {key for case in (*self.cases, *self.unclear) for key in case.wanted} | set(self.tables)


def is_table(key: str) -> bool:
    return key.rsplit("/", 1)[-1] in (TABLE, TABLE + PART)


def homes(keys: Iterable[str]) -> set[str]:
    """The folders ("" or with / at their end) in which a table says that `make predict` wrote there."""
    return {key[: key.rfind("/") + 1] for key in keys if is_table(key)}


def in_predictions(key: str, homes: set[str]) -> bool:
    """Return whether the key lies where `make predict` writes in one of these folders."""
    parts = key.split("/")
    return bool(homes) and any(
        "/".join([*parts[:i], ""]) in homes and parts[i].casefold() in ("masks", "probabilities")
        for i in range(len(parts) - 1)
    )


def candidate(images: list[str], masks: list[str], predicted: bool) -> Candidate:
    """The masks of a case, one for each of its images, or one of the only image."""
    pairs = list(zip(images, masks, strict=True))
    return Candidate(
        masks,
        beside=all(_beside(image, mask) for image, mask in pairs),
        predicted=predicted,
        folder_beside=predicted and all(_folder_beside(image, mask) for image, mask in pairs),
    )


def _beside(image: str, mask: str) -> bool:
    if not FLAT.match(image) and (derived := BIDS_MASK.match(mask)):
        return _root(image).startswith(derived["root"])  # derivatives/ may lie above the patients
    return FLAT.match(mask)["parent"] == _root(image)


def _folder_beside(image: str, mask: str) -> bool:
    """Whether the folder that holds the predictions' masks/ lies beside the scans, or among their derivatives."""
    results = FLAT.match(mask)["parent"]
    derived = DERIVED.search(results)
    return _root(image) in {
        results[: results[:-1].rfind("/") + 1],
        results[: derived.end() - len("derivatives/")] if derived else None,
    }


def _root(image: str) -> str:
    """The folder of the data set: that of images/, or of the patients."""
    at = FLAT.match(image)
    return at["parent"] if at else BIDS_DWI.match(image)["root"]
