"""The evaluation: evaluate writes a folder with test metrics, the comparison with the champion, masks and pictures."""

from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import ConfigDict, Field

from components.artifacts.artifact import Artifact, Record
from components.artifacts.cases import Source

MASKS = "masks"
"""Folder with the predicted mask of each test scan."""
FOLDS = "folds"
"""Folder with the metrics of each fold of a cross-validation: fold-1.json, ..., in the form of `TestMetrics`."""
OVERLAYS = "test_predictions"
"""Folder with pictures of test slices: scan, truth and prediction."""
Count = Annotated[int, Field(ge=0)]


class Finite(Record):
    """A record whose numbers are neither NaN nor infinite."""

    model_config = ConfigDict(allow_inf_nan=False)


class ScanResult(Finite):
    """The result of one test scan. Fields in mL are None without a voxel size."""

    case: str
    patient: str
    site: str | None
    scanner: str | None
    dice: float
    iou: float
    truth_ml: float | None
    predicted_ml: float | None
    absolute_volume_difference_ml: float | None
    relative_volume_difference: float | None
    lesion_count_difference: int
    lesion_f1: float
    lesion_f1_matched: float
    surface_distance_95_mm: float | None
    lesions: Count
    """True lesions."""
    lesions_found: Count
    """True lesions that a predicted voxel touches."""
    false_lesions: Count
    """Predicted lesions that no true voxel touches."""
    truth_voxels: Count
    predicted_voxels: Count
    predicted_ml_low: float | None
    """Ends of the interval of the predicted volume; None if the model has not learnt it."""
    predicted_ml_high: float | None
    needs_review: list[str]
    """Why a person should look at the scan; empty without a reason."""
    slice_dice: list[float]
    slice_iou: list[float]
    slice_has_lesion: list[bool]
    slice_has_prediction: list[bool]
    rule_dice: float | None = None
    """Results of the threshold rule without a network; None if it was not measured."""
    rule_lesion_f1: float | None = None
    rule_ml: float | None = None


class Subgroup(Finite):
    """Results over the patients of one lesion volume, site or scanner; None for unknown values."""

    patients: Count
    scans: Count
    dice_mean: float | None
    dice_ci_low: float | None
    dice_ci_high: float | None
    lesion_f1_mean: float | None
    absolute_volume_difference_ml_mean: float | None


class LesionFree(Finite):
    """Results over scans without a lesion."""

    patients: Count
    scans: Count
    scans_with_false_lesion: Count
    false_positive_ml_mean: float | None
    """Mean predicted volume per scan, mL."""


class CalibrationBin(Finite):
    """Voxels whose predicted probability lies in one bin."""

    voxels: Count
    probability: float | None
    """Mean predicted probability; None without voxels."""
    lesion: float | None
    """Share of the voxels that are lesion."""


class Calibration(Finite):
    """Expected calibration errors (ECE) before and after temperature scaling."""

    temperature: float | None
    ece_before: float | None
    ece_after: float | None
    bins_before: list[CalibrationBin]
    bins_after: list[CalibrationBin]


class VolumeAgreement(Finite):
    """Bland-Altman agreement of predicted and true volumes, mL. Differences are predicted less true."""

    bias_ml: float | None
    """Mean difference over patients."""
    agreement_low_ml: float | None
    """95 % limits of agreement; None for too few patients."""
    agreement_high_ml: float | None
    interval_level: float | None
    """Share of patients whose true volumes the intervals are designed to contain."""
    interval_coverage: float | None
    """Share of test patients whose true volumes they contain."""


class Review(Finite):
    """How many scans were flagged for review, and how many of the failures are among them."""

    scans: Annotated[int, Field(ge=1)]
    flagged: Count
    failures: Count
    failures_flagged: Count
    failure: Annotated[str, Field(min_length=1)]
    """The definition of a failure."""


class TestMetrics(Artifact):
    """Summary over the test patients and the result of each test scan."""

    __test__: ClassVar[bool] = False
    FILE: ClassVar[str] = "test_metrics.json"
    WRITTEN_BY: ClassVar[str] = "evaluate"

    summary: dict[str, int | Annotated[float, Field(allow_inf_nan=False)]]
    """Metric name, as MLflow shows it, to value."""
    threshold: float
    space: str = "native"
    synthetic: bool
    strata: dict[str, dict[str, Subgroup]]
    """`lesion volume`, `site` and `scanner` to name to results."""
    lesion_free: LesionFree
    calibration: Calibration
    volume: VolumeAgreement
    review: Review
    cases: list[ScanResult]


def read_folds(evaluation: Path) -> dict[str, TestMetrics]:
    """Return fold to its metrics, from the folder of an evaluation; empty without a cross-validation.

    Raises:
        StepError: a file is invalid.
    """
    files = sorted((evaluation / FOLDS).glob("*.json"), key=lambda file: int(file.stem.rpartition("-")[2]))
    return {file.stem: TestMetrics.read(file) for file in files}


class Difference(Finite):
    """Challenger less champion: mean over patients and 95 % interval; None for too few patients."""

    mean: float
    ci_low: float | None
    ci_high: float | None


class Comparison(Artifact):
    """The results of the challenger and of the present champion on the same test patients."""

    FILE: ClassVar[str] = "comparison.json"
    WRITTEN_BY: ClassVar[str] = "evaluate"

    champion: str | None
    """Its version; None without a champion."""
    model: str | None
    """The source of that version in the registry."""
    reason: str
    """Why the comparison cannot support a promotion; "" if it can."""
    pairs: dict[str, dict[str, tuple[float, float]]] | None = None
    """Metric to patient to (challenger, champion). None if the evaluation of the champion failed, or without one; empty
    if only one of the two learnt from patients."""
    differences: dict[str, Difference] = Field(default_factory=dict)


class ParentComparison(Artifact):
    """The results of a fine-tuned model and of its parent on the parent's own test patients: what was forgotten."""

    FILE: ClassVar[str] = "parent_comparison.json"
    WRITTEN_BY: ClassVar[str] = "evaluate"

    parent: str
    """Address of the parent, and the SHA-256 of its weights."""
    unknown: list[str]
    """The models before it, and itself, whose training scans are unknown."""
    reason: str
    """Why nothing was measured; "" if something was."""
    pairs: dict[str, dict[str, tuple[float, float]]] = Field(default_factory=dict)
    """Metric to patient to (this model, parent)."""
    differences: dict[str, Difference] = Field(default_factory=dict)


class OverlayCases(Artifact):
    """The cases that the overlays show."""

    FILE: ClassVar[str] = "pictures.json"
    WRITTEN_BY: ClassVar[str] = "evaluate"

    cases: dict[str, str]
    """File name in `OVERLAYS` to case."""


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
    """Lowest and highest size per axis of the training scans."""

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
