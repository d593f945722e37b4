"""Which patient is in which subset: split writes it, and each registered version keeps a copy as `split.json`.

Some fields have older names in the file (`lineage`, `people`, `carried_from`, `stay`): registered versions hold them.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

from pydantic import ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from components.artifacts.artifact import Artifact, Record
from components.core.errors import StepError

SUBSETS = ("train", "val", "test")
FEWEST_FOLDS, MOST_FOLDS = 3, 10
"""In a cross-validation one fold is held out, one validates, and at least one trains."""


def fold_name(fold: int) -> str:
    """Return the name of a fold, from 1: it is a subset of the patients."""
    return f"fold-{fold}"


def subset_names(folds: int) -> tuple[str, ...]:
    """Return the subsets of a split: train, val and test, or the folds of a cross-validation."""
    return SUBSETS if folds == 1 else tuple(fold_name(fold) for fold in range(1, folds + 1))


def count_folds(subsets: dict[str, list[str]]) -> int:
    """Return the number of folds of a split, given its subsets; 1 for train, val and test."""
    return len(subsets) if fold_name(1) in subsets else 1


def patients_tested(subsets: dict[str, list[str]]) -> set[str]:
    """Return the patients on whom a model is tested: the test set, or the patients of all folds."""
    names = ["test"] if count_folds(subsets) == 1 else list(subsets)
    return {patient for name in names for patient in subsets[name]}


def patients_learnt(subsets: dict[str, list[str]]) -> set[str]:
    """Return the patients whom no part of a model is tested on: those of train and val; nobody with folds."""
    return {*subsets["train"], *subsets["val"]} if count_folds(subsets) == 1 else set()


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


class HeldOutFold(Record):
    """The fold that one network of a cross-validation is tested on."""

    fold: int
    """From 1."""
    folds: int
    split_digest: str
    """Digest of the split into folds."""


class Split(Artifact):
    """The patients and cases of each subset. The subsets are train, val and test, or the folds of a cross-validation.

    Invalid if a patient or a case is in two subsets.
    """

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
    held_out: HeldOutFold | None = None
    """Of a split for one network of a cross-validation (see `of_fold`)."""

    @model_validator(mode="after")
    def _subsets_are_disjoint(self) -> Self:
        for what, subsets in (("patient", self.patients), ("case", self.cases)):
            counts = Counter(name for names in subsets.values() for name in names)
            if twice := sorted(name for name, count in counts.items() if count > 1):
                where = " and ".join(subset for subset, names in subsets.items() if twice[0] in names)
                raise ValueError(f"the {what} {twice[0]} is in {where}: a network would be tested on what it learnt")
        return self

    @property
    def folds(self) -> int:
        """Return the number of folds; 1 for train, val and test."""
        return count_folds(self.patients)

    def require_own_cases(self, patient_of: Mapping[str, str]) -> None:
        """Check that the cases of each subset are of its patients: `patient_of` maps a case to its patient.

        Raises:
            StepError: a case is in another subset than its patient.
        """
        subset_of = {patient: subset for subset, patients in self.patients.items() for patient in patients}
        for subset, names in self.cases.items():
            for name in names:
                if name in patient_of and subset_of.get(patient_of[name]) != subset:
                    raise StepError(
                        f"{self.FILE}: the case {name} is in {subset}, and its patient {patient_of[name]} is in "
                        f"{subset_of.get(patient_of[name], 'no subset')}: a network would be tested on a patient that "
                        "it learnt from. The split was altered: run the split step again."
                    )

    def require_held_out(self, digests: Sequence[str | None]) -> None:
        """Check that the n-th network was trained without fold n: `digests` are those of the networks' splits.

        Raises:
            StepError: a network was trained with another split, or their number is not that of the folds.
        """
        if len(digests) != self.folds:
            raise StepError(f"the split has {self.folds} folds, and there are {len(digests)} networks. Run all steps.")
        for fold, digest in enumerate(digests, start=1):
            if digest != self.of_fold(fold).digest:
                raise StepError(
                    f"the network of fold {fold} was not trained without this fold of this split, so it may have "
                    "learnt from patients that it is tested on. Run all steps again."
                )

    def of_fold(self, fold: int) -> "Split":
        """Return the split of the network that holds out this fold, from 1.

        The fold is its test set. The next one (after the last fold the first one) validates. All others train.
        """
        validating = fold % self.folds + 1
        subset_of = {name: "train" for name in self.patients}
        subset_of |= {fold_name(validating): "val", fold_name(fold): "test"}

        def merged(parts: dict[str, list[str]]) -> dict[str, list[str]]:
            return {s: sorted(name for part, names in parts.items() if subset_of[part] == s for name in names)
                    for s in SUBSETS}  # fmt: skip

        patients, total = merged(self.patients), sum(map(len, self.patients.values()))
        asked = {s: sum(share for part, share in self.ratios_asked.items() if subset_of[part] == s) for s in SUBSETS}
        digest = split_digest(patients)
        changed = {
            "patients": patients, "cases": merged(self.cases), "ratios_asked": asked, "digest": digest,
            "ratios_reached": {s: len(names) / total for s, names in patients.items()},
            "held_out": HeldOutFold(fold=fold, folds=self.folds, split_digest=self.digest),
        }  # fmt: skip
        return self.model_copy(update=changed)


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
