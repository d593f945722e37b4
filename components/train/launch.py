"""Choose how to train: in this process, in one process per GPU, or on several nodes of a cluster."""

import os

import torch

from components.core.settings import Settings
from components.train.torchrun import torchrun
from components.train.train import train
from components.train.training_inputs import TrainingPaths


def launch(paths: TrainingPaths, settings: Settings) -> None:
    """Train with all GPUs of this machine, on its CPU, or (TRAIN_NODES above 1) on several nodes of the cluster.

    Raises:
        StepError: as `train`.
    """
    if int(os.environ.get("TRAIN_NODES", 1)) > 1:
        from components.train.nodes import train_on_nodes  # imports the Kubernetes client, which is slow to load

        train_on_nodes(paths, settings)
    elif (gpus := torch.cuda.device_count()) > 1:
        torchrun(gpus, paths, settings)
    else:
        train(paths, settings)
