"""Set up a training: device, number format, data, network."""

import logging
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader

from components.core.errors import StepError
from components.core.machine import asked_gpus, cpus
from components.core.settings import Settings
from components.model.device import device
from components.model.gpu_advice import describe_device, device_name, unused_gpu
from components.train import ranks
from components.train.augment import augmentation
from components.train.autotune import choose
from components.train.data import EpochBatches, GridCase, StackDataset, loader
from components.train.learner import Learner
from components.train.training_inputs import TrainingInputs
from components.train.training_key import given_settings, grid_settings


@dataclass(frozen=True)
class Setup:
    """All parts of a training. `params` are the parameters that MLflow shows."""

    settings: Settings
    precision: str
    memory_format: str
    learner: Learner
    batches: EpochBatches
    loader: DataLoader
    validation: list[GridCase]
    params: dict[str, Any]

    @classmethod
    def make(
        cls,
        inputs: TrainingInputs,
        settings: Settings,
        device: torch.device,
        checkpoint: dict[str, Any] | None,
        start: dict[str, torch.Tensor] | None = None,
    ) -> "Setup":
        """Build dataset, sampler and learner, with the weights `start` if they are given.

        Number format and memory layout of a checkpoint are kept.

        Raises:
            StepError: no training slice has a lesion, or the split names an unknown case.
        """
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
        torch.manual_seed(settings.random_seed)
        precision, memory_format = _number_format(settings, device, checkpoint)
        dataset = StackDataset(
            inputs.grid_cases("train"),
            augmentation(
                settings.augmentation, settings.aug_hflip_prob, settings.aug_rotate_prob, settings.aug_brightness_prob,
                zero_outside=inputs.slices.normalization == "head",
            ),
        )  # fmt: skip
        batches = EpochBatches(
            dataset.has_lesion, settings.batch_size, settings.lesion_free_ratio, settings.random_seed,
            ranks.rank(), ranks.count(), dataset.patients if settings.sampling == "patients" else None,
        )  # fmt: skip
        prior = batches.lesion_share(dataset.lesion_pixels, dataset.side)
        learner = Learner(settings, dataset.channels, device, precision, memory_format, batches.per_epoch, prior, start)
        validation = inputs.grid_cases("val")
        devices = ranks.devices(device_name(device))
        params = {
            **given_settings(settings),
            **grid_settings(inputs.slices),
            "start": settings.start,
            "image_size": f"({inputs.slices.image_size}, {inputs.slices.image_size})",
            "model_params": sum(p.numel() for p in learner.network.parameters()),
            "train_slices": len(dataset),
            "train_slices_with_lesion": int(dataset.has_lesion.sum()),
            "train_slices_per_epoch": batches.slices,
            "val_slices": sum(len(case.order) for case in validation),
            "device": device_name(device),
            "processes": ranks.count(),
            **({"devices": devices} if ranks.together() else {}),
            "precision": precision,
            "memory_format": memory_format,
        }
        if ranks.together():
            logging.info("devices: %s", devices)
        logging.info(
            "%s, %s; %.2f M parameters; %d training slices (%d with lesion), %d per epoch; %d validation patients",
            precision, memory_format, params["model_params"] / 1e6, len(dataset), params["train_slices_with_lesion"],
            batches.slices, len(inputs.split.patients["val"]),
        )  # fmt: skip
        data = loader(dataset, batches, device, cores())
        return cls(settings, precision, memory_format, learner, batches, data, validation, params)


def cores() -> int:
    """Return the CPU cores of this process."""
    return max(1, cpus() // ranks.on_this_machine())


def choose_device() -> torch.device:
    """Return the device to train on, and log it.

    Raises:
        StepError: it is the CPU, but GPUs were asked for, or the processes share their batches through GPUs.
    """
    chosen, asked = device(), asked_gpus()
    if chosen.type == "cpu" and (asked or ranks.over_gpus()):
        reason = unused_gpu() or f"PyTorch {torch.__version__} finds no GPU on this machine"
        if asked:
            raise StepError(f"GPUS={asked} asks for a GPU, but {reason}. To train on the CPU leave GPUS out.")
        raise StepError(f"{reason}. To train on the CPU hide the GPUs: CUDA_VISIBLE_DEVICES=-1.")
    here = ranks.on_this_machine()
    fewer = (
        f"; this machine has fewer than the {asked} GPUs asked for" if here < asked and chosen.type == "cuda" else ""
    )
    logging.info("training on %s%s%s", f"{ranks.count()} x " if ranks.together() else "", describe_device(), fewer)
    return chosen


def _number_format(settings: Settings, device: torch.device, checkpoint: dict[str, Any] | None) -> tuple[str, str]:
    if checkpoint:
        return checkpoint["precision"], checkpoint["memory_format"]
    asked = settings.precision, settings.memory_format
    return ranks.of_first(lambda: choose(device, settings.base_channels, *asked, settings.norm))
