"""A small trained model, as far as a test describes it."""

from typing import Any

from components.artifacts.trained_model import TrainedModel


def trained(**values: Any) -> TrainedModel:
    """Return a model of 32 x 32 pixels and 4 base channels with these values."""
    return TrainedModel(**{"image_size": 32, "normalization": "slice", "base_channels": 4, **values})
