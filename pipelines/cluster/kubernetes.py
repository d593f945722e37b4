"""Configure each step's pod on a cluster: its image, resources, settings, credentials, volumes and labels."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

from kfp import dsl, kubernetes
from kfp.dsl import PipelineTask

from components.core.errors import StepError
from components.registry.tracking import TOKEN
from pipelines.image_tags import ROOT, sources_tag
from pipelines.pipeline import TRAIN_FOLDS, base_step, compile_to, folds_asked, steps_with

CONFIG_MAP, S3_SECRET = "dwi-stroke-settings", "dwi-stroke-s3"
SETTINGS = ("S3_ENDPOINT_URL", "AWS_DEFAULT_REGION", "S3_BUCKET", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME")
OPTIONAL_SETTINGS = ("KFP_HOST", "MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING")
CREDENTIALS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
MLFLOW_SECRET = "dwi-stroke-mlflow"  # noqa: S105 - a name
USER = 10001
MAX_GPUS, MAX_NODES = 16, 16
DIGESTS = ROOT / ".local" / "images.json"
"""`make images-push` writes it: by image, the digest that the registry gave it."""
HOURS = 3600


@dataclass(frozen=True)
class Needs:
    """The resources and limits of a step.

    cpu, memory: the request and the limit (memory's in GiB); with GPUs the limit is for each GPU.
    seconds: the limit of one try, with the download of its inputs.
    retries: tries after the first; every step can be repeated.
    pause: seconds before the second try; each further pause is twice as long.
    """

    cpu: tuple[str, int]
    memory: tuple[str, int]
    seconds: int
    retries: int = 2
    pause: int = 30


NEEDS = {
    "fingerprint": Needs(("100m", 1), ("256Mi", 1), HOURS // 2, pause=5),
    "ingest": Needs(("500m", 4), ("1Gi", 8), 12 * HOURS, pause=5),
    "preprocess": Needs(("500m", 4), ("1Gi", 8), 12 * HOURS),
    "split": Needs(("100m", 1), ("256Mi", 1), 6 * HOURS, pause=5),
    "train": Needs(("1", 8), ("2Gi", 32), 96 * HOURS, retries=5),
    "ensemble": Needs(("100m", 1), ("1Gi", 8), HOURS, pause=5),
    "evaluate": Needs(("500m", 4), ("2Gi", 16), 12 * HOURS),
    "register": Needs(("250m", 2), ("1Gi", 4), HOURS, pause=5),
}
KIND_CPU = "100m"
"""The request of every step on kind: of two CPUs, Kubernetes and Kubeflow Pipelines leave a quarter of one."""
WATCHER = Needs(("100m", 1), ("512Mi", 4), NEEDS["train"].seconds, NEEDS["train"].retries)
"""The needs of the train step's own pod when other nodes train."""


@dataclass(frozen=True)
class ClusterSettings:
    """The settings of the compiled pipeline: registry of the images, GPUs and nodes of a train step, folds."""

    registry: str = "dwi-stroke"
    gpus: int = 0
    gpu_type: str = "nvidia.com/gpu"
    node_selector: str = ""
    toleration: str = ""
    nodes: int = 1
    kind: bool = False
    folds: int = 1

    @classmethod
    def from_environment(cls, kind: bool = False) -> "ClusterSettings":
        """Read REGISTRY, GPUS (of the train step), GPU_TYPE, NODE_SELECTOR (label=value), TOLERATION (a taint), NODES,
        FOLDS.

        Raises:
            StepError: a value is invalid.
        """
        gpus, nodes = os.environ.get("GPUS") or "0", os.environ.get("NODES") or "1"
        selector, toleration = os.environ.get("NODE_SELECTOR", ""), os.environ.get("TOLERATION", "")
        if not gpus.isdecimal() or int(gpus) > MAX_GPUS:
            raise StepError(f"GPUS={gpus} is invalid: the train step takes 0 to {MAX_GPUS} GPUs of one node.")
        if selector and "=" not in selector:
            raise StepError(f"NODE_SELECTOR={selector} is invalid: write it as label=value.")
        if not nodes.isdecimal() or not 1 <= int(nodes) <= MAX_NODES:
            raise StepError(f"NODES={nodes} is invalid: the train step takes 1 to {MAX_NODES} nodes, each with GPUS.")
        if int(nodes) > 1 and not int(gpus):
            raise StepError(f"NODES={nodes} needs GPUs: set the number for each node, GPUS=1 or more.")
        if int(nodes) > 1 and (selector or toleration):
            raise StepError(
                f"With NODES={nodes}, NODE_SELECTOR and TOLERATION belong to the TrainingRuntime: write them into "
                "manifests/overlays/gpu-cluster/training-runtime.yaml, apply it, and unset the two variables."
            )
        registry = os.environ.get("REGISTRY") or cls.registry
        gpu_type = os.environ.get("GPU_TYPE") or cls.gpu_type
        return cls(registry, int(gpus), gpu_type, selector, toleration, int(nodes), kind, folds_asked())

    def image(self, step: str) -> str:
        """Return the image of the step's pod: the CUDA image where that pod trains on GPUs."""
        return self._image("trainer" if base_step(step) == "train" and self.gpus and self.nodes == 1 else "components")

    def _image(self, name: str) -> str:
        """Return an image by its digest; by its tag alone where no registry has it yet."""
        image = f"{self.registry}/{name}:{sources_tag()}"
        digest = json.loads(DIGESTS.read_text()).get(image) if DIGESTS.exists() else None
        return f"{image}@{digest}" if digest else image

    def equip(self, step: str, task: PipelineTask) -> None:
        """Configure the step's task; credentials come from a Secret, never as values."""
        trains = base_step(step) == "train"
        needs = WATCHER if trains and self.nodes > 1 else NEEDS[base_step(step)]
        factor = max(1, self.gpus) if trains and self.nodes == 1 else 1
        task.set_cpu_request(KIND_CPU if self.kind else needs.cpu[0]).set_cpu_limit(str(factor * needs.cpu[1]))
        task.set_memory_request(needs.memory[0]).set_memory_limit(f"{factor * needs.memory[1]}Gi")
        # Argo counts backoff_max_duration from the start of the first try: it must cover all tries and pauses.
        all_tries = (needs.retries + 1) * (needs.seconds + 24 * HOURS)
        pauses = {"backoff_duration": f"{needs.pause}s", "backoff_factor": 2, "backoff_max_duration": f"{all_tries}s"}
        task.set_retry(needs.retries, **pauses)
        kubernetes.set_timeout(task, needs.seconds)
        kubernetes.use_config_map_as_env(task, CONFIG_MAP, {name: name for name in SETTINGS})
        kubernetes.use_config_map_as_env(task, CONFIG_MAP, {name: name for name in OPTIONAL_SETTINGS}, optional=True)
        kubernetes.use_secret_as_env(task, S3_SECRET, {name: name for name in CREDENTIALS})
        kubernetes.use_secret_as_env(task, MLFLOW_SECRET, {TOKEN: TOKEN})
        kubernetes.use_field_path_as_env(task, "KFP_RUN_ID", "metadata.labels['pipeline/runid']")
        kubernetes.set_security_context(task, run_as_user=USER, run_as_group=USER, run_as_non_root=True)
        kubernetes.empty_dir_mount(task, "scratch", "/tmp")  # noqa: S108 - the pod's own
        kubernetes.add_pod_label(task, "app.kubernetes.io/part-of", "dwi-stroke")
        kubernetes.add_pod_label(task, "app.kubernetes.io/component", step)
        task.set_env_variable("IMAGE_TAG", self.image(step))
        if step in ("evaluate", "register"):  # the champion or the registry may have changed since
            task.set_caching_options(False)
        if trains and self.nodes > 1:
            self._request_nodes(step, task)
        elif trains:
            kubernetes.empty_dir_mount(task, "shm", "/dev/shm", medium="Memory", size_limit="8Gi")  # noqa: S108
            self._place_on_gpu(task)

    def _request_nodes(self, step: str, task: PipelineTask) -> None:
        """Give the step its request for Kubeflow Trainer, and the identity of its pod."""
        cpu, memory = NEEDS["train"].cpu, NEEDS["train"].memory
        resources = {
            "requests": {"cpu": cpu[0], "memory": memory[0], self.gpu_type: self.gpus},
            "limits": {"cpu": self.gpus * cpu[1], "memory": f"{self.gpus * memory[1]}Gi", self.gpu_type: self.gpus},
        }
        task.set_env_variable("TRAIN_NODES", str(self.nodes)).set_env_variable("TRAIN_GPUS", str(self.gpus))
        task.set_env_variable("TRAIN_IMAGE", self._image("trainer"))
        if step in TRAIN_FOLDS:
            task.set_env_variable("TRAIN_FOLD", str(1 + TRAIN_FOLDS.index(step)))
        task.set_env_variable("TRAIN_RESOURCES", json.dumps(resources))
        for name, field in {"POD_NAMESPACE": "namespace", "POD_NAME": "name", "POD_UID": "uid"}.items():
            kubernetes.use_field_path_as_env(task, name, f"metadata.{field}")

    def _place_on_gpu(self, task: PipelineTask) -> None:
        if self.gpus:
            task.set_accelerator_type(self.gpu_type).set_accelerator_limit(self.gpus)
            task.set_env_variable("TRAIN_GPUS", str(self.gpus))
        if self.node_selector:
            kubernetes.add_node_selector(task, *self.node_selector.split("=", 1))
        if self.toleration:
            kubernetes.add_toleration(task, key=self.toleration, operator="Exists", effect="NoSchedule")


def compile_pipeline(output: Path, kind: bool = False) -> None:
    """Write the pipeline's IR YAML with the settings of the environment; for `kind` its steps request less CPU."""
    output.parent.mkdir(parents=True, exist_ok=True)
    compile_for(ClusterSettings.from_environment(kind), output)


def compile_for(settings: ClusterSettings, output: Path) -> None:
    """Write the pipeline's IR YAML with these settings."""
    images = {step: settings.image(step) for step in steps_with(settings.folds)}
    compile_to(output, images, settings.equip, dsl.PIPELINE_JOB_NAME_PLACEHOLDER, settings.folds)
