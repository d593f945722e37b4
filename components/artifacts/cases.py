"""The validated scans: ingest writes them to `cases.json`, beside the canonical volumes."""

import logging
from typing import ClassVar

from pydantic import Field

from components.artifacts.artifact import Artifact, Record
from components.core.errors import StepError

LESION_PATIENTS_NEEDED = 3
REPORT = "data_report.html"
"""The data report beside cases.json, for the MLflow runs of later steps."""


PARENT_TESTS = "parent_tests"
"""Folder beside cases.json with the test scans of the model that the training starts from, and a cases.json."""


class Source(Record):
    """One file that a scan was read from."""

    key: str
    """Its key below the data URI."""
    sha256: str


class Case(Record):
    """One validated scan."""

    case: str
    """Its name: patient and session."""
    patient: str
    session: str | None
    labelled: bool
    """Whether it has a lesion mask that a person drew."""
    shape: tuple[int, int, int]
    voxel_mm: tuple[float, float, float] | None
    """None if the file does not give it (.npy)."""
    orientation_found: str | None
    slice_numbers: list[int] | None
    """The slices' numbers in their file names; None if the scan is one file."""
    files: dict[str, str]
    """Kind (dwi, adc, mask) to the canonical volume's file name."""
    sources: list[Source]
    voxel_sha256: str
    slice_sha256: list[str]
    lesion_voxels: int | None
    """None for an unlabelled scan."""
    lesion_ml: float | None
    adc_unit_found: str | None
    portrait: str | None
    """A tiny picture by which near-duplicates are found (see components/scans/near_duplicates.py)."""
    repairs: list[str] = Field(default_factory=list)
    site: str | None = None
    scanner: str | None = None


class Cases(Artifact):
    """All scans of a data set that passed validation, and why the others did not."""

    FILE: ClassVar[str] = "cases.json"
    WRITTEN_BY: ClassVar[str] = "ingest"

    layout: str | None
    cases: list[Case]
    refused: dict[str, str]
    """Case to the reason of its refusal."""
    ignored: list[str]
    """Keys of files that are not scans."""
    notes: list[str]
    synthetic: bool
    b_value: float = 0.0
    """The setting, s/mm²; 0 if it was not given."""
    modality_check: bool = True
    data_uri: str
    data_version: str

    @property
    def by_name(self) -> dict[str, Case]:
        return {case.case: case for case in self.cases}

    @property
    def patient_of(self) -> dict[str, str]:
        return {case.case: case.patient for case in self.cases}

    def learnable(self, inputs: str) -> list[Case]:
        """Return the labelled cases that have all images that the network sees (`inputs`).

        Raises:
            StepError: too few patients with a lesion and an ADC map are left.
        """
        labelled = [c for c in self.cases if c.labelled]
        if inputs == "dwi":
            return labelled
        usable = [c for c in labelled if "adc" in c.files]
        for case in labelled:
            if "adc" not in case.files:
                logging.info("refused    %s: no ADC map and no b0 to compute it from, and inputs=%s", case.case, inputs)
        if len(patients := {c.patient for c in usable if c.lesion_voxels}) < LESION_PATIENTS_NEEDED:
            raise StepError(
                f"inputs={inputs} needs {LESION_PATIENTS_NEEDED} labelled patients with a lesion and an ADC map (one "
                f"each to train, to validate and to test), {len(patients)} found: {len(labelled) - len(usable)} of "
                f"{len(labelled)} labelled scans have none (each named above). Add sub-X_ses-Y_adc.nii.gz or "
                "_b0.nii.gz beside the DWI, or learn from the DWI alone: inputs=dwi."
            )
        return usable
