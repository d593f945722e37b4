"""The epochs of a training: learn from every batch, validate, keep the best weights, save a checkpoint."""

import logging
import sys
import time
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from components.core.errors import StepError
from components.registry.tracking import Run
from components.train import data_workers, ranks
from components.train.checkpoints import Checkpoints
from components.train.learner import Learner
from components.train.preemption import Preempted, between_items
from components.train.progress import Best, EpochRow, Progress
from components.train.setup import Setup
from components.train.validation import SMOOTHED_EPOCHS, dice, mean_score, validate

Batch = tuple[Tensor, Tensor]
"""Images (B, H, W, 3 or 6) and lesions (B, H, W)."""


def learn(setup: Setup, progress: Progress, checkpoints: Checkpoints, run: Run | None) -> None:
    """Train until the last epoch, or until the validation score stops rising.

    `run` is None in all processes but the first, which logs and saves.

    Raises:
        StepError: the loss became NaN or infinite, or memory ran out.
        Preempted: SIGTERM arrived. The progress is saved to the batch; with several processes, to the epoch.
    """
    settings, learner = setup.settings, setup.learner
    try:
        with data_workers.at_work(), between_items() as watched:
            while progress.epoch <= settings.epochs:
                if progress.history and progress.epoch - progress.best.epoch > settings.early_stop_patience:
                    logging.info("no better validation score for %d epochs: stopping", settings.early_stop_patience)
                    break
                setup.batches.epoch, setup.batches.done = progress.epoch, progress.batches_done
                progress.start_clock()
                train_loss, train_dice = _epoch(learner, watched(data_workers.read(setup.loader)), progress)
                train_seconds = progress.elapsed()
                share = watched(setup.validation[ranks.rank() :: ranks.count()])
                scans = ranks.of_all(validate(learner.kept, share, settings.loss, setup.precision))
                row = {
                    "epoch": progress.epoch, "time": time.time(), "train_loss": train_loss, "train_dice": train_dice,
                    "val_loss": float(np.mean([scan.loss for scan in scans])),
                    "val_dice": float(np.mean([scan.dice for scan in scans])),
                    "val_score": mean_score(scans), "learning_rate": learner.schedule.rate,
                    "seconds": progress.elapsed(),
                }  # fmt: skip
                learner.schedule.after_epoch(row["val_loss"])
                progress.finish_epoch(row)
                _keep_best(learner, progress, settings.selection)
                if run:
                    save(setup, progress, checkpoints)
                    _log_epochs(run, progress.history)
                _log_row(row, progress.best.epoch, setup, train_seconds)
            checkpoints.wait()
    except Preempted:
        if run:
            _save_interrupted(setup, progress, checkpoints)
        raise


def save(setup: Setup, progress: Progress, checkpoints: Checkpoints) -> None:
    """Save a checkpoint."""
    checkpoints.save(len(progress.history), {
        "learner": setup.learner.state_dict(), "progress": progress.state_dict(),
        "precision": setup.precision, "memory_format": setup.memory_format,
    })  # fmt: skip


def _epoch(learner: Learner, batches: Iterable[Batch], progress: Progress) -> tuple[float, float]:
    """Learn from the batches of the unfinished epoch; return mean loss and Dice over all its pixels."""
    epoch = progress.epoch
    learner.whole.train()
    for images_BHWC, lesions_BHW in tqdm(batches, f"epoch {epoch}", leave=False, disable=None, file=sys.__stderr__):
        try:
            progress.add_batch(*learner.step(images_BHWC, lesions_BHW, epoch, progress.batches_done))
        except torch.cuda.OutOfMemoryError:
            raise StepError(
                f"the GPU's memory is too small for {len(images_BHWC)} slices of {images_BHWC.shape[1]}² pixels. "
                "Lower batch_size, image_size or base_channels: make pipeline-run SET='batch_size=8'."
            ) from None
    loss, counts = float(torch.stack(progress.losses).mean()), ranks.total(progress.counts)
    if not np.isfinite(loss):
        raise StepError(
            f"training diverged in epoch {epoch}: the loss is {loss}. Lower learning_rate, or set precision=float32."
        )
    return loss, dice(*counts.tolist())


def _keep_best(learner: Learner, progress: Progress, selection: str) -> None:
    """Keep a copy of the weights if their score is the best so far."""
    score = selection_score(progress.history, selection)
    if score > progress.best.score:
        weights = {name: value.detach().cpu().clone() for name, value in learner.kept.state_dict().items()}
        progress.best = Best(score, progress.history[-1]["val_dice"], len(progress.history), weights)


def selection_score(history: list[EpochRow], selection: str) -> float:
    """Return the score of the last epoch: its mean Dice, or the mean score of the last epochs ("patients")."""
    if selection == "dice":
        return history[-1]["val_dice"]
    return float(np.mean([row["val_score"] for row in history[-SMOOTHED_EPOCHS:]]))


def _save_interrupted(setup: Setup, progress: Progress, checkpoints: Checkpoints) -> None:
    saved = f"epoch {len(progress.history)}"
    if progress.batches_done and not ranks.together():
        progress.pause()
        saved = f"{saved} and {progress.batches_done} batches"
        save(setup, progress, checkpoints)
    checkpoints.wait()
    logging.info("stopped by SIGTERM: %s saved, the next try continues from there", saved)


def _log_row(row: EpochRow, best_epoch: int, setup: Setup, train_seconds: float) -> None:
    logging.info(
        "epoch %d/%d  train loss %.3f dice %.3f  val loss %.3f dice %.3f%s  lr %.1e  %.1f s  %.1f slices/s",
        row["epoch"], setup.settings.epochs, row["train_loss"], row["train_dice"], row["val_loss"], row["val_dice"],
        " *" if best_epoch == row["epoch"] else "", row["learning_rate"], row["seconds"],
        setup.batches.slices / train_seconds,
    )  # fmt: skip


def _log_epochs(run: Run, history: list[EpochRow]) -> None:
    run.log_epochs_in_background(history)
