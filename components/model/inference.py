"""Predict lesion probabilities of whole volumes, in the scan's own space."""

import contextlib
import hashlib
import io
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load as load_tensors
from scipy.special import expit

from components.artifacts.trained_model import TENSORS, WEIGHTS, TrainedModel
from components.core.errors import StepError
from components.core.machine import cpus
from components.model.device import device
from components.model.grid import CHANNELS, neighbours
from components.model.network import AttentionUNet
from components.model.placement import Placement, adc_slices, head_for, image_slices, place
from components.scans.head import Head
from components.scans.n4 import without_bias
from components.scans.volumes import BadVolume

BATCH = 16
MIRRORED = ((), (-1,))
"""Axes along which test-time augmentation flips a slice (H, W): none, and left-right."""


def autocast(where: torch.device, precision: str) -> AbstractContextManager:
    """Return the context of a forward pass in `precision` ("float32", "bfloat16", "float16")."""
    if precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(where.type, dtype=getattr(torch, precision))


def load_model(folder: Path) -> tuple[AttentionUNet, TrainedModel]:
    """Load the network from a folder with `model.json` and its weights, for prediction.

    The weights are those of `best_model.safetensors`, which holds no pickle. A model of older code has only
    `best_model.pth`: PyTorch reads its pickle with `weights_only`, which allows tensors and nothing that runs.

    PyTorch starts one thread per core of the machine; here it starts as many as the container may use.

    Raises:
        StepError: a file is missing or invalid, or the weights are not those that training wrote.
    """
    trained = TrainedModel.read(folder)
    name, blob = WEIGHTS, _as_written(folder / WEIGHTS, trained.weights_sha256)
    if trained.tensors_sha256:
        name, blob = TENSORS, _as_written(folder / TENSORS, trained.tensors_sha256)
    channels = 3 * len(CHANNELS[trained.inputs])
    network = AttentionUNet(trained.base_channels, channels, trained.norm)
    try:
        network.load_state_dict(
            load_tensors(blob) if name == TENSORS
            else torch.load(io.BytesIO(blob), weights_only=True, map_location="cpu")
        )  # fmt: skip
    except Exception as error:
        reason = type(error).__name__
        raise StepError(f"{name} cannot be loaded ({reason}): training did not write it. Train again.") from None
    torch.set_num_threads(min(torch.get_num_threads(), cpus()))
    where = device()
    network.to(where, memory_format=torch.channels_last)  # type: ignore[call-overload]  # unknown to torch's stubs
    return network.eval(), trained


def _as_written(file: Path, digest: str | None) -> bytes:
    """Return the content of a file of weights. Without a digest (in models of older code) it is not checked.

    Raises:
        StepError: the file is missing, or it is not the one that training wrote.
    """
    try:
        blob = file.read_bytes()
    except OSError as error:
        raise StepError(f"{file} cannot be read: {error.strerror or error}. Copy it again, or train again.") from None
    if digest not in (None, hashlib.sha256(blob).hexdigest()):
        raise StepError(
            f"{file.name} is not the file that training wrote (its SHA-256 differs from model.json): it was changed, "
            "or not copied completely. Copy it again, or train again."
        )
    return blob


@torch.inference_mode()
def stack_logits(
    network: AttentionUNet, slices: np.ndarray, order: np.ndarray, precision: str, flipped: tuple[int, ...] = ()
) -> np.ndarray:
    """Return lesion logits (S, H, W), float32, for normalised slices (S, H, W) and neighbour indices (S, 3).

    With ADC, slices are (2 S, H, W) and indices (S, 6). The network sees the slices flipped along the axes `flipped`;
    its output is flipped back.
    """
    where = next(network.parameters()).device
    out = np.empty((len(order), *slices.shape[1:]), np.float32)
    for start in range(0, len(order), BATCH):
        rows = order[start : start + BATCH]
        x_BCHW = torch.from_numpy(np.asarray(slices[rows.ravel()])).float().view(*rows.shape, *slices.shape[1:])
        if flipped:
            x_BCHW = x_BCHW.flip(flipped)
        x_BCHW = x_BCHW.to(where).contiguous(memory_format=torch.channels_last)
        with autocast(where, precision):
            logits_B1HW = network(x_BCHW)
        logits_BHW = logits_B1HW.float()[:, 0].cpu()
        out[start : start + BATCH] = (logits_BHW.flip(flipped) if flipped else logits_BHW).numpy()
    return out


def native_probability(
    network: AttentionUNet, trained: TrainedModel, slices: np.ndarray, order: np.ndarray, placement: Placement
) -> np.ndarray:
    """Return the lesion probability (X, Y, S) on the scan's own grid, from its slices on the model grid.

    With `tta` it is the mean over all `MIRRORED` slices. A flip does not change which slices are neighbours.
    """
    flips = MIRRORED if trained.tta else MIRRORED[:1]
    probability = sum(expit(stack_logits(network, slices, order, trained.precision, flip)) for flip in flips)
    return placement.home(probability / len(flips))


def predict_volume(
    network: AttentionUNet,
    trained: TrainedModel,
    volume: np.ndarray,
    slice_numbers: Sequence[int] | None = None,
    adc: np.ndarray | None = None,
    voxel_mm: tuple[float, float, float] | None = None,
    head: Head | None = None,
) -> np.ndarray:
    """Return the lesion probability (X, Y, S) of one scan (X, Y, S), both on the scan's own grid.

    Args:
        network: The trained network.
        trained: Its model.
        volume: DWI.
        slice_numbers: Number of each slice in its file name; None if the scan is one file.
        adc: ADC map in 1e-3 mm²/s, for a model that was trained with it; other models ignore it.
        voxel_mm: Size of a voxel.
        head: The scan's head if it is known; else it is found here, if the model needs it.

    Raises:
        BadVolume: the model needs an ADC map, and `adc` is None.
    """
    channels = CHANNELS[trained.inputs]
    if "adc" in channels and adc is None:
        raise BadVolume("the model needs an ADC map too: send it with the scan")
    head = head_for(volume, voxel_mm, trained.normalization, trained.pixel_mm, head)
    if trained.n4_bias_correction:
        volume = without_bias(volume)
    placement = place(volume, voxel_mm, trained.image_size, trained.pixel_mm, head)
    images = [*image_slices(volume, placement, trained.normalization, head)]
    if "adc" in channels and adc is not None:
        images += adc_slices(adc, placement, head)
    numbers = None if slice_numbers is None else list(slice_numbers[placement.first : placement.stop])
    order = neighbours(numbers, placement.slices, len(channels))
    return native_probability(network, trained, np.stack(images), order, placement)
