"""Train the Attention U-Net: set up, resume, learn, write.

A digest of all that determines the weights names the checkpoints. A killed training finds its newest checkpoint by this
digest, and ends with the same weights as one that was not killed. With several GPUs each process runs this code; the
first one logs, saves and writes (see `ranks`).
"""

import logging
import time

import torch

from components.core.errors import StepError
from components.core.settings import Settings
from components.registry.run_records import record_inputs, record_training
from components.registry.tracking import Run
from components.train import ranks
from components.train.checkpoints import Checkpoints
from components.train.learn import learn, save
from components.train.progress import Progress
from components.train.setup import Setup, choose_device, cores
from components.train.start import starting_weights
from components.train.system_metrics import log_system_metrics
from components.train.training_inputs import TrainingInputs, TrainingPaths
from components.train.training_key import TrainingKey
from components.train.write_model import write_model


def train(paths: TrainingPaths, settings: Settings) -> None:
    """Learn from the training patients, select by the validation patients, and write model and page (`paths`).

    Raises:
        StepError: an input is invalid, the loss became NaN or infinite, memory ran out, or a GPU was asked for and
            cannot be used; the model of START does not fit, or has seen a test patient; or MLflow does not answer at
            the start or, for a fold, at the end.
        Preempted: SIGTERM arrived. The progress is saved to the batch; with several processes, to the epoch.
    """
    start = time.perf_counter()
    inputs = TrainingInputs.read(paths)
    key = TrainingKey.of(inputs, settings)
    torch.set_num_threads(cores())
    device = choose_device()
    checkpoints = Checkpoints(key.weights_digest)
    checkpoint = ranks.of_first(checkpoints.load)
    run = _open_run(key, inputs) if ranks.first() else None

    weights = None
    if settings.start and not checkpoint:
        weights = ranks.of_first(lambda: starting_weights(inputs, settings))
    setup = Setup.make(inputs, settings, device, checkpoint, weights)
    if run:
        run.log_params(setup.params)

    progress = Progress(device, setup.learner.kept.state_dict())
    if checkpoint:
        setup.learner.load_state_dict(checkpoint["learner"])
        progress.load_state_dict(checkpoint["progress"])
        batches = f" and {progress.batches_done} batches" if progress.batches_done else ""
        done = len(progress.history)
        logging.info("continuing after epoch %d%s of %d, from the checkpoint", done, batches, settings.epochs)
    elif run:
        save(setup, progress, checkpoints)  # keeps the number format that was measured to be the fastest

    with log_system_metrics(run):
        learn(setup, progress, checkpoints, run)

    if run:
        write_model(inputs, key, setup, progress)
        _record(run, inputs, start)


def _record(run: Run, inputs: TrainingInputs, start: float) -> None:
    """Log the finished training that began at `start`.

    Raises:
        StepError: MLflow does not answer, and the network is one of a cross-validation: evaluate logs only their
            ensemble.
    """
    try:
        record_training(run, inputs.paths.model)
        run.log_seconds("train", time.perf_counter() - start)
        if inputs.split.held_out:
            run.finish()
    except StepError as error:
        if inputs.split.held_out:
            raise StepError(f"the training is complete, and its checkpoint is kept: run again. {error}") from error
        logging.warning("the training is complete; evaluate logs what MLflow does not have yet. %s", error)


def _open_run(key: TrainingKey, inputs: TrainingInputs) -> Run:
    if held_out := inputs.split.held_out:
        run = Run.open_network(key.ensemble_digest, key.model_digest, held_out.fold, held_out.folds)
    else:
        run = Run.open(key.model_digest)
    record_inputs(run, inputs.cases, inputs.split, inputs.paths.split, inputs.paths.data_report)
    return run
