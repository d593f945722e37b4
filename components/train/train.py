"""Train the Attention U-Net: python -m pytest tests/unit/components/train shows it in small.

Read from top to bottom: what decides the result is hashed, a killed run's state is found again by that
hash, and every epoch ends with a checkpoint, as does SIGTERM, so a run that was killed ends as one that was not.
On several GPUs every process runs all of this; the first one of them logs, keeps and writes (`ranks`).
"""

import hashlib
import json
import logging
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from components.core.code_closure import TRAINING_STEPS, steps_digest
from components.core.machine import asked_gpus, cpus
from components.core.settings import Settings
from components.core.step import StepError
from components.core.storage import file_sha256
from components.model.device import device, in_words, named, unused_gpu
from components.model.grid import CHANNELS
from components.registry.tracking import Run, code_lineage, data_lineage, data_params, record_inputs, record_training
from components.train import data_workers, ranks
from components.train.augment import augmentation
from components.train.autotune import choose
from components.train.calibrate import learn_trust
from components.train.checkpoints import Checkpoints
from components.train.data import EpochBatches, StackDataset, loader, read_index
from components.train.learner import Learner
from components.train.preemption import Preempted, between_items
from components.train.training_curve import draw_curve, write_page
from components.train.validation import SMOOTHED_EPOCHS, Score, choose_cut, dice, patient_mean, validate

GRID = ("image_size", "pixel_mm", "normalization", "n4_bias_correction", "inputs")
"""What preprocess did, and a prediction has to do again."""
CUTTING = {"tta", "cca"}
"""Settings that do not decide the weights: with other values the same checkpoint gives another cut, at no training."""


def train(cases: Path, slices: Path, split: Path, page: Path, model: Path, curves: Path, settings: Settings) -> None:
    """Learn from the training patients, choose by the validation patients, write the `model` folder.

    `model` gets `best_model.pth` (state_dict), `model.json` (what it takes to use it), `history.json`,
    `training_curve.png`; `curves` a page with it.

    Raises:
        StepError: the loss became NaN or infinite, the GPU's memory does not suffice, or a GPU was asked for and
            cannot be used.
        Preempted: SIGTERM came while it learnt. What is learnt is kept: to the batch, or to the epoch where several
            processes share the batches.
    """
    parts, index = json.loads(split.read_text()), json.loads((slices / "index.json").read_text())
    decides_weights, decides = _decides(cases, index, parts, settings)
    digest = _sha256(decides)
    cores = max(1, cpus() // ranks.on_this_machine())
    torch.set_num_threads(cores)
    where = _where()
    checkpoints = Checkpoints(_sha256(decides_weights))
    state = ranks.of_first(checkpoints.load)
    if ranks.first():
        run = Run.open(digest)
        record_inputs(run, cases, split, page)

    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    torch.manual_seed(settings.random_seed)
    asked = settings.precision, settings.memory_format
    precision, memory_format = (
        (state["precision"], state["memory_format"])
        if state
        else ranks.of_first(lambda: choose(where, settings.base_channels, *asked, settings.norm))
    )
    dataset = StackDataset(
        read_index(slices, parts["cases"]["train"]),
        augmentation(
            settings.augmentation, settings.aug_hflip_prob, settings.aug_rotate_prob, settings.aug_brightness_prob,
            zero_outside=index["normalization"] == "head",
        ),
    )  # fmt: skip
    batches = EpochBatches(
        dataset.has_lesion, settings.batch_size, settings.lesion_free_ratio, settings.random_seed,
        ranks.rank(), ranks.count(), dataset.patients if settings.sampling == "patients" else None,
    )  # fmt: skip
    prior = batches.lesion_share(dataset.lesion_pixels, dataset.side)
    learner = Learner(settings, dataset.channels, where, precision, memory_format, batches.per_epoch, prior)
    data = loader(dataset, batches, where, cores)
    validation = read_index(slices, parts["cases"]["val"])
    devices = ranks.devices(named(where))
    params = {
        **_settings_params(settings, index),
        "model_params": sum(p.numel() for p in learner.network.parameters()),
        "train_slices": len(dataset),
        "train_slices_with_lesion": int(dataset.has_lesion.sum()),
        "train_slices_per_epoch": batches.slices,
        "val_slices": sum(len(c.order) for c in validation),
        "device": named(where),
        "processes": ranks.count(),
        **({"devices": devices} if ranks.together() else {}),
        "precision": precision,
        "memory_format": memory_format,
    }  # fmt: skip
    if ranks.first():
        run.params(params)
    if ranks.together():
        logging.info("devices: %s", devices)
    logging.info(
        "%s, %s; %.2f M parameters; %d training slices (%d with lesion), %d an epoch; %d validation patients",
        precision, memory_format, params["model_params"] / 1e6, len(dataset),
        params["train_slices_with_lesion"], params["train_slices_per_epoch"], len(parts["patients"]["val"]),
    )  # fmt: skip

    history: list[dict[str, float]] = []
    losses, counts, seconds = _nothing_yet(where)
    best = {"worth": -1.0, "val_dice": 0.0, "epoch": 0, "weights": learner.kept.state_dict()}
    if state:
        learner.load_state_dict(state["learner"])
        history, best = state["history"], state["best"]
        losses, seconds = list(state["losses"].to(where)), state["seconds"]
        counts = state["counts"].to(where) * ranks.first()  # they are added up over the processes
        batch = f" and {len(losses)} batches" if losses else ""
        logging.info("going on after epoch %d%s of %d, from the checkpoint", len(history), batch, settings.epochs)
    taken_over = len(history)

    def keep() -> None:
        checkpoints.save(len(history), {
            "learner": learner.state_dict(), "history": history, "best": best,
            "losses": torch.stack(losses) if losses else torch.empty(0), "counts": counts, "seconds": seconds,
            "precision": precision, "memory_format": memory_format,
        })  # fmt: skip

    if not state and ranks.first():
        keep()  # what was measured to be fastest holds for this training, even if it is killed in its first epoch
    try:
        with data_workers.at_work(), between_items() as watched:
            for epoch in range(len(history) + 1, settings.epochs + 1):
                if epoch - best["epoch"] > settings.early_stop_patience and history:
                    logging.info("no better validation score for %d epochs: stopping", settings.early_stop_patience)
                    break
                batches.epoch, batches.done, start = epoch, len(losses), time.perf_counter() - seconds
                train_loss, train_dice = _epoch(learner, watched(data_workers.read(data)), epoch, losses, counts)
                train_seconds = time.perf_counter() - start
                share = watched(validation[ranks.rank() :: ranks.count()])
                scores = ranks.of_all(validate(learner.kept, share, settings.loss, precision))
                val_loss, val_dice = (float(np.mean([getattr(s, name) for s in scores])) for name in ("loss", "dice"))
                learning_rate = learner.schedule.rate
                learner.schedule.after_epoch(val_loss)
                row = {
                    "epoch": epoch, "time": time.time(), "train_loss": train_loss, "train_dice": train_dice,
                    "val_loss": val_loss, "val_dice": val_dice, "val_worth": _worth(scores),
                    "learning_rate": learning_rate, "seconds": time.perf_counter() - start,
                }  # fmt: skip
                history.append(row)
                losses, counts, seconds = _nothing_yet(where)
                now = _selected_by(history, settings.selection)
                if now > best["worth"]:
                    weights = {k: v.detach().cpu().clone() for k, v in learner.kept.state_dict().items()}
                    best = {"worth": now, "val_dice": val_dice, "epoch": epoch, "weights": weights}
                if ranks.first():
                    keep()
                    _log_epochs(run, history)
                logging.info(
                    "epoch %d/%d  train loss %.3f dice %.3f  val loss %.3f dice %.3f%s  lr %.1e  %.1f s  %.1f slices/s",
                    epoch, settings.epochs, train_loss, train_dice, val_loss, val_dice,
                    " *" if best["epoch"] == epoch else "", learning_rate, row["seconds"],
                    params["train_slices_per_epoch"] / train_seconds,
                )  # fmt: skip
            checkpoints.wait()
    except Preempted:
        if ranks.first():
            kept = f"epoch {len(history)}"
            if losses and not ranks.together():
                seconds, kept = time.perf_counter() - start, f"{kept} and {len(losses)} batches"
                keep()
            checkpoints.wait()
            logging.info("told to stop (SIGTERM): kept to %s, the next try goes on from there", kept)
        raise
    if not ranks.first():
        return

    model.mkdir(parents=True, exist_ok=True)
    torch.save(best["weights"], model / "best_model.pth")
    facts = {
        **{name: index[name] for name in GRID},
        "base_channels": settings.base_channels, "norm": settings.norm, "precision": precision,
        "tta": settings.tta, "cca": settings.cca, "selection": settings.selection, "threshold": 0.5,
        "weights_sha256": file_sha256(model / "best_model.pth"),
        "best_epoch": best["epoch"], "best_val_dice": best["val_dice"], "training_digest": digest,
        "decides": decides,
        "training_seconds": sum(row["seconds"] for row in history),
        "training_seconds_taken_over": sum(row["seconds"] for row in history[:taken_over]),
        "params": {**params, **data_params(cases, split)}, "lineage": {**code_lineage(), **data_lineage(cases, split)},
    }  # fmt: skip
    _write_facts(model, facts)
    cut, native_dice = choose_cut(model, cases, validation)
    facts |= cut
    facts["params"] |= {name: size for name, size in cut.items() if name != "threshold"}  # that one is a metric
    _write_facts(model, facts)
    facts |= learn_trust(model, cases, validation, parts["cases"]["train"])
    _write_facts(model, facts)
    (model / "history.json").write_text(json.dumps(history, indent=1))
    draw_curve(history, best["epoch"], model / "training_curve.png")
    write_page(facts, native_dice, model / "training_curve.png", curves)
    try:
        record_training(run, model)
    except StepError as error:
        logging.warning("the training is whole; evaluate logs what MLflow lacks of it. %s", error)
    logging.info(
        "best: epoch %d, validation Dice %.3f on the model grid; %.3f in native space at threshold %.2f",
        best["epoch"], best["val_dice"], native_dice, facts["threshold"],
    )  # fmt: skip


def _where() -> torch.device:
    """The device to train on, which is said.

    Raises:
        StepError: it is the CPU, and GPUs were asked for, or the processes share their batches over GPUs.
    """
    where, asked = device(), asked_gpus()
    if where.type == "cpu" and (asked or ranks.over_gpus()):
        why = unused_gpu() or f"PyTorch {torch.__version__} sees no GPU here"
        if asked:
            raise StepError(f"GPUS={asked} asks for a GPU, but {why}. To train on the CPU leave GPUS out.")
        raise StepError(f"{why}. To train on the CPU hide the GPUs: CUDA_VISIBLE_DEVICES=-1.")
    here = ranks.on_this_machine()
    fewer = f"; {asked} were asked for, and no more are here" if here < asked and where.type == "cuda" else ""
    logging.info("training on %s%s%s", f"{ranks.count()} x " if ranks.together() else "", in_words(), fewer)
    return where


def _nothing_yet(where: torch.device) -> tuple[list[Tensor], Tensor, float]:
    """What an epoch has come to before its first batch: losses, counts of pixels (see `dice`), seconds."""
    return [], torch.zeros(3, dtype=torch.int64, device=where), 0.0


def _epoch(learner: Learner, data, epoch: int, losses: list[Tensor], counts: Tensor) -> tuple[float, float]:
    """One pass over the training slices; mean loss and Dice over all their pixels.

    `losses` and `counts` grow with each batch; what they hold already counts too.
    """
    learner.whole.train()
    for images_BHWC, lesions_BHW in tqdm(data, f"epoch {epoch}", leave=False, disable=None, file=sys.__stderr__):
        try:
            loss, found = learner.step(images_BHWC, lesions_BHW, epoch, len(losses))
        except torch.cuda.OutOfMemoryError:
            raise StepError(
                f"the GPU's memory does not suffice for {len(images_BHWC)} slices at once at {images_BHWC.shape[1]}². "
                "Lower batch_size, image_size or base_channels: make pipeline-run SET='batch_size=8'."
            ) from None
        losses.append(loss)
        counts += found
    mean, counts = float(torch.stack(losses).mean()), ranks.total(counts)
    if not np.isfinite(mean):
        raise StepError(
            f"training diverged in epoch {epoch}: the loss is {mean}. Lower learning_rate, or set precision=float32."
        )
    return mean, dice(*counts.tolist())


def _worth(scores: list[Score]) -> float:
    """Mean over the validation patients."""
    return float(patient_mean([s.patient for s in scores], [s.worth for s in scores]).mean())


def _selected_by(history: list[dict[str, float]], selection: str) -> float:
    """The number by which the last epoch's weights are kept: its Dice, or the worth of the last epochs."""
    if selection == "dice":
        return history[-1]["val_dice"]
    return float(np.mean([row["val_worth"] for row in history[-SMOOTHED_EPOCHS:]]))


def _decides(cases: Path, index: dict, parts: dict, settings: Settings) -> tuple[dict, dict]:
    """All that determines the weights (data, grid, split, settings, code), and all that determines the model."""
    given, facts = _given(settings), json.loads((cases / "cases.json").read_text())
    weights = {
        "data": facts["data_version"],
        "b_value": facts.get("b_value", 0) if "adc" in CHANNELS[index["inputs"]] else None,
        "grid": {name: index[name] for name in GRID},
        "split": parts["digest"],
        "settings": {name: value for name, value in given.items() if name not in CUTTING},
        "code": steps_digest(*TRAINING_STEPS),
        "torch": torch.__version__,
    }
    cut = {name: value for name, value in given.items() if name in CUTTING}
    return weights, {**weights, "cut": cut}


def _sha256(facts: dict) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _settings_params(settings: Settings, index: dict) -> dict:
    """The settings as MLflow shows them; the split's are logged with the split."""
    size = index["image_size"]
    return {**_given(settings), **{name: index[name] for name in GRID}, "image_size": f"({size}, {size})"}


def _given(settings: Settings) -> dict:
    """What the caller set: the rest is other steps' business."""
    return settings.model_dump(include=settings.model_fields_set)


def _log_epochs(run: Run, history: list[dict[str, float]]) -> None:
    run.epochs_meanwhile(history)


def _write_facts(model: Path, facts: dict) -> None:
    (model / "model.json").write_text(json.dumps(facts, indent=1))
