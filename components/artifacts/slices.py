"""The preprocessed slices: preprocess writes them as `.npy` files, and lists them in `index.json`."""

from typing import ClassVar

from components.artifacts.artifact import Artifact, Record


class GridPlacement(Record):
    """Where the model's grid lies on a scan (see components/model/placement.py)."""

    shape: tuple[int, int, int]
    size: int
    centre: tuple[float, float] | None
    step: tuple[float, float] | None
    swapped: bool
    first: int
    stop: int
    shrunk: float


class CaseSlices(Record):
    """The slices of one case."""

    case: str
    patient: str
    image: str
    """File name: (slices, image_size, image_size) float16; those of the ADC follow those of the DWI."""
    mask: str
    """File name: (slices, image_size, image_size) uint8."""
    placement: GridPlacement
    voxel_ml: float
    neighbours: list[list[int]]
    """For each slice the rows of `image` that the network sees (2.5D)."""
    lesion_pixels: list[int]
    """For each slice."""


class Slices(Artifact):
    """How all learnable cases were brought to the model's grid."""

    FILE: ClassVar[str] = "index.json"
    WRITTEN_BY: ClassVar[str] = "preprocess"

    image_size: int
    normalization: str
    n4_bias_correction: bool
    inputs: str
    pixel_mm: float
    cases: list[CaseSlices]
