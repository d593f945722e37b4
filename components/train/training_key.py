"""What determines the result of a training, and the digests by which checkpoints and models are found."""

from dataclasses import dataclass
from typing import Any

import torch

from components.artifacts.slices import Slices
from components.artifacts.trained_model import digest_of, ensemble_decides
from components.core.code_closure import TRAINING_STEPS, steps_digest
from components.core.settings import Settings
from components.model.grid import CHANNELS
from components.train.training_inputs import TrainingInputs

GRID = ("image_size", "pixel_mm", "normalization", "n4_bias_correction", "inputs")
"""Settings of preprocess that a prediction needs too."""
MASK_SETTINGS = {"tta", "cca"}
"""Settings that change the masks but not the weights: with other values, a finished training is used again."""


@dataclass(frozen=True)
class TrainingKey:
    """All values that determine the weights, and all values that determine the model."""

    weights: dict[str, Any]
    model: dict[str, Any]
    ensemble_digest: str
    """SHA-256 of all values that determine the ensemble of a cross-validation; "" without folds."""

    @classmethod
    def of(cls, inputs: TrainingInputs, settings: Settings) -> "TrainingKey":
        """Collect data, grid, split, settings and code of a training."""
        given = given_settings(settings)
        weights = {
            "data": inputs.cases.data_version,
            "b_value": inputs.cases.b_value if "adc" in CHANNELS[inputs.slices.inputs] else None,
            "grid": grid_settings(inputs.slices),
            "split": inputs.split.digest,
            "settings": {name: value for name, value in given.items() if name not in MASK_SETTINGS},
            "code": steps_digest(*TRAINING_STEPS),
            "torch": torch.__version__,
        }
        masks = {name: value for name, value in given.items() if name in MASK_SETTINGS}
        model, held_out = {**weights, "cut": masks}, inputs.split.held_out
        ensemble = held_out and ensemble_decides(model, held_out.split_digest, held_out.folds)
        return cls(weights, model, digest_of(ensemble) if ensemble else "")

    @property
    def weights_digest(self) -> str:
        """SHA-256 that names the checkpoints."""
        return digest_of(self.weights)

    @property
    def model_digest(self) -> str:
        """SHA-256 that MLflow shows as `training_digest`."""
        return digest_of(self.model)


def given_settings(settings: Settings) -> dict[str, Any]:
    """Return the settings that the train step was called with; the others belong to other steps."""
    return settings.model_dump(include=settings.model_fields_set)


def grid_settings(slices: Slices) -> dict[str, Any]:
    """Return the settings in `GRID`."""
    return {name: getattr(slices, name) for name in GRID}
