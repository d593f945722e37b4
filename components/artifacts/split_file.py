"""Which patient is in which subset: split writes it, and each registered version keeps a copy as `split.json`.

Some fields have older names in the file (`lineage`, `people`, `carried_from`, `stay`): registered versions hold them.
"""

import hashlib
import json
from typing import Any, ClassVar

from pydantic import ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

from components.artifacts.artifact import Artifact, Record

SUBSETS = ("train", "val", "test")


class AssignedPatient(Record):
    """A patient of this split or of an earlier one."""

    patient: str
    data_uri: str | None
    """None where an old version did not keep it."""
    subset: str
    images: list[str]
    """SHA-256 of the voxels of each scan."""


class SplitSource(Record):
    """The data and settings that a split was drawn from."""

    data_uri: str | None = None
    """None where an old version did not keep it."""
    data_version: str
    settings: dict[str, Any]
    """Settings and code that determine a split (see `split_settings`)."""
    extended_history: str = Field(validation_alias="lineage", serialization_alias="lineage")
    """Digest of the history that the split extends; "" if it extends none."""

    @model_serializer(mode="wrap")
    def _without_unknown_address(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out an unknown address, as old versions did: the digest of their history must stay."""
        content = serialize(self)
        return content if self.data_uri is not None else {k: v for k, v in content.items() if k != "data_uri"}


class SplitHistory(Record):
    """All patients who ever got a subset, as a registered version keeps them for the next split."""

    patients: list[AssignedPatient] = Field(validation_alias="people", serialization_alias="people")
    """The newest are last."""
    drawn: SplitSource | None
    """Source of the split that added the newest patients; None where an old version did not keep it."""

    @property
    def digest(self) -> str:
        """SHA-256 of the content. Versions whose splits know the same patients have the same digest."""
        content = self.model_dump(mode="json")
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


class EarlierVersion(Record):
    """The registered version whose split this one extends."""

    version: str
    history_digest: str = Field(validation_alias="lineage", serialization_alias="lineage")
    patients_kept: int = Field(validation_alias="stay", serialization_alias="stay")
    """Number of patients of this split who keep their subset."""


class Split(Artifact):
    """The patients and cases of each subset."""

    FILE: ClassVar[str] = "split.json"
    WRITTEN_BY: ClassVar[str] = "split"

    patients: dict[str, list[str]]
    """Subset to patients."""
    cases: dict[str, list[str]]
    """Subset to cases."""
    lesion_free: list[str]
    """Patients without a lesion."""
    linked: list[list[str]]
    """Patients who share a byte-identical image."""
    alike: list[tuple[str, str, float]]
    """Two cases that look alike, and their similarity."""
    ratios_asked: dict[str, float]
    ratios_reached: dict[str, float]
    random_seed: int
    carry_split: bool
    extends: EarlierVersion | None = Field(validation_alias="carried_from", serialization_alias="carried_from")
    history: SplitHistory = Field(validation_alias="lineage", serialization_alias="lineage")
    digest: str
    """SHA-256 of `patients` (see `split_digest`)."""
    history_digest: str = Field(validation_alias="lineage_digest", serialization_alias="lineage_digest")


class RegisteredSplit(Record):
    """The fields of a registered version's `split.json` that the next split needs. Old versions lack some of them."""

    model_config = ConfigDict(extra="ignore")

    patients: dict[str, list[str]]
    digest: str
    carry_split: bool = True
    history: SplitHistory | None = Field(None, validation_alias="lineage")


def split_digest(patients: dict[str, list[str]]) -> str:
    """Return the SHA-256 of the subsets: `patients` maps a subset to its patients."""
    return hashlib.sha256(json.dumps(patients, sort_keys=True).encode()).hexdigest()
