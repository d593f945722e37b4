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
from safetensors.torch import save as save_tensors
from scipy.special import expit
from torch import nn

from components.artifacts.trained_model import TENSORS, WEIGHTS, TrainedModel
from components.core.errors import StepError
from components.core.machine import cpus
from components.model.calibration import calibrated
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


def load_model(folder: Path) -> tuple[nn.Module, TrainedModel]:
    """Load the network from a folder with `model.json` and its weights, for prediction.

    The weights are those of `best_model.safetensors`, which holds no pickle. A model of older code has only
    `best_model.pth`: PyTorch reads its pickle with `weights_only`, which allows tensors and nothing that runs.

    Of an ensemble, return an `nn.ModuleList` of its networks. PyTorch starts one thread per core of the machine; here
    it starts as many as the container may use.

    Raises:
        StepError: a file is missing or invalid, or the weights are not those that training wrote.
    """
    trained = TrainedModel.read(folder)
    name, blob = WEIGHTS, _read(folder / WEIGHTS, trained)
    if trained.tensors_sha256:
        name, blob = TENSORS, _read(folder / TENSORS, trained)
    network: nn.Module
    if trained.networks:
        pairs = list(zip(unpack_files(name, blob, len(trained.networks)), trained.networks, strict=True))
        for file, member in pairs:
            _require_written(name, file, member)
        network = nn.ModuleList([_load_network(name, file, member) for file, member in pairs])
    else:
        network = _load_network(name, blob, trained)
    torch.set_num_threads(min(torch.get_num_threads(), cpus()))
    where = device()
    network.to(where, memory_format=torch.channels_last)  # type: ignore[call-overload]  # unknown to torch's stubs
    return network.eval(), trained


def pack_files(name: str, files: Sequence[bytes]) -> bytes:
    """Return the content of the file `name` (`WEIGHTS` or `TENSORS`) of an ensemble: that of each network, whole."""
    tensors = {f"{n:02}": torch.frombuffer(bytearray(file), dtype=torch.uint8) for n, file in enumerate(files, start=1)}
    if name == TENSORS:
        return save_tensors(tensors)
    packed = io.BytesIO()
    torch.save(tensors, packed)
    return packed.getvalue()


def unpack_files(name: str, packed: bytes, count: int) -> list[bytes]:
    """Return the files that `pack_files` packed.

    Raises:
        StepError: it did not, or packed another number than `count`.
    """
    try:
        files = [tensor.numpy().tobytes() for _, tensor in sorted(_tensors(name, packed).items())]
    except Exception as error:
        raise _not_written_by_training(name, error) from None
    if len(files) != count:
        raise StepError(f"{name} holds {len(files)} networks, and model.json describes {count}. Copy it again.")
    return files


def _load_network(name: str, blob: bytes, trained: TrainedModel) -> AttentionUNet:
    network = AttentionUNet(trained.base_channels, 3 * len(CHANNELS[trained.inputs]), trained.norm)
    try:
        network.load_state_dict(_tensors(name, blob))
    except Exception as error:
        raise _not_written_by_training(name, error) from None
    return network


def _tensors(name: str, blob: bytes) -> dict[str, torch.Tensor]:
    if name == TENSORS:
        return load_tensors(blob)
    return torch.load(io.BytesIO(blob), weights_only=True, map_location="cpu")


def _read(file: Path, trained: TrainedModel) -> bytes:
    try:
        blob = file.read_bytes()
    except OSError as error:
        raise StepError(f"{file} cannot be read: {error.strerror or error}. Copy it again, or train again.") from None
    _require_written(file.name, blob, trained)
    return blob


def _require_written(name: str, blob: bytes, trained: TrainedModel) -> None:
    """Raise StepError unless training wrote this content. Models of older code have no digest, and are not checked."""
    digest = trained.tensors_sha256 if name == TENSORS else trained.weights_sha256
    if digest not in (None, hashlib.sha256(blob).hexdigest()):
        raise StepError(
            f"{name} is not the file that training wrote (its SHA-256 differs from model.json): it was changed, "
            "or not copied completely. Copy it again, or train again."
        )


def _not_written_by_training(name: str, error: Exception) -> StepError:
    return StepError(f"{name} cannot be loaded ({type(error).__name__}): training did not write it. Train again.")


@torch.inference_mode()
def stack_logits(
    network: nn.Module, slices: np.ndarray, order: np.ndarray, precision: str, flipped: tuple[int, ...] = ()
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
    network: nn.Module, trained: TrainedModel, slices: np.ndarray, order: np.ndarray, placement: Placement
) -> np.ndarray:
    """Return the lesion probability (X, Y, S) on the scan's own grid, from its slices on the model grid.

    With `tta` it is the mean over all `MIRRORED` slices. A flip does not change which slices are neighbours.
    """
    flips = MIRRORED if trained.tta else MIRRORED[:1]
    probability = sum(expit(stack_logits(network, slices, order, trained.precision, flip)) for flip in flips)
    return placement.home(probability / len(flips))


def predict_volume(
    network: nn.Module,
    trained: TrainedModel,
    volume: np.ndarray,
    slice_numbers: Sequence[int] | None = None,
    adc: np.ndarray | None = None,
    voxel_mm: tuple[float, float, float] | None = None,
    head: Head | None = None,
) -> np.ndarray:
    """Return the lesion probability (X, Y, S) of one scan (X, Y, S), both on the scan's own grid.

    Of an ensemble, it is the mean of the calibrated probabilities of its networks, which run one after the other.

    Args:
        network: The trained network, or the networks of an ensemble, as `load_model` returns them.
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
    slices = np.stack(images)
    if not isinstance(network, nn.ModuleList):
        return native_probability(network, trained, slices, order, placement)
    total = np.zeros(volume.shape, np.float32)
    for one, of_one in zip(network, trained.networks, strict=True):
        total += calibrated(native_probability(one, of_one, slices, order, placement), of_one)
    return total / len(network)
