"""Define the parameters of the pipeline: name, type, limits, default, description, and the steps that take each."""

import difflib
import math
from dataclasses import asdict
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from components.core.errors import StepError
from components.core.text import shown

MOST_SHOWN = 80


def _setting(default: Any, *steps: str, **limits: Any) -> Any:
    """Return a field with its default, the steps that take it as a parameter, and its limits."""
    return Field(default, json_schema_extra={"steps": list(steps)}, **limits)


class Settings(BaseModel):
    """The parameters of the pipeline. The defaults are those of preset `best`; preset `baseline` has the user's own.

    After a change here run `make parameters`: it writes the signatures of the steps, the table in docs/settings.md and
    the compiled pipeline of the tests.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    image_size: int = _setting(192, "preprocess", ge=32, le=1024, multiple_of=16)
    """Side of the square model grid, pixels."""
    pixel_mm: float = _setting(1.0, "preprocess", ge=0, le=10)
    """Side of a pixel of the model grid, mm, with the head in the centre; 0 resizes the whole plane to the grid."""
    normalization: Literal["slice", "volume", "head"] = _setting("head", "preprocess")
    """Z-score per slice or per volume; or relative to the head: clipped to its range, 0 outside it."""
    train_ratio: float = _setting(0.80, "fingerprint", "split", gt=0, lt=1)
    """Share of the patients for training."""
    val_ratio: float = _setting(0.15, "fingerprint", "split", gt=0, lt=1)
    """Share of the patients for validation: they choose the weights and the threshold."""
    test_ratio: float = _setting(0.05, "fingerprint", "split", gt=0, lt=1)
    """Share of the patients held out for the test."""
    base_channels: int = _setting(64, "train", ge=4, le=128, multiple_of=2)
    """Width of the first encoder level: 64 gives 31.4 M parameters, 32 gives 7.9 M."""
    epochs: int = _setting(100, "train", ge=1, le=10_000)
    """Largest number of passes over the training slices."""
    batch_size: int = _setting(16, "train", ge=2, le=512)
    """Slices per optimiser step."""
    learning_rate: float = _setting(1e-4, "train", gt=0, le=1)
    """Adam's learning rate, before the schedule lowers it."""
    schedule: Literal["plateau", "cosine", "poly"] = _setting("cosine", "train")
    """Halve the learning rate when the validation loss stops falling; or warm up, then lower it over all epochs."""
    weight_decay: float = _setting(1e-5, "train", ge=0, le=1)
    """Adam's L2 penalty."""
    loss: Literal["dice", "dice+bce", "slice_dice+bce", "focal_tversky"] = _setting("dice+bce", "train")
    """Dice over the batch, alone or with cross-entropy (bce); Dice of each slice with it; or focal Tversky."""
    prior_bias: bool = _setting(True, "train")
    """Start the network with the share of lesion in the training slices as its output, not with one half."""
    norm: Literal["batch", "instance"] = _setting("batch", "train")
    """Normalise the network's features over the batch, or over each slice alone."""
    ema_decay: float = _setting(0.999, "train", ge=0, lt=1)
    """Keep the moving average of the weights, with this decay per step; 0 keeps the weights themselves."""
    early_stop_patience: int = _setting(100, "train", ge=1, le=10_000)
    """Epochs without a better validation score before training stops."""
    selection: Literal["dice", "patients"] = _setting("patients", "train")
    """Choose weights and threshold by the best Dice, or by what is stable over patients and epochs."""
    lesion_free_ratio: float = _setting(1.0, "train", ge=0, le=1000)
    """Slices without lesion per slice with lesion in a training epoch; drawn again in each epoch."""
    sampling: Literal["slices", "patients"] = _setting("slices", "train")
    """Each slice with lesion once per epoch; or the same number of slices from each patient."""
    augmentation: Literal["light", "strong"] = _setting("light", "train")
    """Flip, rotation, brightness; or also scale, shift, gamma, contrast, blur, noise, resolution, bias field."""
    aug_hflip_prob: float = _setting(0.3, "train", ge=0, le=1)
    """Probability of a left-right flip."""
    aug_rotate_prob: float = _setting(0.25, "train", ge=0, le=1)
    """Probability of a rotation by up to 10 degrees; used by augmentation light."""
    aug_brightness_prob: float = _setting(0.2, "train", ge=0, le=1)
    """Probability of a brightness shift by up to 0.1 standard deviations; used by augmentation light."""
    random_seed: int = _setting(42, "fingerprint", "split", "train", ge=0, le=2**32 - 1)
    """Seed of the weights, the sampling, the augmentation, and the split of patients who have no subset yet."""
    tta: bool = _setting(True, "train")
    """Predict the mean of the scan and its mirror image (test-time augmentation)."""
    cca: bool = _setting(False, "train")
    """Drop predicted components that are smaller than a size that the validation patients choose."""
    deep_supervision: bool = _setting(False, "train")
    """Train two coarser decoder levels too, with weights 1/2 and 1/4; the kept model stays the same."""
    n4_bias_correction: bool = _setting(False, "preprocess")
    """Divide each scan by its estimated coil shading (N4) before anything else."""
    inputs: Literal["dwi", "dwi+adc"] = _setting("dwi", "fingerprint", "preprocess", "split")
    """Input of the network: three slices of the DWI, or of the DWI and of the ADC map."""
    b_value: float = _setting(0.0, "ingest", ge=0, le=10_000)
    """b-value (s/mm²) of a DWI with a b0 whose files do not give it (.bval, sidecar); 0 takes 1000 and reports that."""
    modality_check: bool = _setting(True, "ingest")
    """Refuse a scan whose intensities look like an ADC map or a b0 image; false accepts it as a DWI."""
    carry_split: bool = _setting(
        True,
        "fingerprint",
        "split",
        description="Keep each patient of earlier registered runs in its subset; false draws a new split, and then a "
        "fair comparison with the champion is impossible.",
    )
    precision: Literal["auto", "float32", "bfloat16", "float16"] = _setting("auto", "train")
    """Number format of the forward pass; auto takes the fastest on this machine."""
    memory_format: Literal["auto", "contiguous", "channels_last"] = _setting("auto", "train")
    """Layout of the tensors; auto takes the fastest on this machine."""
    start: str = _setting("", "fingerprint", pattern=r"^((models:/|s3://)\S+)?$")
    """Model to start from: models:/NAME/VERSION, models:/NAME@ALIAS or s3://bucket/prefix; empty starts at random."""
    start_rate: float = _setting(1.0, "train", gt=0, le=1)
    """Share of learning_rate that a training from `start` uses; a training from random weights ignores it."""

    @field_validator("*", mode="before")
    @classmethod
    def _of_its_own_type(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse what pydantic would convert without asking: true to 1, 1.0 to true, bytes to text, 1_0 to 10."""
        kind = cls.model_fields[str(info.field_name)].annotation
        if isinstance(value, bytes) or (kind is bool and isinstance(value, float)):
            raise ValueError(f"a value of type {type(value).__name__} is invalid here")
        if isinstance(value, bool) and kind is not bool:
            raise ValueError("true and false are invalid here")
        if isinstance(value, str) and "_" in value and kind in (int, float):
            raise ValueError("a number must not contain an underscore")
        return value

    @model_validator(mode="after")
    def _ratios_sum_to_one(self) -> "Settings":
        total = self.train_ratio + self.val_ratio + self.test_ratio
        if abs(total - 1) > 1e-6:
            left = 1 - self.val_ratio - self.test_ratio
            raise ValueError(
                f"train_ratio + val_ratio + test_ratio is {total:.4g}, not 1; "
                + (f"the nearest valid train_ratio is {left:.4g}" if left > 1e-6 else "lower val_ratio or test_ratio")
            )
        return self


def parameters_of(step: str) -> list[str]:
    """Return the names of the settings that a step takes as parameters, in the order of `Settings`."""
    return [name for name, field in Settings.model_fields.items() if step in _steps(field)]


def _steps(field: FieldInfo) -> list[str]:
    extra = field.json_schema_extra
    steps = extra.get("steps") if isinstance(extra, dict) else None
    return [str(step) for step in steps] if isinstance(steps, list) else []


def settings_among(arguments: dict[str, Any]) -> Settings:
    """Return the settings among the arguments of a step; a setting that is missing there has its default.

    Raises:
        StepError: a value is impossible.
    """
    return checked({name: value for name, value in arguments.items() if name in Settings.model_fields})


def checked(values: dict[str, Any]) -> Settings:
    """Return the settings with these values. Numbers may be text.

    Raises:
        StepError: a key is unknown or a value is impossible. The message names the nearest valid one.
    """
    try:
        return Settings(**{str(key): value for key, value in values.items()})
    except ValidationError as error:
        raise StepError("\n".join(_message(e) for e in error.errors())) from None


def _message(error: ErrorDetails) -> str:
    """Return what is wrong with a value, and the nearest valid one."""
    key, value = ".".join(map(str, error["loc"])), error["input"]
    given, fields = shown(str(value), MOST_SHOWN), Settings.model_fields
    if error["type"] == "extra_forbidden":
        near = difflib.get_close_matches(key.lower(), fields, n=1, cutoff=0.3)
        return f"unknown setting '{shown(key, MOST_SHOWN)}'" + (
            f": did you mean '{near[0]}'?" if near else f". Settings: {', '.join(fields)}."
        )
    if error["type"] == "literal_error":
        choices = list(get_args(fields[key].annotation))
        near = difflib.get_close_matches(given, choices, n=1, cutoff=0) or choices
        return f"{key}={given} is impossible: the nearest valid value is '{near[0]}' (one of {', '.join(choices)})"
    if error["type"] == "string_pattern_mismatch":
        return f"{key}={given} is impossible. {fields[key].description}"
    if key and fields[key].annotation is bool:
        return f"{key}={given} is impossible: it is true or false"
    reason = error["msg"].removeprefix("Value error, ")
    if not key:
        return reason
    try:
        return f"{key}={given} is impossible: the nearest valid value is {_nearest(key, value)}"
    except (TypeError, ValueError):
        return f"{key}={given} is impossible: {reason}; the default is {fields[key].default}"


def _nearest(key: str, value: Any) -> float | int | str:
    """Return the valid value nearest to a number.

    Raises:
        TypeError, ValueError: `value` is not a finite number.
    """
    if isinstance(value, bool | bytes):
        raise TypeError("not a number")
    given = float(max(min(value, 1e300), -1e300) if isinstance(value, int) else value)
    limits: dict[str, float] = {}
    for limit in Settings.model_fields[key].metadata:
        limits |= asdict(limit)
    if not math.isfinite(given):
        raise ValueError("not a finite number")
    if given <= limits.get("gt", -math.inf):
        return f"a little above {limits['gt']}"
    if given >= limits.get("lt", math.inf):
        return f"a little below {limits['lt']}"
    within = min(max(given, limits.get("ge", -math.inf)), limits.get("le", math.inf))
    step = limits.get("multiple_of", 1)
    return round(within / step) * step if Settings.model_fields[key].annotation is int else within
