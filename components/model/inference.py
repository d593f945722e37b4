"""Lesion probabilities for whole volumes, in the scan's own space."""

import contextlib
import hashlib
import io
import json
from pathlib import Path

import numpy as np
import torch
from scipy.special import expit

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
"""Axes of a slice (H, W) along which test-time augmentation flips it: none, left-right, as the training augments it."""


def autocast(where: torch.device, precision: str):
    """The context of a forward pass in `precision` ("float32", "bfloat16", "float16")."""
    if precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(where.type, dtype=getattr(torch, precision))


def load_model(folder: Path) -> tuple[AttentionUNet, dict]:
    """The network and its facts from a folder with `best_model.pth` and `model.json`.

    PyTorch would start a thread for every core of the node; a container with a CPU limit gets as many as it may use.

    Raises:
        StepError: the weights are not those that training wrote, or do not fit the facts.
    """
    facts = json.loads((folder / "model.json").read_text())
    blob = (folder / "best_model.pth").read_bytes()
    if facts.get("weights_sha256") not in (None, hashlib.sha256(blob).hexdigest()):  # None: trained by older code
        raise StepError(
            "best_model.pth is not what training wrote (another sha256 than in model.json): it was altered, or not "
            "copied whole. Take it from where it came from again, or train again."
        )
    channels = 3 * len(CHANNELS[facts.get("inputs", "dwi")])
    network = AttentionUNet(facts["base_channels"], channels, facts.get("norm", "batch"))
    try:
        network.load_state_dict(torch.load(io.BytesIO(blob), weights_only=True, map_location="cpu"))
    except Exception as error:
        reason = type(error).__name__
        raise StepError(f"best_model.pth does not load ({reason}): training did not write it. Train again.") from None
    torch.set_num_threads(min(torch.get_num_threads(), cpus()))
    where = device()
    return network.to(where, memory_format=torch.channels_last).eval(), facts


@torch.inference_mode()
def stack_logits(
    network: AttentionUNet, slices: np.ndarray, order: np.ndarray, precision: str, flipped: tuple[int, ...] = ()
) -> np.ndarray:
    """Lesion logits (S, H, W), float32, for z-scored slices (S, H, W) and neighbour indices (S, 3).

    With ADC, slices (2 S, H, W) and indices (S, 6).

    The network sees them flipped along the axes `flipped`; its answer is flipped back.
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
    network: AttentionUNet, facts: dict, slices: np.ndarray, order: np.ndarray, placement: Placement
) -> np.ndarray:
    """Lesion probability (X, Y, S) on the scan's own grid, from its slices on the model's grid, placed as told.

    With `tta` in the facts the mean over all `MIRRORED` slices. A flip leaves each slice between its neighbours.
    """
    flips = MIRRORED if facts.get("tta") else MIRRORED[:1]
    probability = sum(expit(stack_logits(network, slices, order, facts["precision"], flip)) for flip in flips)
    return placement.home(probability / len(flips))


def predict_volume(
    network: AttentionUNet,
    facts: dict,
    volume: np.ndarray,
    slice_numbers=None,
    adc: np.ndarray | None = None,
    voxel_mm: tuple[float, float, float] | None = None,
    head: Head | None = None,
) -> np.ndarray:
    """Lesion probability (X, Y, S) of one scan (X, Y, S), both on the scan's own grid.

    `head` saves finding it again; a model that looks at the whole plane needs none. `adc` (X, Y, S), in 1e-3 mm²/s, is
    for a model that learnt from it; another leaves it aside.

    Raises:
        BadVolume: the model needs an ADC map, and there is none.
    """
    channels = CHANNELS[facts.get("inputs", "dwi")]
    if "adc" in channels and adc is None:
        raise BadVolume("the model sees the ADC map too, and none was given")
    head = head_for(facts, volume, voxel_mm, head)
    if facts.get("n4_bias_correction"):
        volume = without_bias(volume)
    placement = place(volume, voxel_mm, facts["image_size"], facts.get("pixel_mm", 0), head)
    images = [*image_slices(volume, placement, facts["normalization"], head)]
    if "adc" in channels:
        images += adc_slices(adc, placement, head)
    numbers = None if slice_numbers is None else slice_numbers[placement.first : placement.stop]
    order = neighbours(numbers, placement.slices, len(channels))
    return native_probability(network, facts, np.stack(images), order, placement)
