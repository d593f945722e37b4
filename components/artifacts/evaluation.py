"""The evaluation: evaluate writes a folder with test metrics, the comparison with the champion, masks and pictures."""

from typing import Any, ClassVar

from components.artifacts.artifact import Artifact, Record
from components.artifacts.cases import Source

PICTURES = "pictures.json"
"""Overlay's file name to its case."""


class Subgroup(Record):
    """Results over the patients of one lesion volume, site or scanner."""

    patients: int
    scans: int
    dice_mean: float | None
    dice_ci_low: float | None
    dice_ci_high: float | None
    lesion_f1_mean: float | None
    absolute_volume_difference_ml_mean: float | None


class LesionFree(Record):
    """Results over scans without a lesion."""

    patients: int
    scans: int
    scans_with_false_lesion: int
    false_positive_ml_mean: float | None


class CalibrationBin(Record):
    voxels: int
    probability: float | None
    lesion: float | None


class Calibration(Record):
    """Expected calibration errors before and after temperature scaling."""

    temperature: float | None
    ece_before: float | None
    ece_after: float | None
    bins_before: list[CalibrationBin]
    bins_after: list[CalibrationBin]


class VolumeAgreement(Record):
    """Bland-Altman agreement of volumes, mL."""

    bias_ml: float | None
    agreement_low_ml: float | None
    agreement_high_ml: float | None
    interval_level: float | None
    interval_coverage: float | None


class Review(Record):
    """How many scans were flagged for review, and how many of the failures are among them."""

    scans: int
    flagged: int
    failures: int
    failures_flagged: int
    failure: str


class TestMetrics(Artifact):
    """Summary over the test patients and the result of each test scan."""

    __test__: ClassVar[bool] = False
    FILE: ClassVar[str] = "test_metrics.json"
    WRITTEN_BY: ClassVar[str] = "evaluate"

    summary: dict[str, float]
    """Metric name, as MLflow shows it, to value."""
    threshold: float
    space: str = "native"
    synthetic: bool
    strata: dict[str, dict[str, Subgroup]]
    lesion_free: LesionFree
    calibration: Calibration
    volume: VolumeAgreement
    review: Review
    cases: list[dict[str, Any]]


class Difference(Record):
    """Challenger less champion: mean over patients and 95 % interval; None of too few patients."""

    mean: float
    ci_low: float | None
    ci_high: float | None


class Comparison(Artifact):
    """The present champion on the same test scans."""

    FILE: ClassVar[str] = "comparison.json"
    WRITTEN_BY: ClassVar[str] = "evaluate"

    champion: str | None
    """Its version; None where there is no champion."""
    model: str | None
    reason: str
    """Why the comparison cannot support a promotion; "" where it can."""
    pairs: dict[str, dict[str, tuple[float, float]]] | None = None
    """Metric to patient to (challenger, champion); None where the champion could not be evaluated."""
    differences: dict[str, Difference] | None = None


class ScanDigest(Record):
    """Name and digests of one scan, without its header."""

    case: str
    patient: str
    session: str | None
    labelled: bool
    lesion_voxels: int | None
    lesion_ml: float | None
    site: str | None
    scanner: str | None
    sources: list[Source]
    voxel_sha256: str
    subset: str | None


class SizesSeen(Record):
    """Lowest and highest size per axis of the scans that were learnt from."""

    voxel_mm: list[tuple[float, float]] | None
    shape: list[tuple[int, int]]


class ScanDigests(Artifact):
    """The scans that a model learnt from and was tested on, as its registered version keeps them."""

    FILE: ClassVar[str] = "cases.json"
    WRITTEN_BY: ClassVar[str] = "evaluate"

    data_uri: str
    data_version: str
    layout: str | None
    synthetic: bool
    refused: dict[str, str]
    split_digest: str
    seen: SizesSeen
    cases: list[ScanDigest]
