"""The model card: what a version is for, what it learnt from, what it was measured to be worth, where it fails.

Fields after CHAI's Applied Model Card (uses, warnings, trust ingredients, key metrics) and MONAI's bundle metadata
(intended_use, data_source, network_data_format, eval_metrics, ..._version). A field without a default is required:
a card that lacks it, or has it empty, is none, and its version is not registered.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, ValidationError

from components.core.step import StepError
from components.core.yaml_models import Strict, read

STATEMENT = Path(__file__).with_name("card.yaml")
Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
Texts = Annotated[list[Text], Field(min_length=1)]
Count = Annotated[int, Field(ge=0)]
Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class Statement(Strict):
    """What no number says: `card.yaml`, which a site makes its own."""

    developer: str
    """Who made the model; may be empty, and is missed then."""
    contact: str
    """Whom to ask about it; may be empty, and is missed then."""
    release_stage: Text
    """How far it is from being a product, and what no authority has said of it."""
    summary: Text
    """What it does, in a sentence or two."""
    intended_use: Text
    """What it is for, and how it fits into the work."""
    intended_users: Text
    """Who is to use it."""
    target_population: Text
    """The patients it is meant for."""
    how_to_use: Text
    """How to use it, and what to do with what it says."""
    out_of_scope: Texts
    """What it must not be used for."""
    known_risks: Texts
    """What is known to go wrong with models like it."""
    known_biases: Texts
    """Whom it may serve worse."""
    maintenance: Text
    """What happens to it after its release."""


class Tensor(Strict):
    """An input or output in the words of MONAI's `network_data_format`."""

    type: Text
    format: Text
    modality: Text
    num_channels: int = Field(ge=1)
    spatial_shape: list[str | int] = Field(min_length=1)
    dtype: Text
    value_range: list[float]
    """Lowest and highest; empty where any value may be."""
    is_patch_data: bool
    channel_def: dict[str, Text] = Field(min_length=1)


class Formats(Strict):
    inputs: dict[str, Tensor] = Field(min_length=1)
    outputs: dict[str, Tensor] = Field(min_length=1)


class Spread(Strict):
    """Of the scans with a lesion: how many, and the quartiles of their lesions' volume, mL."""

    scans: Count
    smallest: float
    first_quartile: float
    median: float
    third_quartile: float
    largest: float


class Data(Strict):
    data_source: Text
    """Where the scans lie: s3://..."""
    data_version: Digest
    """Digest over every object there."""
    layout: Text
    synthetic: bool
    patients: int = Field(ge=1)
    scans: int = Field(ge=1)
    lesion_free_scans: Count
    unused_scans: Count
    """Labelled, and in no subset: without the ADC map that the network is to see."""
    unlabelled_scans: Count
    lesion_ml: Spread | None
    """None where the files hold no voxel size, or no scan has a lesion."""
    voxel_mm: list[list[float]] | None
    """Lowest and highest voxel size per axis that was learnt from, None where a file holds none."""
    shape: list[list[int]] = Field(min_length=3)
    """The same of the numbers of voxels."""
    sites: dict[str, Count]
    """Patients per site; empty where none is known."""
    scanners: dict[str, Count]
    refused: dict[str, Text]
    """Cases that were not taken, and why."""


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
    """Of all epochs; None where it cannot be told."""


class Metric(Strict):
    """Mean over patients and its 95 % interval, None of too few patients."""

    mean: float
    ci_low: float | None
    ci_high: float | None


class OverPatients(Metric):
    """The same with median and quartiles over patients."""

    median: float
    q1: float
    q3: float


class Stratum(Strict):
    patients: Count
    scans: Count
    dice_mean: float | None
    dice_ci_low: float | None
    dice_ci_high: float | None
    lesion_f1_mean: float | None
    absolute_volume_difference_ml_mean: float | None


class LesionFree(Strict):
    patients: Count
    scans: Count
    scans_with_false_lesion: Count
    false_positive_ml_mean: float | None


class Calibration(Strict):
    """Of the probabilities: temperature from validation; expected calibration error on the test patients."""

    temperature: float = Field(gt=0)
    ece_before: float | None
    ece_after: float | None


class Volume(Strict):
    """Predicted less true volume: mean, 95 % limits of agreement; how often a scan's own interval holds the truth."""

    bias_ml: float | None
    agreement_low_ml: float | None
    agreement_high_ml: float | None
    interval_level: float | None
    interval_coverage: float | None


class Review(Strict):
    """How many test scans were marked for review, and how many of the failures among them."""

    scans: int = Field(ge=1)
    flagged: Count
    failures: Count
    failures_flagged: Count
    failure: Text
    """What counts as one."""


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
    """Artifacts of the MLflow run; empty where none of its slices is among the ten pictures."""


class Comparison(Strict):
    """With the champion of the day, on the same test patients; see evaluate."""

    champion: str | None
    reason: str
    differences: dict[Text, Metric]


class Versions(Strict):
    image_tag: Text
    """The image of the training; locally as on a cluster its tag is the digest of the code and the pins."""
    git_commit: Text | None
    """None for code that came from no git checkout: image_tag is what names it then."""
    packages: dict[Text, Text] = Field(min_length=1)
    data_version: Digest
    cases_sha256: Digest
    split_digest: Digest
    training_digest: Digest
    evaluation_digest: Digest
    weights_sha256: Digest


class Measured(Statement):
    """All of a card but the limits, which follow from it."""

    name: Text
    """The name in the registry."""
    version: Text
    """Which training and evaluation; the registry gives it a number."""
    network_data_format: Formats
    """What goes in and what comes out."""
    data: Data
    """What it learnt from and was tested on."""
    subsets: dict[Literal["train", "val", "test"], Subset] = Field(min_length=3)
    """Who learnt, who chose, who tested: no patient is in two."""
    training: Training
    """How it learnt."""
    threshold: float = Field(ge=0, le=1)
    eval_metrics: dict[Text, OverPatients] = Field(min_length=1)
    """On the test patients, whole scans, native space."""
    test_patients: int = Field(ge=1)
    strata: dict[Text, dict[Text, Stratum]] = Field(min_length=1)
    """The same by lesion volume, and by site and scanner where they are known."""
    lesion_free: LesionFree
    """False alarms on test scans without a lesion."""
    calibration: Calibration
    """Whether its probabilities mean what they say."""
    volume: Volume
    """How far its volumes are off."""
    review: Review
    """Whether the scans that it marks are those that fail."""
    failures: list[Failure] = Field(min_length=1)
    """The worst test scans by name."""
    comparison: Comparison
    """With the champion."""
    versions: Versions
    """Of code, packages, data and weights."""


class Card(Measured):
    """What a version must say of itself to be registered."""

    limits: Texts
    """What these numbers cannot say."""


def load(path: Path = STATEMENT) -> Statement:
    """The site's own text.

    Raises:
        StepError: it is not there, not YAML, or something in it is missing, empty or unknown.
    """
    return read(path, Statement)


def checked(values: dict, model: type[Measured] = Card) -> Measured:
    """`values` as a card, or as all of one but its limits.

    Raises:
        StepError: a required field is missing, empty or no number; which, what it is, and what to do.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        said = "\n".join(f"  {_in_words(e)}" for e in error.errors())
        raise StepError(f"the model card is not whole, and so this version is not registered:\n{said}") from None


def _in_words(error: dict) -> str:
    where, top = ".".join(str(part) for part in error["loc"] if part != "[key]"), error["loc"][0]
    empty = error["type"] == "missing" or error["input"] in (None, "", [], {})
    what = Card.model_fields[top].description if top in Card.model_fields else "It is not known to the card."
    if top in Statement.model_fields:
        do = f"Write it in {STATEMENT.name}."
    elif where == "versions.image_tag":
        do = "Train by make pipeline-run or on a cluster: both say which image trains."
    else:
        do = "It comes from ingest, train or evaluate: run the pipeline again, all steps of one checkout."
    return f"{where} {'is empty' if empty else 'is wrong: ' + error['msg']}. {what} {do}"
