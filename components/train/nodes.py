"""Train on several nodes: a TrainJob of Kubeflow Trainer v2 is submitted, watched to its end and taken away again.

The TrainJob has this pipeline run's name, so that a step that is tried again finds what its killed predecessor
started. What its pods need besides image, command and resources is in the TrainingRuntime `dwi-stroke-train`
(manifests/overlays/gpu-cluster/training-runtime.yaml); nothing else of Trainer's API is used, since the rest of it
differs between Trainer 2.1 and 2.2.
"""

import contextlib
import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path

from components.core.settings import Settings
from components.core.step import StepError, ended_by_sigterm
from components.train import node
from components.train.node_storage import Exchange
from components.train.trainjob import API_VERSION, GROUP, RUNTIME, TrainJob

PASSED_ON = ("KFP_RUN_ID", "KFP_HOST", "MLFLOW_RUN_ID")


def train_on_nodes(paths: list[Path], settings: Settings) -> None:
    """`train(*paths, settings)` on TRAIN_NODES nodes with TRAIN_GPUS processes each.

    Raises:
        StepError: as `train` on any of them; or there is no Trainer, no right to use it, or no node that can start.
    """
    plan = Plan.from_environment()
    if settings.batch_size < plan.nodes * plan.gpus:
        raise StepError(f"batch_size={settings.batch_size} gives {plan.nodes} x {plan.gpus} GPUs nothing to share. "
                        f"Raise it to {plan.nodes * plan.gpus} or more, or take fewer.")  # fmt: skip
    exchange, job = Exchange(plan.name), TrainJob(plan.name, plan.namespace, plan.nodes)
    with ended_by_sigterm(), contextlib.ExitStack() as at_the_end:
        at_the_end.callback(_whatever_happened, exchange.remove)
        going_on = job.adopt(plan.owners())
        at_the_end.callback(_whatever_happened, job.remove)
        exchange.live()
        if not going_on:
            exchange.offer(paths[:4])
            job.submit(plan.train_job(node.arguments(plan.name, plan.gpus, settings)))
        job.watch(exchange.live)
        exchange.take(*paths[4:])


def _whatever_happened(remove) -> None:
    try:
        remove()
    except StepError as error:
        logging.warning("not cleaned up: %s", error)


@dataclass(frozen=True)
class Plan:
    """Nodes, GPUs (and processes) of each, their image and resources; the pipeline run, and the pod that this is."""

    nodes: int
    gpus: int
    image: str
    resources: dict
    run: str
    namespace: str
    pod: str
    pod_uid: str

    @classmethod
    def from_environment(cls) -> "Plan":
        e = os.environ
        return cls(
            int(e["TRAIN_NODES"]), int(e["TRAIN_GPUS"]), e["TRAIN_IMAGE"], json.loads(e["TRAIN_RESOURCES"]),
            e["KFP_RUN_ID"], e["POD_NAMESPACE"], e["POD_NAME"], e["POD_UID"],
        )  # fmt: skip

    @property
    def name(self) -> str:
        """Of the TrainJob; with the 36 characters of a run's id the names of its pods stay below 63."""
        return f"dwi-train-{self.run}"

    def owners(self) -> list[dict]:
        """When the step's pod is deleted, Kubernetes deletes its TrainJob."""
        return [{"apiVersion": "v1", "kind": "Pod", "name": self.pod, "uid": self.pod_uid}]

    def train_job(self, arguments: str) -> dict:
        environment = {name: os.environ[name] for name in PASSED_ON if name in os.environ} | {"IMAGE_TAG": self.image}
        environment["TRAIN_GPUS"] = str(self.gpus)
        labels = {"app.kubernetes.io/part-of": "dwi-stroke", "app.kubernetes.io/component": "train"}
        return {
            "apiVersion": API_VERSION,
            "kind": "TrainJob",
            "metadata": {"name": self.name, "labels": labels, "ownerReferences": self.owners()},
            "spec": {
                "runtimeRef": {"apiGroup": GROUP, "kind": "TrainingRuntime", "name": RUNTIME},
                "trainer": {
                    "image": self.image,
                    "command": ["python3", "-m", node.__name__],
                    "args": [arguments],
                    "numNodes": self.nodes,
                    "resourcesPerNode": self.resources,
                    "env": [{"name": name, "value": value} for name, value in environment.items()],
                },
            },
        }
