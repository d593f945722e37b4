"""Commands about a cluster's registry, ledger and scans, given on this machine: TARGET=cluster and KUBE_CONTEXT.

They start from what they make themselves: a small run of the pipeline, whose versions stay in the registry.
"""

import json
import os
import shutil
import subprocess

import pytest

from pipelines.image_tags import ROOT

pytestmark = pytest.mark.cluster

CONTEXT = os.environ.get("KUBE_CONTEXT") or "kind-dwi-stroke"
TARGET = "kind" if CONTEXT == "kind-dwi-stroke" else "cluster"
RUN_SECONDS = 45 * 60
MINUTES = 5 * 60
"""For a command that needs no pod: it finds a command that hangs."""


def make(command: str, *arguments: str, wanted: int | None = 0, seconds: int = MINUTES, **environment: str):
    given = [f"TARGET={TARGET}", *([] if TARGET == "kind" else [f"KUBE_CONTEXT={CONTEXT}"])]
    done = subprocess.run(
        ["make", command, *given, *arguments], cwd=ROOT, env=os.environ | environment, capture_output=True, text=True,
        timeout=seconds,
    )  # fmt: skip
    assert wanted is None or (done.returncode == 0) == (wanted == 0), done.stdout[-3000:] + done.stderr[-3000:]
    return done


@pytest.fixture(scope="module")
def run():
    """A run of this module alone: its seed is new, so that no step comes from the cache of another run."""
    if not shutil.which("kubectl"):
        pytest.skip("needs kubectl and a cluster: make kind-up, or KUBE_CONTEXT")
    asked = [
        "kubectl",
        "--context",
        CONTEXT,
        "--request-timeout=10s",
        "-n",
        "dwi-stroke",
        "get",
        "deployment",
        "mlflow",
    ]
    found = subprocess.run(asked, capture_output=True, text=True)
    if found.returncode:
        pytest.skip(f"needs our manifests on {CONTEXT}: {found.stderr.strip()[-200:]}")
    seed = int.from_bytes(os.urandom(2), "big") + 1
    small = f"SET=image_size=32 base_channels=4 epochs=1 batch_size=8 random_seed={seed} carry_split=false"
    said = make("pipeline-run", small, seconds=RUN_SECONDS).stdout
    return json.loads((ROOT / ".local" / "last-run.json").read_text()) | {"said": said}


@pytest.fixture
def version(run) -> str:
    return f"models:/{run['model']['name']}/{run['model']['version']}"


@pytest.fixture
def scan(tmp_path):
    """A synthetic scan."""
    subprocess.run(["make", "demo-data"], cwd=ROOT, check=True, capture_output=True)
    return next((ROOT / ".local" / "demo-scans").rglob("*_dwi.nii.gz"))


def test_the_last_line_is_a_command_that_works(run, version, scan, tmp_path):
    line = next(line for line in run["said"].splitlines() if line.startswith("  next "))
    words = line.removeprefix("  next ").split()
    assert words[:2] == ["make", "predict"]
    mask = tmp_path / "mask.nii.gz"
    places = [word for word in words[2:] if not word.startswith(("INPUT=", "OUTPUT="))]
    command = ["make", "predict", *places, f"INPUT={scan}", f"OUTPUT={mask}", f"MODEL={version}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=MINUTES)
    assert done.returncode == 0 and mask.is_file(), done.stderr


def test_printed_links_ask_for_the_view_of_model_training(run):
    for name in ("run", "model"):
        assert run["links"][name].endswith("?workflowType=machine_learning")


def test_a_promotion_and_a_rollback_leave_registry_and_ledger_in_agreement(version):
    before = make("champion", wanted=None).stdout
    if f"version {version.rpartition('/')[2]} is champion" not in before:
        make("promote", f"MODEL={version}", "REASON=a test of promotion")
    said = make("champion").stdout
    assert f"version {version.rpartition('/')[2]} is champion" in said and "The ledger is complete" in said
    back = make("rollback", "REASON=a test of rollback", wanted=None)
    assert back.returncode == 0 or "there was no champion before" in back.stderr
    assert "The ledger is complete" in make("champion").stdout


def test_the_clusters_registry_beside_this_machines_ledger_is_refused(run, version):
    """`make promote` with the address of the cluster's MLflow, but not of its S3."""
    forward = subprocess.Popen(
        ["kubectl", "--context", CONTEXT, "-n", "dwi-stroke", "port-forward", "svc/mlflow", ":5000"],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        port = forward.stdout.readline().split("->")[0].rpartition(":")[2].strip()
        command = ["make", "promote", f"MODEL={version}", "REASON=by mistake"]
        local = {"MLFLOW_TRACKING_URI": f"http://127.0.0.1:{port}"}
        done = subprocess.run(
            command, cwd=ROOT, env=os.environ | local, capture_output=True, text=True, timeout=MINUTES
        )
    finally:
        forward.terminate()
        forward.wait()
    assert done.returncode != 0 and "by mistake" not in make("champion").stdout


def test_lineage_reaches_ledger_model_and_scans(version):
    said = make("lineage", f"MODEL={version}").stdout
    assert " 0 CHANGED" in said
    for link in ("ledger entry", "best_model.pth", "data_version"):
        assert any(line.split()[:1] == ["OK"] and link in line for line in said.splitlines()), link


def test_status_shows_services_schedules_and_the_champion(run):
    said = make("status").stdout
    for word in ("KFP       answers", "MLflow    answers", "S3        answers", "run ", "schedule ", "champion "):
        assert f"\n{word}" in said, word


def test_experiments_end_with_their_table(run):
    small = "SET=image_size=32 base_channels=4 epochs=1 batch_size=8"
    done = make("experiments", "PRESETS=cca", "SEEDS=1", small, seconds=2 * RUN_SECONDS)
    assert "baseline" in done.stdout and "cca" in done.stdout


def test_the_serving_pod_gets_its_model_through_mlflow_alone():
    """The Deployment that KServe would make, with the policy that denies it object storage."""
    import yaml

    (service,) = [
        o for o in yaml.safe_load_all((ROOT / "manifests/serving/inference-service.yaml").read_text())
        if o["kind"] == "InferenceService"
    ]  # fmt: skip
    given = {v["name"]: v.get("value") for v in service["spec"]["predictor"]["containers"][0]["env"]}
    image = subprocess.run(
        ["kubectl", "--context", CONTEXT, "-n", "kubeflow", "get", "pods", "-l", "app.kubernetes.io/component=register",
         "-o", "jsonpath={.items[0].spec.containers[?(@.name=='main')].image}"],
        capture_output=True, text=True, timeout=MINUTES,
    ).stdout  # fmt: skip
    if not image:
        pytest.skip("the register step's pod is gone, and its image with it: run this within the hour of a run")
    policies = (ROOT / "manifests/serving/network-policies.yaml").read_text()
    kubectl = ["kubectl", "--context", CONTEXT, "-n", "dwi-stroke"]
    name = "test-serving"
    pod = {
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "dwi-stroke", "labels": service["spec"]["predictor"]["labels"]},
        "spec": {k: v for k, v in service["spec"]["predictor"].items()
                 if k not in ("minReplicas", "maxReplicas", "labels", "serviceAccountName")},
    }  # fmt: skip
    container = pod["spec"]["containers"][0]
    container["image"] = image
    container["resources"]["requests"] = {"cpu": "100m", "memory": "1Gi"}
    uri = subprocess.check_output(
        [*kubectl, "get", "configmap", "dwi-stroke-settings", "-o", "jsonpath={.data.MLFLOW_TRACKING_URI}"], text=True
    )
    model = "models:/dwi-attention-unet@challenger"
    values = {"__pyfunc_model_path__": model, "MLFLOW_TRACKING_URI": uri}
    container["env"] = [
        {"name": v["name"], "value": values[v["name"]]} if v["name"] in values else v for v in container["env"]
    ]
    assert given["MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD"] == "false"
    subprocess.run([*kubectl, "apply", "-f", "-"], input=policies, text=True, check=True, capture_output=True)
    try:
        subprocess.run([*kubectl, "apply", "-f", "-"], input=yaml.safe_dump(pod), text=True, check=True)
        subprocess.run([*kubectl, "wait", "--for=condition=Ready", f"pod/{name}", "--timeout=300s"], check=True)
    finally:
        subprocess.run([*kubectl, "delete", "pod", name, "--ignore-not-found", "--wait=true"], check=False)
        subprocess.run([*kubectl, "delete", "-f", "-"], input=policies, text=True, check=False, capture_output=True)
