"""Every number that decides a result, in one frozen object; the pipeline's parameters carry its names."""

import difflib
import math
from dataclasses import asdict
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from components.core.step import StepError
from components.core.text import shown

MOST_SHOWN = 80


class Settings(BaseModel):
    """The pipeline's parameters with the defaults of preset `best`; the user's own are preset `baseline`."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    image_size: int = Field(192, ge=32, le=1024, multiple_of=16)
    """Side of the square model grid, pixels."""
    pixel_mm: float = Field(1.0, ge=0, le=10)
    """Side of a pixel of the model grid, mm, centred on the head; 0 resizes the whole plane to the grid."""
    normalization: Literal["slice", "volume", "head"] = "head"
    """Z-score over each slice or the whole volume, or against the head: clipped there, 0 outside it."""
    train_ratio: float = Field(0.80, gt=0, lt=1)
    """Share of the patients to learn from."""
    val_ratio: float = Field(0.15, gt=0, lt=1)
    """Share of the patients that choose the weights and the threshold."""
    test_ratio: float = Field(0.05, gt=0, lt=1)
    """Share of the patients held out for the test."""
    base_channels: int = Field(64, ge=4, le=128, multiple_of=2)
    """Width of the first encoder level: 64 gives 31.4 M parameters, 32 gives 7.9 M."""
    epochs: int = Field(100, ge=1, le=10_000)
    """Most passes over the training slices."""
    batch_size: int = Field(16, ge=2, le=512)
    """Slices per optimiser step."""
    learning_rate: float = Field(1e-4, gt=0, le=1)
    """Adam's learning rate, before the schedule lowers it."""
    schedule: Literal["plateau", "cosine", "poly"] = "cosine"
    """Halve the learning rate where the validation loss rests; or warm up, and let it fall over all epochs."""
    weight_decay: float = Field(1e-5, ge=0, le=1)
    """Adam's L2 penalty."""
    loss: Literal["dice", "dice+bce", "slice_dice+bce", "focal_tversky"] = "dice+bce"
    """Soft Dice over the batch, alone or with cross-entropy (bce); of each slice with it; or focal Tversky."""
    prior_bias: bool = True
    """Start with the share of lesion in the training slices as the answer everywhere, not with one half."""
    norm: Literal["batch", "instance"] = "batch"
    """Normalise the network's features over the batch, or over each slice alone."""
    ema_decay: float = Field(0.999, ge=0, lt=1)
    """Keep the moving average of the weights, with this decay per step; 0 keeps the weights themselves."""
    early_stop_patience: int = Field(100, ge=1, le=10_000)
    """Epochs without a better validation score before training stops."""
    selection: Literal["dice", "patients"] = "patients"
    """What chooses weights and threshold: the best Dice, or what holds over patients and epochs."""
    lesion_free_ratio: float = Field(1.0, ge=0, le=1000)
    """Slices without lesion per slice with lesion in a training epoch, drawn anew each epoch."""
    sampling: Literal["slices", "patients"] = "slices"
    """Every slice with lesion once an epoch; or as many of every patient, however thin the slices."""
    augmentation: Literal["light", "strong"] = "light"
    """Flip, rotation, brightness; or scale, shift, gamma, contrast, blur, noise, resolution, bias too."""
    aug_hflip_prob: float = Field(0.3, ge=0, le=1)
    """Probability of a left-right flip."""
    aug_rotate_prob: float = Field(0.25, ge=0, le=1)
    """Probability of a rotation by up to 10 degrees; of augmentation light."""
    aug_brightness_prob: float = Field(0.2, ge=0, le=1)
    """Probability of a brightness shift by up to 0.1 standard deviations; of augmentation light."""
    random_seed: int = Field(42, ge=0, le=2**32 - 1)
    """Seed of the weights, the sampling, the augmentation, and the split of patients that are not known yet."""
    tta: bool = True
    """Predict the mean of the scan and its mirror image (test-time augmentation)."""
    cca: bool = False
    """Drop what is smaller than the smallest lesion worth keeping, a size that the validation patients choose."""
    deep_supervision: bool = False
    """Learn at two coarser decoder levels too, with weights 1/2 and 1/4; the model stays the same."""
    n4_bias_correction: bool = False
    """Divide each scan by its estimated coil shading (N4) before anything else."""
    inputs: Literal["dwi", "dwi+adc"] = "dwi"
    """What the network sees: three slices of the DWI, or of the DWI and of the ADC map."""
    b_value: float = Field(0.0, ge=0, le=10_000)
    """b-value of a DWI that has a b0 but no .bval file or sidecar that says it, s/mm²; 0 takes 1000 and says so."""
    modality_check: bool = True
    """Refuse a scan whose intensities say that it is an ADC map or a b0 image; false takes it as a DWI."""
    carry_split: bool = Field(
        True,
        description="Keep every patient of earlier registered runs in its subset; false draws all anew, and no fair "
        "comparison with the champion is possible then.",
    )
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Number format of the forward pass; auto takes the fastest here."""
    memory_format: Literal["auto", "contiguous", "channels_last"] = "auto"
    """Layout of the tensors; auto takes the fastest here."""

    @field_validator("*", mode="before")
    @classmethod
    def _of_its_own_type(cls, value: Any, info: ValidationInfo) -> Any:
        """Pydantic takes true for 1, 1.0 for true and bytes for text: nobody meant that."""
        switch = cls.model_fields[info.field_name].annotation is bool
        if isinstance(value, bytes) or (switch and isinstance(value, float)):
            raise ValueError(f"{type(value).__name__} is no value of a setting")
        if isinstance(value, bool) and not switch:
            raise ValueError("it takes no true or false")
        if isinstance(value, str) and "_" in value and cls.model_fields[info.field_name].annotation in (int, float):
            raise ValueError("a number holds no underscore")
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


def checked(values: dict[str, Any]) -> Settings:
    """Settings from loose values (numbers may come as text).

    Raises:
        StepError: an unknown key or an impossible value, named with the nearest valid one.
    """
    try:
        return Settings(**{str(key): value for key, value in values.items()})
    except ValidationError as error:
        raise StepError("\n".join(_in_words(e) for e in error.errors())) from None


def _in_words(error: dict[str, Any]) -> str:
    key, value = ".".join(map(str, error["loc"])), error["input"]
    given, fields = shown(str(value), MOST_SHOWN), Settings.model_fields
    if error["type"] == "extra_forbidden":
        near = difflib.get_close_matches(key.lower(), fields, n=1, cutoff=0.3)
        return f"unknown setting '{shown(key, MOST_SHOWN)}'" + (
            f": did you mean '{near[0]}'?" if near else f". Settings: {', '.join(fields)}."
        )
    if error["type"] == "literal_error":
        choices = list(fields[key].annotation.__args__)
        near = difflib.get_close_matches(given, choices, n=1, cutoff=0) or choices
        return f"{key}={given} is impossible: the nearest valid value is '{near[0]}' (one of {', '.join(choices)})"
    if key and fields[key].annotation is bool:
        return f"{key}={given} is impossible: it is true or false"
    if not key:
        return error["msg"].removeprefix("Value error, ")
    try:
        return f"{key}={given} is impossible: the nearest valid value is {_nearest(key, value)}"
    except (TypeError, ValueError):
        said = error["msg"].removeprefix("Value error, ")
        return f"{key}={given} is impossible: {said}; the default is {fields[key].default}"


def _nearest(key: str, value: Any) -> float | int | str:
    """The valid value nearest to a number; ValueError or TypeError where that is none."""
    if isinstance(value, bool | bytes):
        raise TypeError("no number")
    given = float(max(min(value, 1e300), -1e300) if isinstance(value, int) else value)
    limits: dict[str, float] = {}
    for limit in Settings.model_fields[key].metadata:
        limits |= asdict(limit)
    if not math.isfinite(given):
        raise ValueError("no number to be near to")
    if given <= limits.get("gt", -math.inf):
        return f"a little above {limits['gt']}"
    if given >= limits.get("lt", math.inf):
        return f"a little below {limits['lt']}"
    within = min(max(given, limits.get("ge", -math.inf)), limits.get("le", math.inf))
    step = limits.get("multiple_of", 1)
    return round(within / step) * step if Settings.model_fields[key].annotation is int else within
