"""Lesion probabilities for whole volumes, in the scan's own space."""

import contextlib
import json
from pathlib import Path

import numpy as np
import torch
from scipy.special import expit

from components.core.step import StepError
from components.unet.grid import neighbours, to_model_grid, to_native_grid
from components.unet.network import AttentionUNet

BATCH = 16


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def autocast(where: torch.device, precision: str):
    """The context of a forward pass in `precision` ("float32", "bfloat16", "float16")."""
    if precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(where.type, dtype=getattr(torch, precision))


def load_model(folder: Path) -> tuple[AttentionUNet, dict]:
    """The network and its facts from a folder with `best_model.pth` and `model.json`.

    Raises:
        StepError: the weights do not fit the facts.
    """
    facts = json.loads((folder / "model.json").read_text())
    network = AttentionUNet(facts["base_channels"])
    try:
        network.load_state_dict(torch.load(folder / "best_model.pth", weights_only=True, map_location="cpu"))
    except Exception as error:
        reason = type(error).__name__
        raise StepError(f"best_model.pth does not load ({reason}): training did not write it. Train again.") from None
    where = device()
    return network.to(where, memory_format=torch.channels_last).eval(), facts


@torch.inference_mode()
def stack_logits(network: AttentionUNet, slices: np.ndarray, order: np.ndarray, precision: str) -> np.ndarray:
    """Lesion logits (S, H, W), float32, for z-scored slices (S, H, W) and neighbour indices (S, 3)."""
    where = next(network.parameters()).device
    out = np.empty(slices.shape, np.float32)
    for start in range(0, len(slices), BATCH):
        rows = order[start : start + BATCH]
        x_BCHW = torch.from_numpy(np.asarray(slices[rows.ravel()])).float().view(*rows.shape, *slices.shape[1:])
        x_BCHW = x_BCHW.to(where).contiguous(memory_format=torch.channels_last)
        with autocast(where, precision):
            logits_B1HW = network(x_BCHW)
        out[start : start + BATCH] = logits_B1HW.float()[:, 0].cpu().numpy()
    return out


def native_probability(
    network: AttentionUNet, facts: dict, slices: np.ndarray, order: np.ndarray, shape: tuple[int, int, int]
) -> np.ndarray:
    """Lesion probability (X, Y, S) on the scan's own grid `shape`, from its slices on the model's grid."""
    logits = stack_logits(network, slices, order, facts["precision"])
    return to_native_grid(expit(logits), shape)


def predict_volume(network: AttentionUNet, facts: dict, volume: np.ndarray, slice_numbers=None) -> np.ndarray:
    """Lesion probability (X, Y, S) of one scan (X, Y, S), both on the scan's own grid."""
    slices = to_model_grid(volume, facts["image_size"], facts["normalization"])
    return native_probability(network, facts, slices, neighbours(slice_numbers, len(slices)), volume.shape)
