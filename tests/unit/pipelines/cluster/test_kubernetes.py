"""The pipeline as a cluster gets it. tests/golden/pipeline.yaml shows a reviewer what a change does to it.

To accept a change: ACCEPT=1 python -m pytest on this file, and read the difference.
"""

import functools
import json
import os
import tempfile
from pathlib import Path

import pytest
import yaml

from components.core.errors import StepError
from pipelines.cluster import kubernetes
from pipelines.cluster.kubernetes import CREDENTIALS, NEEDS, ClusterSettings
from pipelines.pipeline import STEPS, TRAIN_FOLDS, steps_with

GOLDEN = Path(__file__).parents[3] / "golden" / "pipeline.yaml"
GOLDEN_FOLDS = GOLDEN.with_name("pipeline-folds.yaml")
FOLDS = ClusterSettings("registry.example.org/stroke", 1, "nvidia.com/gpu", "gpu=a100", "nvidia.com/gpu", folds=5)


@pytest.fixture(autouse=True)
def fixed_tag(monkeypatch):
    monkeypatch.setattr(kubernetes, "sources_tag", lambda: "golden")
    monkeypatch.setattr(kubernetes, "DIGESTS", Path("nothing was pushed"))


@functools.cache
def compiled_text(settings: ClusterSettings) -> str:
    """The pipeline for a cluster; the compiler takes seconds."""
    with tempfile.TemporaryDirectory() as folder:
        kubernetes.compile_for(settings, path := Path(folder) / "pipeline.yaml")
        return path.read_text()


def compiled(path: Path, cluster: ClusterSettings = ClusterSettings()) -> tuple[dict, dict]:  # noqa: B008 - it is frozen
    """The executors and their Kubernetes settings, by step."""
    path.write_text(compiled_text(cluster))
    spec, platform = yaml.load_all(path.read_text(), yaml.CSafeLoader)  # ten times as fast as yaml.SafeLoader
    executors = spec["deploymentSpec"]["executors"]
    pods = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    steps = steps_with(cluster.folds)
    return ({s: executors[f"exec-{s}"]["container"] for s in steps}, {s: pods[f"exec-{s}"] for s in steps})


@pytest.mark.parametrize(("cluster", "golden"), [(ClusterSettings(), GOLDEN), (FOLDS, GOLDEN_FOLDS)])
def test_it_is_the_golden_file_to_the_byte(cluster, golden):
    if os.environ.get("ACCEPT"):
        golden.write_text(compiled_text(cluster))
    assert compiled_text(cluster) == golden.read_text()


@pytest.mark.slow
def test_the_train_step_of_each_fold_has_all_that_a_train_step_has(tmp_path):
    """GPU, place, retries, time limit, memory and labels: that of one split, but for its own name and fold."""
    one = ClusterSettings("registry.example.org/stroke", 1, "nvidia.com/gpu", "gpu=a100", "nvidia.com/gpu")
    containers, pods = compiled(tmp_path / "one.yaml", one)
    of_folds, pods_of_folds = compiled(tmp_path / "folds.yaml", FOLDS)
    tasks, tasks_of_folds = (
        next(yaml.safe_load_all((tmp_path / name).read_text()))["root"]["dag"]["tasks"]
        for name in ("one.yaml", "folds.yaml")
    )
    for step in TRAIN_FOLDS[:5]:
        assert of_folds[step] == containers["train"]
        assert of_folds[step]["resources"]["accelerator"]["resourceCount"] == "1"
        assert tasks_of_folds[step]["retryPolicy"] == tasks["train"]["retryPolicy"]
        labels = {"app.kubernetes.io/part-of": "dwi-stroke", "app.kubernetes.io/component": step}
        assert pods_of_folds[step] == pods["train"] | {"podMetadata": {"labels": labels}}
    assert "accelerator" not in of_folds["ensemble"]["resources"]
    assert tasks_of_folds["ensemble"]["retryPolicy"]["maxRetryCount"] == NEEDS["ensemble"].retries


@pytest.mark.slow
def test_on_several_nodes_the_step_of_each_fold_only_watches(tmp_path):
    several = ClusterSettings("registry.example.org/stroke", 2, nodes=2, folds=3)
    containers, _ = compiled(tmp_path / "p.yaml", several)
    for fold, step in enumerate(TRAIN_FOLDS[:3], start=1):
        assert "accelerator" not in containers[step]["resources"]
        environment = {variable["name"]: variable["value"] for variable in containers[step]["env"]}
        assert (environment["TRAIN_NODES"], environment["TRAIN_FOLD"]) == ("2", str(fold))


def test_every_step_has_requests_limits_a_time_limit_and_a_user_that_is_not_root(tmp_path):
    containers, pods = compiled(tmp_path / "p.yaml")
    for step in STEPS:
        assert {"resourceCpuRequest", "resourceCpuLimit", "resourceMemoryRequest", "resourceMemoryLimit"} <= set(
            containers[step]["resources"]
        )
        assert int(pods[step]["activeDeadlineSeconds"]) == NEEDS[step].seconds
        assert pods[step]["securityContext"] == {"runAsUser": "10001", "runAsGroup": "10001", "runAsNonRoot": True}


def test_a_retry_is_in_time_however_late_the_first_try_failed(tmp_path):
    """Argo counts the longest time for retries from the start of the first try, KFP's own default is an hour."""
    compiled(tmp_path / "p.yaml")
    spec, _ = yaml.safe_load_all((tmp_path / "p.yaml").read_text())
    for step in STEPS:
        policy = spec["root"]["dag"]["tasks"][step]["retryPolicy"]
        assert policy["maxRetryCount"] == NEEDS[step].retries > 0
        tries = policy["maxRetryCount"] + 1
        assert int(policy["backoffMaxDuration"].removesuffix("s")) > tries * NEEDS[step].seconds


def test_a_short_step_waits_less_between_its_tries(tmp_path):
    """A folder without scans is refused three times before the run ends."""
    compiled(tmp_path / "p.yaml")
    spec, _ = yaml.safe_load_all((tmp_path / "p.yaml").read_text())
    for step in STEPS:
        policy = spec["root"]["dag"]["tasks"][step]["retryPolicy"]
        first, factor = int(policy["backoffDuration"].removesuffix("s")), policy["backoffFactor"]
        waits = sum(first * factor**n for n in range(2))
        assert waits <= (15 if step in ("fingerprint", "ingest", "split", "register") else 90)


@pytest.mark.slow
def test_on_kind_a_step_asks_for_what_two_cpus_leave(tmp_path):
    containers, _ = compiled(tmp_path / "p.yaml", ClusterSettings(kind=True))
    usual, _ = compiled(tmp_path / "p.yaml")
    for step in STEPS:
        less, more = containers[step]["resources"], usual[step]["resources"]
        assert less["resourceCpuRequest"] == "100m"
        assert {k: v for k, v in less.items() if "CpuRequest" not in k and k != "cpuRequest"} == (
            {k: v for k, v in more.items() if "CpuRequest" not in k and k != "cpuRequest"}
        )
    assert usual["train"]["resources"]["resourceCpuRequest"] == "1"


def test_with_nothing_changed_a_run_is_eleven_pods_at_most(tmp_path):
    """Each pod costs 4 to 6 s and its work: a driver for the run, one for each step, and what no cache has."""
    compiled(tmp_path / "p.yaml")
    spec, _ = yaml.safe_load_all((tmp_path / "p.yaml").read_text())
    tasks = spec["root"]["dag"]["tasks"].values()
    assert 1 + len(tasks) + sum(not task["cachingOptions"].get("enableCache") for task in tasks) <= 11


def test_no_step_installs_anything_when_it_starts(tmp_path):
    containers, _ = compiled(tmp_path / "p.yaml")
    for step in STEPS:
        assert "pip" not in " ".join(containers[step]["command"] + containers[step]["args"]).replace("pipeline", "")


def test_every_input_of_the_form_says_what_it_is(tmp_path):
    compiled(tmp_path / "p.yaml")
    spec, _ = yaml.safe_load_all((tmp_path / "p.yaml").read_text())
    for name, asked in spec["root"]["inputDefinitions"]["parameters"].items():
        assert len(asked["description"]) > 10, name


def test_a_step_shows_its_page_in_the_kubeflow_ui(tmp_path):
    compiled(tmp_path / "p.yaml")
    spec, _ = yaml.safe_load_all((tmp_path / "p.yaml").read_text())
    shown = {
        (step, name)
        for step in STEPS
        for name, out in spec["components"][f"comp-{step}"].get("outputDefinitions", {}).get("artifacts", {}).items()
        if out["artifactType"]["schemaTitle"] in ("system.HTML", "system.Metrics")
    }
    assert shown == {
        ("ingest", "report"), ("split", "table"), ("train", "curves"), ("evaluate", "metrics"), ("evaluate", "page"),
    }  # fmt: skip


def test_credentials_come_from_a_secret_and_settings_from_a_config_map(tmp_path):
    containers, pods = compiled(tmp_path / "p.yaml")
    for step in STEPS:
        secrets = {s["secretName"]: {k["envVar"] for k in s["keyToEnv"]} for s in pods[step]["secretAsEnv"]}
        assert secrets == {"dwi-stroke-s3": set(CREDENTIALS), "dwi-stroke-mlflow": {"MLFLOW_TRACKING_TOKEN"}}
        assert pods[step]["configMapAsEnv"][0]["configMapName"] == "dwi-stroke-settings"
        assert [e["name"] for e in containers[step]["env"]] == ["IMAGE_TAG"]


def test_no_secret_of_this_shell_is_in_it(tmp_path, monkeypatch):
    names = (*CREDENTIALS, "AWS_SESSION_TOKEN", "KFP_TOKEN", "KFP_COOKIE", "PSEUDONYM_KEY", "MLFLOW_TRACKING_PASSWORD")
    names += ("MLFLOW_TRACKING_TOKEN",)
    for name in names:
        monkeypatch.setenv(name, f"hunter2-{name}")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:hunter2@mlflow.example.org")
    monkeypatch.setenv("S3_ENDPOINT_URL", "https://me:hunter2@s3.example.org")
    kubernetes.compile_pipeline(tmp_path / "pipeline.yaml")
    assert "hunter2" not in (tmp_path / "pipeline.yaml").read_text()


def test_pods_can_be_found_by_label(tmp_path):
    _, pods = compiled(tmp_path / "p.yaml")
    for step in STEPS:
        labels = pods[step]["podMetadata"]["labels"]
        assert labels == {"app.kubernetes.io/part-of": "dwi-stroke", "app.kubernetes.io/component": step}


def test_training_has_shared_memory_for_its_loader(tmp_path):
    _, pods = compiled(tmp_path / "p.yaml")
    assert {"volumeName": "shm", "mountPath": "/dev/shm", "medium": "Memory", "sizeLimit": "8Gi"} in pods["train"][
        "emptyDirMounts"
    ]


def test_what_the_registry_has_a_say_in_never_comes_from_cache(tmp_path):
    compiled(tmp_path / "p.yaml")
    spec, _ = yaml.safe_load_all((tmp_path / "p.yaml").read_text())
    tasks = spec["root"]["dag"]["tasks"]
    fresh = {step for step in STEPS if not tasks[step]["cachingOptions"].get("enableCache")}
    assert fresh == {"fingerprint", "evaluate", "register"}


def test_no_gpu_is_asked_for_unless_told(tmp_path):
    containers, pods = compiled(tmp_path / "p.yaml")
    assert "accelerator" not in containers["train"]["resources"]
    assert "TRAIN_GPUS" not in json.dumps(containers)
    assert not {"nodeSelector", "tolerations"} & set(pods["train"])


def test_the_train_step_alone_goes_to_the_gpu(tmp_path):
    cluster = ClusterSettings("registry.example.org/stroke", 1, "nvidia.com/gpu", "gpu=a100", "nvidia.com/gpu")
    containers, pods = compiled(tmp_path / "p.yaml", cluster)
    assert containers["train"]["resources"]["accelerator"]["resourceType"] == "nvidia.com/gpu"
    assert {"name": "TRAIN_GPUS", "value": "1"} in containers["train"]["env"]
    assert not any("TRAIN_GPUS" in json.dumps(containers[step]) for step in STEPS if step != "train")
    assert containers["train"]["image"] == "registry.example.org/stroke/trainer:golden"
    assert containers["evaluate"]["image"] == "registry.example.org/stroke/components:golden"
    assert pods["train"]["nodeSelector"]["labels"] == {"gpu": "a100"}
    assert pods["train"]["tolerations"][0]["key"] == "nvidia.com/gpu"
    assert not any({"nodeSelector", "tolerations"} & set(pods[step]) for step in STEPS if step != "train")


@pytest.mark.slow
def test_more_gpus_get_more_cores_and_memory(tmp_path):
    one, four = (compiled(tmp_path / "p.yaml", ClusterSettings(gpus=gpus))[0]["train"]["resources"] for gpus in (1, 4))
    assert (one["accelerator"]["resourceCount"], four["accelerator"]["resourceCount"]) == ("1", "4")
    assert (one["resourceCpuLimit"], four["resourceCpuLimit"]) == ("8", "32")
    assert (one["resourceMemoryLimit"], four["resourceMemoryLimit"]) == ("32Gi", "128Gi")


@pytest.mark.slow
def test_on_several_nodes_the_step_itself_only_watches(tmp_path):
    containers, pods = compiled(
        tmp_path / "p.yaml", ClusterSettings("registry.example.org/stroke", 4, "amd.com/gpu", nodes=2)
    )
    train = containers["train"]
    assert train["image"] == "registry.example.org/stroke/components:golden"
    assert "accelerator" not in train["resources"] and train["resources"]["resourceCpuLimit"] == "1"
    environment = {e["name"]: e["value"] for e in train["env"]}
    resources = json.loads(environment.pop("TRAIN_RESOURCES"))
    assert environment == {
        "IMAGE_TAG": "registry.example.org/stroke/components:golden", "TRAIN_NODES": "2", "TRAIN_GPUS": "4",
        "TRAIN_IMAGE": "registry.example.org/stroke/trainer:golden",
    }  # fmt: skip
    assert resources == {
        "requests": {"cpu": "1", "memory": "2Gi", "amd.com/gpu": 4},
        "limits": {"cpu": 32, "memory": "128Gi", "amd.com/gpu": 4},
    }
    fields = {field["name"]: field["fieldPath"] for field in pods["train"]["fieldPathAsEnv"]}
    assert {"POD_NAMESPACE": "metadata.namespace", "POD_NAME": "metadata.name", "POD_UID": "metadata.uid"}.items() <= (
        fields.items()
    )
    assert not any("TRAIN_NODES" in json.dumps(containers[step]) for step in STEPS if step != "train")


@pytest.mark.parametrize(
    ("others", "said"),
    [
        ({}, "NODES=2 needs GPUs"),
        ({"GPUS": "1", "NODE_SELECTOR": "gpu=a100"}, "training-runtime.yaml"),
        ({"GPUS": "1", "TOLERATION": "gpu"}, "training-runtime.yaml"),
    ],
)
def test_several_nodes_want_gpus_and_are_placed_by_the_runtime(monkeypatch, others, said):
    for name, value in {"NODES": "2", **others}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(StepError, match=said):
        ClusterSettings.from_environment()


def test_an_image_that_was_pushed_from_here_is_named_by_its_digest_too(tmp_path, monkeypatch):
    pushed = "registry.example.org/stroke/components:golden"
    (tmp_path / "images.json").write_text(json.dumps({pushed: "sha256:abc"}))
    monkeypatch.setattr(kubernetes, "DIGESTS", tmp_path / "images.json")
    assert ClusterSettings("registry.example.org/stroke").image("split") == f"{pushed}@sha256:abc"
    assert ClusterSettings("elsewhere.example.org").image("split") == "elsewhere.example.org/components:golden"


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("GPUS", "many"),
        ("GPUS", "17"),
        ("GPUS", "-1"),
        ("NODES", "0"),
        ("NODES", "two"),
        ("NODE_SELECTOR", "a100"),
        ("FOLDS", "2"),
    ],
)
def test_an_impossible_setting_is_named(monkeypatch, variable, value):
    monkeypatch.setenv(variable, value)
    with pytest.raises(StepError, match=variable):
        ClusterSettings.from_environment()
