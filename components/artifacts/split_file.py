"""Which patient is in which subset: split writes it, and each registered version keeps a copy as `split.json`."""

from typing import Any, ClassVar

from components.artifacts.artifact import Artifact, Record

SUBSETS = ("train", "val", "test")


class AssignedPatient(Record):
    """A patient of this split or of an earlier one."""

    patient: str
    data_uri: str | None
    subset: str
    images: list[str]
    """SHA-256 of the voxels of each scan."""


class SplitSource(Record):
    """From what a split was drawn."""

    data_uri: str
    data_version: str
    settings: dict[str, Any]
    lineage: str
    """Digest of the history that it extends; "" where it extends none."""


class SplitHistory(Record):
    """All patients who were ever assigned, as a registered version keeps them for the next split."""

    people: list[AssignedPatient]
    drawn: SplitSource


class ExtendedFrom(Record):
    """The registered version whose split this one extends."""

    version: str
    lineage: str
    stay: int
    """Number of patients who keep their subset."""


class Split(Artifact):
    """The patients and cases of each subset."""

    FILE: ClassVar[str] = "split.json"
    WRITTEN_BY: ClassVar[str] = "split"

    patients: dict[str, list[str]]
    """Subset to patients."""
    cases: dict[str, list[str]]
    """Subset to cases."""
    lesion_free: list[str]
    linked: list[list[str]]
    """Patients who share a byte-identical image."""
    alike: list[tuple[str, str, float]]
    """Two cases that look alike, and how much."""
    ratios_asked: dict[str, float]
    ratios_reached: dict[str, float]
    random_seed: int
    carry_split: bool
    carried_from: ExtendedFrom | None
    lineage: SplitHistory
    digest: str
    """SHA-256 of `patients`."""
    lineage_digest: str
