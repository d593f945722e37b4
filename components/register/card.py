"""The model card of a registered version: intended use, training data, test results, failures.

Fields follow CHAI's Applied Model Card (uses, warnings, trust ingredients, key metrics) and MONAI's bundle metadata
(intended_use, data_source, network_data_format, eval_metrics, ..._version). All fields are required. A version whose
card has a missing or empty field is not registered.
"""

from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import Field, StringConstraints, ValidationError
from pydantic_core import ErrorDetails

from components.artifacts.evaluation import Count, Difference, LesionFree, Review, Subgroup, VolumeAgreement
from components.core.errors import StepError
from components.core.yaml_models import Strict, read

STATEMENT = Path(__file__).with_name("card.yaml")
Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
Texts = Annotated[list[Text], Field(min_length=1)]
Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class Statement(Strict):
    """The text that no measurement gives: `card.yaml`, which each site edits."""

    developer: str
    """Who made the model. May be empty; the limits then say so."""
    contact: str
    """Whom to ask about the model. May be empty; the limits then say so."""
    release_stage: Text
    """The stage of development, and the state of approval by authorities."""
    summary: Text
    """The function of the model in one or two sentences."""
    intended_use: Text
    """The purpose of the model, and its place in the work of its users."""
    intended_users: Text
    """The people who may use it."""
    target_population: Text
    """The patients for whom it was made."""
    how_to_use: Text
    """How to use it, and how to act on its results."""
    out_of_scope: Texts
    """Uses that are not allowed."""
    known_risks: Texts
    """Known failures of models of this kind."""
    known_biases: Texts
    """Groups of patients for whom it may be worse."""
    maintenance: Text
    """What is done after its release."""


class Tensor(Strict):
    """An input or output in the format of MONAI's `network_data_format`."""

    type: Text
    format: Text
    modality: Text
    num_channels: int = Field(ge=1)
    spatial_shape: list[str | int] = Field(min_length=1)
    dtype: Text
    value_range: list[float]
    """Lowest and highest value; empty if there is no limit."""
    is_patch_data: bool
    channel_def: dict[str, Text] = Field(min_length=1)


class Formats(Strict):
    inputs: dict[str, Tensor] = Field(min_length=1)
    outputs: dict[str, Tensor] = Field(min_length=1)


class LesionVolumes(Strict):
    """Number of scans with a lesion, and the quartiles of their lesion volume, mL."""

    scans: Count
    smallest: float
    first_quartile: float
    median: float
    third_quartile: float
    largest: float


class Data(Strict):
    data_source: Text
    """Address of the scans: s3://..."""
    data_version: Digest
    """Digest over every object there."""
    layout: Text
    synthetic: bool
    patients: int = Field(ge=1)
    scans: int = Field(ge=1)
    lesion_free_scans: Count
    unused_scans: Count
    """Labelled scans in no subset, because the ADC map that the network needs is missing."""
    unlabelled_scans: Count
    lesion_ml: LesionVolumes | None
    """None if the files have no voxel size, or no scan has a lesion."""
    voxel_mm: list[list[float]] | None
    """Lowest and highest voxel size of the training scans per axis, mm; None if a file does not have it."""
    shape: list[list[int]] = Field(min_length=3)
    """Lowest and highest number of voxels per axis."""
    sites: dict[str, Count]
    """Patients per site; empty if the sites are unknown."""
    scanners: dict[str, Count]
    refused: dict[str, Text]
    """Cases that failed validation, and the reasons."""


class Subset(Strict):
    patients: int = Field(ge=1)
    scans: int = Field(ge=1)
    lesion_free_scans: Count
    lesion_ml_median: float | None


class Training(Strict):
    settings: dict[Text, Any] = Field(min_length=1)
    hardware: Text
    model_parameters: int = Field(ge=1)
    epochs: int = Field(ge=1)
    best_epoch: int = Field(ge=1)
    seconds: float | None
    """Of all epochs; None if unknown."""


class PatientMetric(Strict):
    """Mean over patients with its 95 % interval (None for too few patients), median and quartiles."""

    mean: float
    ci_low: float | None
    ci_high: float | None
    median: float
    q1: float
    q3: float


class CalibrationError(Strict):
    """Temperature from the validation patients, expected calibration errors on the test patients."""

    temperature: float = Field(gt=0)
    ece_before: float | None
    ece_after: float | None


class Failure(Strict):
    """One of the worst test scans."""

    case: Text
    dice: float
    lesion_f1: float
    truth_ml: float | None
    predicted_ml: float | None
    lesions: Count
    lesions_found: Count
    false_lesions: Count
    needs_review: list[str]
    pictures: list[Text]
    """Artifacts of the MLflow run; empty if none of the ten pictures shows the scan."""


class ChampionComparison(Strict):
    """Comparison with the champion at the time of the evaluation, on the same test patients."""

    champion: str | None
    reason: str
    differences: dict[Text, Difference]


class FoldResult(Strict):
    """The results of one network of a cross-validation on the fold that it held out."""

    patients: int = Field(ge=1)
    dice_mean: float
    dice_ci_low: float | None
    dice_ci_high: float | None
    lesion_f1_mean: float
    absolute_volume_difference_ml_mean: float | None
    threshold: float
    training_digest: Digest
    weights_sha256: Digest


class Parent(Strict):
    """The model whose weights the training started from, and what was forgotten of it."""

    address: Text
    weights_sha256: Digest
    unknown: list[Text]
    """Models of its line whose training scans are unknown."""
    reason: str
    """Why both were not measured on the parent's test patients; "" if they were."""
    patients: Count
    """The parent's test patients on which both were measured."""
    differences: dict[Text, Difference]
    """This version less the parent, on these patients."""


class Versions(Strict):
    image_tag: Text
    """The image of the training. Its tag is a digest of the code and the pinned packages."""
    git_commit: Text | None
    """None without a git checkout: image_tag then identifies the code."""
    packages: dict[Text, Text] = Field(min_length=1)
    data_version: Digest
    cases_sha256: Digest
    split_digest: Digest
    training_digest: Digest
    evaluation_digest: Digest
    weights_sha256: Digest


class CardWithoutLimits(Statement):
    """A card without its limits, which follow from the other fields."""

    name: Text
    """The name in the registry."""
    version: Text
    """The training and the evaluation. The registry adds a number."""
    network_data_format: Formats
    """Inputs and outputs."""
    data: Data
    """The scans that it learnt from and was tested on."""
    subsets: dict[Text, Subset] = Field(min_length=3)
    """Patients for training, validation and test, or of each fold. No patient is in two subsets."""
    training: Training
    """Settings, hardware and duration of the training."""
    threshold: float = Field(ge=0, le=1)
    eval_metrics: dict[Text, PatientMetric] = Field(min_length=1)
    """Metrics on the test patients: whole scans, native space."""
    test_patients: int = Field(ge=1)
    folds: dict[Text, FoldResult] = Field(default_factory=dict)
    """Results of each fold of a cross-validation; empty for one split."""
    strata: dict[Text, dict[Text, Subgroup]] = Field(min_length=1)
    """Results by lesion volume, and by site and scanner if they are known."""
    lesion_free: LesionFree
    """False alarms on test scans without a lesion."""
    calibration: CalibrationError
    """Whether its probabilities are correct."""
    volume: VolumeAgreement
    """Agreement of predicted and true volumes."""
    review: Review
    """Whether failures are flagged for review."""
    failures: list[Failure] = Field(min_length=1)
    """The worst test scans."""
    comparison: ChampionComparison
    """Comparison with the champion."""
    parent: Parent | None
    """The model that the training started from; None for random weights."""
    versions: Versions
    """Versions of code, packages, data and weights."""


class Card(CardWithoutLimits):
    """The complete card. Without it a version is not registered."""

    limits: Texts
    """What the numbers do not show."""
    holds_for: Text
    """The test patients for whom the numbers hold."""


AnyCard = TypeVar("AnyCard", bound=CardWithoutLimits)


def load(path: Path = STATEMENT) -> Statement:
    """Read the site's own text.

    Raises:
        StepError: the file is missing, is not YAML, or a field is missing, empty or unknown.
    """
    return read(path, Statement)


def validate(values: dict[str, Any], model: type[AnyCard]) -> AnyCard:
    """Return `values` as a `Card` or as a `CardWithoutLimits`.

    Raises:
        StepError: a field is missing, empty or invalid. The text says which, its meaning, and what to do.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        reasons = "\n".join(f"  {_explain(e)}" for e in error.errors())
        raise StepError(f"the model card is incomplete, so this version is not registered:\n{reasons}") from None


def _explain(error: ErrorDetails) -> str:
    field, top = ".".join(str(part) for part in error["loc"] if part != "[key]"), str(error["loc"][0])
    empty = error["type"] == "missing" or error["input"] in (None, "", [], {})
    meaning = Card.model_fields[top].description if top in Card.model_fields else "The card has no such field."
    if top in Statement.model_fields:
        remedy = f"Write it in {STATEMENT.name}."
    elif field == "versions.image_tag":
        remedy = "Train with make pipeline-run or on a cluster: both set the image."
    else:
        remedy = "It comes from ingest, train or evaluate: run the pipeline again, all steps from one checkout."
    return f"{field} {'is empty' if empty else 'is wrong: ' + error['msg']}. {meaning} {remedy}"
