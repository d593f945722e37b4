"""Train on several nodes: submit a TrainJob of Kubeflow Trainer v2, watch it to its end, and remove it.

The TrainJob is named after the pipeline run, so a retried step finds the TrainJob of its first try. The image, command
and resources of its pods come from here; everything else is in the TrainingRuntime `dwi-stroke-train`
(manifests/overlays/gpu-cluster/training-runtime.yaml). No other part of Trainer's API is used, because it differs
between Trainer 2.1 and 2.2.
"""

import contextlib
import json
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass

from components.core.errors import StepError
from components.core.settings import Settings
from components.core.step import ended_by_sigterm
from components.train import node
from components.train.node_storage import NodeStorage
from components.train.training_inputs import TrainingPaths
from components.train.trainjob import API_VERSION, GROUP, RUNTIME, TrainJob

COPIED_VARIABLES = ("KFP_RUN_ID", "KFP_HOST", "MLFLOW_RUN_ID", "MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING")
"""Environment variables of the step that its nodes get too."""


def train_on_nodes(paths: TrainingPaths, settings: Settings) -> None:
    """Run `train` on TRAIN_NODES nodes with TRAIN_GPUS processes each.

    Raises:
        StepError: a node failed or cannot start, or Kubeflow Trainer is not installed or not permitted.
    """
    plan = NodePlan.from_environment()
    if settings.batch_size < plan.nodes * plan.gpus:
        raise StepError(f"batch_size={settings.batch_size} is too small for {plan.nodes} x {plan.gpus} GPUs. "
                        f"Raise it to {plan.nodes * plan.gpus} or more, or use fewer.")  # fmt: skip
    storage, job = NodeStorage(plan.name), TrainJob(plan.name, plan.namespace, plan.nodes)
    with ended_by_sigterm(), contextlib.ExitStack() as cleanup:
        cleanup.callback(_try_to_remove, storage.remove)
        adopted = job.adopt(plan.owners())
        cleanup.callback(_try_to_remove, job.remove)
        storage.beat()
        if not adopted:
            storage.upload_inputs(paths)
            job.submit(plan.train_job(node.arguments(plan.name, plan.gpus, settings)))
        job.watch(storage.beat)
        storage.download_results(paths)


def _try_to_remove(remove: Callable[[], None]) -> None:
    """Call `remove`; a failed clean-up must not hide how the training ended."""
    try:
        remove()
    except StepError as error:
        logging.warning("not cleaned up: %s", error)


@dataclass(frozen=True)
class NodePlan:
    """Number of nodes, GPUs (and processes) per node, image, resources, pipeline run, and the pod of this step."""

    nodes: int
    gpus: int
    image: str
    resources: dict
    run: str
    namespace: str
    pod: str
    pod_uid: str
    fold: str = ""
    """Of a cross-validation, whose folds train side by side; "" without folds."""

    @classmethod
    def from_environment(cls) -> "NodePlan":
        """Read the plan from the variables that the pipeline sets in the step's pod."""
        e = os.environ
        return cls(
            int(e["TRAIN_NODES"]), int(e["TRAIN_GPUS"]), e["TRAIN_IMAGE"], json.loads(e["TRAIN_RESOURCES"]),
            e["KFP_RUN_ID"], e["POD_NAMESPACE"], e["POD_NAME"], e["POD_UID"],
            e.get("TRAIN_FOLD", ""),
        )  # fmt: skip

    @property
    def name(self) -> str:
        """Name of the TrainJob. A run's id has 36 characters, so the names of its pods stay below 63."""
        return f"dwi-fold{self.fold}-{self.run}" if self.fold else f"dwi-train-{self.run}"

    def owners(self) -> list[dict]:
        """Return the owner references: Kubernetes deletes the TrainJob with the step's pod."""
        return [{"apiVersion": "v1", "kind": "Pod", "name": self.pod, "uid": self.pod_uid}]

    def train_job(self, arguments: str) -> dict:
        """Return the TrainJob as Kubernetes reads it; `arguments` are those of `node`."""
        environment = {name: os.environ[name] for name in COPIED_VARIABLES if name in os.environ}
        environment |= {"IMAGE_TAG": self.image, "TRAIN_GPUS": str(self.gpus)}
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
