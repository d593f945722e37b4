"""The trained model: train writes `model.json` beside the weights, and the registered model keeps both."""

import hashlib
import json
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field, TypeAdapter

from components.artifacts.artifact import Artifact, Record, read_json

WEIGHTS = "best_model.pth"
"""The weights as PyTorch saves them, in a pickle."""
TENSORS = "best_model.safetensors"
"""The same weights without a pickle. A model of older code has none."""
HISTORY = "history.json"
CURVE = "training_curve.png"


def read_history(model: Path) -> list[dict[str, float]]:
    """Read the results of each epoch from `history.json` in the model's folder.

    Raises:
        StepError: the file is missing or invalid.
    """
    return read_json(model / HISTORY, TypeAdapter(list[dict[str, float]]), TrainedModel.WRITTEN_BY)


class VolumeInterval(Record):
    """How far predicted volumes are off, learnt from the validation patients."""

    cube_root_ml: float
    level: float
    """Share of patients for whom it holds."""
    patients: int
    wide: float = 0.0
    """Share of scans with more than 5 mL whose interval is wider than the volume."""


class AverageHead(Record):
    """The average of the training heads, and how well a usual head fits it (see components/model/average_head.py)."""

    outline: str
    """Base64: for each cell its share of head."""
    brightness: str
    """Base64: for each cell its mean brightness."""
    upright: float
    """Lowest usual correlation of the front-back part of the outline."""
    order: float
    """Lowest usual correlation of the part of the outline along the slices."""
    like: float
    """Lowest usual correlation of the brightness."""


class HeadLimits(Record):
    """Limits of a predicted mask, as cube roots of shares of the head; None if unknown."""

    most_share: float
    """Largest lesion of a training scan, as a share of its head."""
    share_root: float | None
    unconfirmed_root: float | None
    overlooked_root: float | None


class UsualHeads(Record):
    """What is usual of heads and of the lesions in them."""

    not_found: float
    """Share of the scans in which no head was found."""
    average: AverageHead | None
    """None with too few heads."""
    limits: HeadLimits | None
    """None with fewer than two heads."""


class TrainedModel(Artifact):
    """What the weights need to be used. None: learnt after the weights, or unknown to older code."""

    FILE: ClassVar[str] = "model.json"
    WRITTEN_BY: ClassVar[str] = "train"

    image_size: int
    normalization: str
    base_channels: int
    pixel_mm: float = 0.0
    n4_bias_correction: bool = False
    inputs: str = "dwi"
    norm: str = "batch"
    precision: str = "float32"
    tta: bool = False
    cca: bool = False
    selection: str = "dice"
    threshold: float = 0.5
    smallest_lesion_voxels: int | None = None
    smallest_lesion_ml: float | None = None
    weights_sha256: str | None = None
    tensors_sha256: str | None = None
    """Of `best_model.safetensors`. None: there is no such file, and `best_model.pth` is loaded."""
    best_epoch: int | None = None
    best_val_dice: float | None = None
    training_digest: str = ""
    decides: dict[str, Any] = Field(default_factory=dict)
    """All that determines the model; its SHA-256 is `training_digest`."""
    training_seconds: float | None = None
    training_seconds_taken_over: float | None = None
    params: dict[str, Any] = Field(default_factory=dict)
    """The parameters that MLflow shows."""
    lineage: dict[str, Any] = Field(default_factory=dict)
    """Code and data that it was made of, for the registry's tags."""
    temperature: float | None = None
    volume_interval: VolumeInterval | None = None
    uncertainty: dict[str, float | None] | None = None
    """The largest doubt that is usual, in a `mask` and in an `empty` one."""
    seen: dict[str, tuple[float, float]] | None = None
    """Lowest and highest of each measure of the scans that it learnt from."""
    heads: UsualHeads | None = None
    networks: list["TrainedModel"] = Field(default_factory=list)
    """The networks of an ensemble, by their fold. `WEIGHTS` then holds the file of each. Empty for one network."""


def digest_of(decides: dict[str, Any]) -> str:
    """Return the SHA-256 of values that determine a training."""
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()


def ensemble_decides(decides: dict[str, Any], split_digest: str, folds: int) -> dict[str, Any]:
    """Return all that determines an ensemble, from what determines any network of it: only their splits differ."""
    return {**decides, "split": split_digest, "folds": folds}
