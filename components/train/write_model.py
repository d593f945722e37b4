"""Write the trained model: weights, threshold, calibration, history and curve."""

import json
import logging
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from components.artifacts.trained_model import CURVE, HISTORY, TENSORS, WEIGHTS, TrainedModel
from components.core.storage import file_sha256
from components.model.inference import load_model
from components.registry.parent import TAG
from components.registry.run_records import data_params, data_tags
from components.registry.tracking import code_tags
from components.train.calibrate import calibrate
from components.train.progress import Progress
from components.train.setup import Setup
from components.train.training_curve import draw_curve, write_page
from components.train.training_inputs import TrainingInputs
from components.train.training_key import TrainingKey, grid_settings
from components.train.validation import choose_threshold


def write_model(inputs: TrainingInputs, key: TrainingKey, setup: Setup, progress: Progress) -> None:
    """Write the best weights, choose the threshold and calibrate with them, and write the rest of the model folder."""
    paths, best = inputs.paths, progress.best
    paths.model.mkdir(parents=True, exist_ok=True)
    write_weights(best.weights, paths.model)
    _describe(inputs, key, setup, progress).write(paths.model)

    network, trained = load_model(paths.model)
    cases = inputs.cases.by_name
    trained, native_dice = choose_threshold(network, trained, paths.cases, cases, setup.validation)
    training = [cases[name] for name in inputs.split.cases["train"]]
    trained = calibrate(network, trained, paths.cases, cases, setup.validation, training)
    trained.write(paths.model)

    (paths.model / HISTORY).write_text(json.dumps(progress.history, indent=1))
    draw_curve(progress.history, best.epoch, paths.model / CURVE)
    write_page(trained, native_dice, paths.model / CURVE, paths.curves)
    logging.info(
        "best: epoch %d, validation Dice %.3f on the model grid; %.3f in native space at threshold %.2f",
        best.epoch, best.val_dice, native_dice, trained.threshold,
    )  # fmt: skip


def write_weights(weights: dict[str, Tensor], folder: Path) -> None:
    """Write the weights twice: as PyTorch saves them, and without a pickle for `load_model`."""
    torch.save(weights, folder / WEIGHTS)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    (folder / TENSORS).write_bytes(safetensors.torch.save(tensors))


def _describe(inputs: TrainingInputs, key: TrainingKey, setup: Setup, progress: Progress) -> TrainedModel:
    """Return what is known about the model before its threshold is chosen."""
    paths, settings, seconds = inputs.paths, setup.settings, [row["seconds"] for row in progress.history]
    return TrainedModel(
        **grid_settings(inputs.slices),
        base_channels=settings.base_channels,
        norm=settings.norm,
        precision=setup.precision,
        tta=settings.tta,
        cca=settings.cca,
        selection=settings.selection,
        weights_sha256=file_sha256(paths.model / WEIGHTS),
        tensors_sha256=file_sha256(paths.model / TENSORS),
        best_epoch=progress.best.epoch,
        best_val_dice=progress.best.val_dice,
        training_digest=key.model_digest,
        decides=key.model,
        training_seconds=sum(seconds),
        training_seconds_taken_over=sum(seconds[: progress.resumed_epochs]),
        params={**setup.params, **data_params(inputs.cases, inputs.split)},
        lineage={
            **code_tags(),
            **data_tags(inputs.cases, inputs.split),
            **({TAG: settings.start} if settings.start else {}),
        },
    )
