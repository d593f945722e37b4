"""All services deleted at once, a step that cannot be scheduled, an unusable folder, and the pods of a run."""

import json
import os
import subprocess
import threading

import pytest

from pipelines.cluster.kubernetes import KIND_CPU
from pipelines.image_tags import ROOT
from pipelines.pipeline import NAME, STEPS
from tests.cluster.conftest import NAMESPACE, RUN_SECONDS, SMALL, TARGET, at_the_cluster, found, kubectl, make, until
from tests.cluster.disturb import kill_services, measured

pytestmark = pytest.mark.cluster

# early_stop_patience has no effect in so few epochs, but makes it another training: no cache, no checkpoint
EPOCHS = "epochs=8 early_stop_patience={}"


@pytest.fixture(scope="module")
def undisturbed(start):
    return start(EPOCHS.format(30)).succeeded()


def test_a_run_whose_services_are_all_killed_in_training_has_the_same_result(undisturbed, start):
    run = start(EPOCHS.format(31))
    until(lambda: run.running("train"))
    until(lambda: "epoch 2/8" in make("pipeline-logs", f"RUN={run.name}", "STEP=train").stdout)
    assert kill_services()
    assert measured(run.id) == undisturbed["metrics"]


def test_an_unchanged_run_has_eleven_pods(start, new_scans):
    """A driver of the run, one of each step, and the steps without cache; each pod takes seconds."""
    scans = new_scans()
    start("epochs=1", scans=scans).succeeded()
    again = start("epochs=1", scans=scans)
    again.succeeded()
    pods = found("pods", "-l", f"pipeline/runid={again.id}")
    assert len(STEPS) + 1 <= len(pods) <= 11, [pod["metadata"]["name"] for pod in pods]


def test_the_version_says_what_it_is_and_the_form_offers_choices(start):
    run = start("epochs=1")
    run.succeeded()
    with at_the_cluster() as (api, _):
        reference = api.run(run.id).pipeline_version_reference
        version = api._pipelines.pipeline_service_get_pipeline_version(
            reference.pipeline_id, reference.pipeline_version_id
        )
    assert "stroke lesions" in version.description and "README.md" in version.description
    asked = version.pipeline_spec.get("pipeline_spec", version.pipeline_spec)["root"]["inputDefinitions"]["parameters"]
    assert asked["loss"]["literals"] == ["dice", "dice+bce", "focal_tversky"]


@pytest.mark.skipif(TARGET != "kind", reason="kind's steps ask for less, so that two CPUs are enough")
def test_on_kind_every_step_asks_for_a_tenth_of_a_cpu(start):
    run = start("epochs=1")
    run.succeeded()
    labels = f"app.kubernetes.io/part-of=dwi-stroke,pipeline/runid={run.id}"
    containers = [c for pod in found("pods", "-l", labels) for c in pod["spec"]["containers"] if c["name"] == "main"]
    asked = {container["resources"]["requests"]["cpu"] for container in containers}
    assert asked == {KIND_CPU}


@pytest.mark.skipif(TARGET != "kind", reason="this is a patch of kind's controller")
def test_argo_checks_again_after_a_second():
    (controller,) = found("deployments", "-l", "app=workflow-controller") or [None]
    variables = {e["name"]: e.get("value") for e in controller["spec"]["template"]["spec"]["containers"][0]["env"]}
    assert variables["DEFAULT_REQUEUE_TIME"] == "1s"


def test_a_step_counts_the_cpus_of_its_limit_and_not_of_its_node(start):
    """With cgroup v2 and v1; a limit above the CPUs of the node has no effect."""
    run = start("epochs=200", "early_stop_patience=200")
    pod = until(lambda: run.running("train"))
    program = "from components.core.machine import cpus; print(cpus())"
    counted = int(kubectl("-n", NAMESPACE, "exec", pod, "-c", "main", "--", "python", "-c", program))
    of = json.loads(kubectl("-n", NAMESPACE, "get", "pod", pod, "-o", "json"))["spec"]
    (main,) = (c for c in of["containers"] if c["name"] == "main")
    node = json.loads(kubectl("get", "node", of["nodeName"], "-o", "json"))
    assert counted == min(int(main["resources"]["limits"]["cpu"]), int(node["status"]["capacity"]["cpu"]))


def test_a_folder_that_no_run_can_use_is_refused_before_anything_is_sent(tmp_path):
    def runs() -> int:
        with at_the_cluster() as (api, _):
            listed = api._runs.run_service_list_runs(page_size=1)
            return listed.total_size or 0

    before = runs()
    (tmp_path / "notes.txt").write_text("no scan")
    refused = make("pipeline-run", f"TARGET={TARGET}", f"DATA={tmp_path}")
    assert refused.returncode != 0 and "images/NAME.nii.gz" in refused.stderr
    assert "uploaded" not in refused.stdout and runs() == before


def has_gpus() -> bool:
    nodes = json.loads(kubectl("get", "nodes", "-o", "json"))["items"]
    return any("nvidia.com/gpu" in node["status"]["allocatable"] for node in nodes)


def test_a_step_that_waits_for_a_gpu_prints_the_reason(new_scans):
    """A run waits without a limit; this test watches it until it prints the reason, and stops it."""
    if has_gpus():
        pytest.skip("this cluster has GPUs: nothing would wait")
    command = [
        "make",
        "pipeline-run",
        f"TARGET={TARGET}",
        "GPUS=1",
        f"DATA={new_scans()}",
        f"SET={SMALL} epochs=1",
    ]
    kept = ROOT / ".local" / "last-run.json"
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as watched:
        timer = threading.Timer(RUN_SECONDS, watched.terminate)
        timer.start()
        try:
            said = next((line for line in watched.stdout if "train waits:" in line), "it never printed the reason")
            assert "nvidia.com/gpu" in said and "nodes are available" in said
        finally:
            timer.cancel()
            watched.terminate()
            with at_the_cluster() as (api, _):
                api.stop(json.loads(kept.read_text())["kfp_run_id"])


def test_there_is_one_pipeline_of_our_name(start):
    start("epochs=1").succeeded()
    with at_the_cluster() as (api, _):
        named = [p for p in api._pipelines.pipeline_service_list_pipelines().pipelines if p.display_name == NAME]
    assert len(named) == 1
