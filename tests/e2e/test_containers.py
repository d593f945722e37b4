"""Each step in a container of its image: a registered model in the end, and nothing allowed that is not needed."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest

from components.registry.tracking import MODEL_NAME
from pipelines.image_tags import sources_tag
from pipelines.pipeline import STEPS
from tests.support.checkout import ROOT, Checkout
from tests.support.dicom_studies import Study, write_series
from tests.support.sandbox import LOCKED, user

pytestmark = pytest.mark.slow

SMALL = "image_size=32 base_channels=4 epochs=1"
LONG = "image_size=32 base_channels=4 epochs=500 early_stop_patience=500"
REAL = ROOT.parent / "shared" / "data" / "real-scans" / "isles-layout"
SECONDS = 60
PROBE = """
import json, os, socket, sys, tempfile, urllib.error, urllib.request

def writable(folder):
    try:
        tempfile.TemporaryFile(dir=folder).close()
        return True
    except OSError:
        return False

def status(url):
    try:
        return urllib.request.urlopen(url, timeout=20).status
    except urllib.error.HTTPError as answer:
        return answer.code

def reached(host, port):
    try:
        socket.create_connection((host, port), 5).close()
        return True
    except OSError:
        return False

print(json.dumps({
    "uid": os.getuid(),
    "writable": [folder for folder in ("/", "/app", "/opt/venv", "/root", "/tmp", "/dev/shm") if writable(folder)],
    "capabilities": [line.split()[1] for line in open("/proc/self/status") if line.startswith(("CapEff", "CapBnd"))],
    "networks": [name for _, name in socket.if_nameindex()],
    "services": [status(os.environ["MLFLOW_TRACKING_URI"] + "/health"), status(os.environ["S3_ENDPOINT_URL"])],
    "outside": [host for host in sys.argv[2:] if reached(host, int(sys.argv[1]))],
}))
"""


def docker(*arguments, check=True) -> str:
    return subprocess.run(["docker", *arguments], capture_output=True, text=True, check=check).stdout.strip()


def wait_until(what, seconds=SECONDS):
    deadline = time.monotonic() + seconds
    while not (result := what()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return result


def containers_of(process) -> list[str]:
    """The names of a run's containers, ended ones too."""
    return [name for name in docker("ps", "--all", "--format", "{{.Names}}").split() if f"-{process.pid}" in name]


@pytest.fixture(scope="module")
def images() -> dict[str, str]:
    """The images of these sources by name, built if they can be."""
    if shutil.which("docker") is None:
        pytest.skip("no docker here (see images/build)")
    if subprocess.run(["docker", "info"], capture_output=True).returncode:
        pytest.skip("no Docker engine answers here (docker info says why)")
    names = {name: f"dwi-stroke/{name}:{sources_tag()}" for name in ("components", "trainer", "mlflow")}
    if not all(docker("images", "--quiet", image) for image in names.values()):
        built = subprocess.run([ROOT / "images/build", sources_tag()], capture_output=True, text=True)
        if built.returncode:
            pytest.skip(f"the images cannot be built here: {(built.stdout + built.stderr).splitlines()[-3:]}")
    return names


@pytest.fixture(scope="module")
def checkout(images, tmp_path_factory):
    with Checkout(tmp_path_factory.mktemp("containers") / "checkout") as checkout:
        checkout.environment.pop("REGISTRY", None)
        yield checkout


@pytest.fixture(scope="module")
def start(checkout, request):
    data = REAL if REAL.is_dir() else request.getfixturevalue("demo_scans")
    return lambda settings: checkout.start(
        "run", "--data", str(data), "--set", settings, module="tests.support.containers"
    )


@pytest.fixture(scope="module")
def outside():
    """A port that listens on all of this machine's addresses, and two of those: loopback and one of a network."""
    with socket.create_server(("0.0.0.0", 0)) as listener:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
            s.connect(("192.0.2.1", 9))  # sends nothing; asks the routing table
            own = s.getsockname()[0]
        port = listener.getsockname()[1]
        socket.create_connection((own, port), 5).close()
        yield [str(port), "127.0.0.1", own]


@pytest.fixture(scope="module")
def run(checkout, start, outside, tmp_path_factory):
    """A whole run: what it said, the commands it gave docker, and what is seen from inside the train step."""
    tools = tmp_path_factory.mktemp("tools")
    (tools / "docker").write_text(f'#!/bin/sh\necho "$@" >> {tools}/log\nexec {shutil.which("docker")} "$@"\n')
    (tools / "docker").chmod(0o755)
    path = checkout.environment["PATH"]
    checkout.environment["PATH"] = f"{tools}:{path}"
    process = start(SMALL)
    checkout.environment["PATH"] = path
    said, seen, inspected = [], {}, {}
    for line in process.stdout:
        said.append(line)
        if line.startswith("[5/7] train"):
            (name,) = wait_until(lambda: [n for n in containers_of(process) if n.endswith("-train")])
            wait_until(lambda name=name: docker("inspect", "--format", "{{.State.Running}}", name) == "true")
            seen = json.loads(docker("exec", name, "python3", "-c", PROBE, *outside))
            inspected = json.loads(docker("inspect", name))[0]
    assert process.wait() == 0, "".join(said)
    commands = [line for line in (tools / "log").read_text().splitlines() if line.startswith("run ")]
    steps = {step: [c for c in commands if f"-{step} --env" in c] for step in STEPS}
    wait_until(lambda: not containers_of(process))
    return SimpleNamespace(steps=steps, seen=seen, inspected=inspected, left=containers_of(process))


def test_it_ends_with_a_registered_model(run, checkout):
    summary = checkout.last_run()
    assert summary["status"] == "succeeded" and summary["target"] == "containers"
    assert not any(step["cached"] for step in summary["steps"].values())
    code = f"import mlflow; print(mlflow.MlflowClient().get_model_version('{MODEL_NAME}', '1').run_id)"
    environment = checkout.environment | checkout.services()
    found = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == summary["mlflow_run_id"]


def test_each_step_has_one_container_of_its_image_as_locked_as_the_others(run, images):
    for step, commands in run.steps.items():
        assert len(commands) == 1, step
        options, _, _ = commands[0].partition(images["trainer" if step == "train" else "components"])
        assert options != commands[0], f"{step} runs another image"
        for option in (*LOCKED, f"--user {user()}", "--network container:", "--pid container:"):
            assert option in options, (step, option)


def test_no_step_wrote_as_root(run, checkout):
    artifacts = checkout.state / "s3" / "dwi-stroke" / "artifacts"
    owners = {step: {p.stat().st_uid for p in artifacts.glob(f"*/{step}/**/*")} for step in STEPS}
    assert owners == {step: {int(user().split(":")[0])} for step in STEPS}
    assert user().split(":")[0] != "0"


def test_secrets_are_in_no_command(run, checkout):
    for secret in json.loads((checkout.state / "credentials.json").read_text()).values():
        assert not any(secret in command for commands in run.steps.values() for command in commands)


def test_inside_a_step_only_the_two_services_can_be_reached(run):
    assert run.seen["networks"] == ["lo"]
    mlflow, s3_without_a_login = run.seen["services"]
    assert mlflow == 200 and s3_without_a_login in (400, 403)
    assert run.seen["outside"] == []


def test_inside_a_step_only_tmp_and_shm_can_be_written_and_nothing_is_privileged(run):
    assert run.seen["uid"] == int(user().split(":")[0])
    assert run.seen["writable"] == ["/tmp", "/dev/shm"]
    assert {int(capabilities, 16) for capabilities in run.seen["capabilities"]} == {0}
    assert run.inspected["HostConfig"]["ReadonlyRootfs"] is True
    assert run.inspected["HostConfig"]["SecurityOpt"] == ["no-new-privileges"]


def test_no_container_is_left(run):
    assert run.left == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_run_that_is_ended_leaves_no_container(start, run, number):
    process = start(LONG + f" random_seed={number}")
    for line in process.stdout:
        if "epoch 2/" in line:
            break
    assert len(containers_of(process)) == 2, "the train step's, and the one that holds its network"
    os.kill(process.pid, number)
    process.communicate()
    assert process.returncode == (130 if number == signal.SIGINT else -number)
    assert wait_until(lambda: not containers_of(process)), containers_of(process)


def test_the_mlflow_image_serves_with_nothing_to_write_to_but_tmp(images):
    command = "mlflow server --host 127.0.0.1 --port 5000 --workers 1 --backend-store-uri sqlite:////tmp/mlflow.db"
    options = ["--detach", "--rm", *LOCKED, "--network", "none", "--env", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false"]
    health = "import urllib.request; print(urllib.request.urlopen('http://127.0.0.1:5000/health').status)"
    name = docker("run", *options, images["mlflow"], *command.split())
    try:
        assert wait_until(lambda: docker("exec", name, "python3", "-c", health, check=False)) == "200"
        assert docker("exec", name, "id", "-u") == "10001"
    finally:
        docker("rm", "--force", name)


def test_the_images_say_what_they_are_and_can_install_nothing(images):
    for name, image in images.items():
        config = json.loads(docker("inspect", image))[0]["Config"]
        assert config["User"] == "10001:10001"
        label = {key.removeprefix("org.opencontainers.image."): text for key, text in config["Labels"].items()}
        assert label["title"] == f"dwi-stroke {name}" and label["version"] == sources_tag() and label["revision"]
        looks = "import importlib.util, shutil; print(importlib.util.find_spec('pip'), shutil.which('sh'))"
        pip, shell = docker("run", "--rm", "--network", "none", image, "python3", "-c", looks).split()
        assert pip == "None"
        assert (shell == "None") == (name == "mlflow")  # KFP starts a step through a shell


class TestThePackage:
    """The image of the run's version, made by make package."""

    @pytest.fixture(scope="class")
    def image(self, run, checkout):
        said = checkout.python("package", "--model", f"models:/{MODEL_NAME}/1", "--registry", "dwi-stroke-test")
        assert "dwi-stroke-test/segment:1 /in /out participant" in said
        yield "dwi-stroke-test/segment:1"
        docker("rmi", "dwi-stroke-test/segment:1", check=False)

    @pytest.fixture(scope="class")
    def data(self, request):
        return REAL if REAL.is_dir() else request.getfixturevalue("demo_scans")

    @pytest.fixture
    def out(self, tmp_path):
        """A folder for the results that belongs to the container's user."""
        (tmp_path / "out").mkdir()
        if not os.getuid():
            os.chown(tmp_path / "out", *map(int, user().split(":")))
        return tmp_path / "out"

    @staticmethod
    def call(image, data, out, *options, folder="/in"):
        places = ["--volume", f"{data}:/in:ro", "--volume", f"{out}:/out"]
        command = ["docker", "run", "--rm", "--network", "none", *LOCKED, "--user", user(), *places, image]
        return subprocess.run([*command, folder, "/out", "participant", *options], capture_output=True, text=True)

    def test_its_results_are_those_of_make_predict_without_a_network_or_a_right(
        self, image, data, out, checkout, tmp_path
    ):
        done = self.call(image, data, out, "--probability")
        assert done.returncode == 0, done.stdout + done.stderr
        model = f"models:/{MODEL_NAME}/1"
        checkout.python(
            "predict", "--input", str(data), "--output", str(tmp_path / "made"), "--model", model, "--probability", "1"
        )
        for kind, folder in (("mask", "masks"), ("probseg", "probabilities")):
            ours = {path.name.split("_space-")[0]: path for path in out.rglob(f"*_label-L_{kind}.nii.gz")}
            theirs = {path.name.removesuffix(".nii.gz"): path for path in (tmp_path / "made" / folder).iterdir()}
            assert ours.keys() == theirs.keys() and len(ours) >= 4
            assert all(ours[case].read_bytes() == theirs[case].read_bytes() for case in ours)
        assert {path.stat().st_uid for path in out.rglob("*")} == {int(user().split(":")[0])}
        assert json.loads((out / "dataset_description.json").read_text())["DatasetType"] == "derivative"

    def test_a_study_in_dicom_gets_a_mask_and_the_answer_for_an_archive(self, image, out, make_scan, tmp_path):
        voxels = np.rint(make_scan(3)[0]).clip(0).astype(np.uint16)
        write_series(tmp_path / "pacs" / "PAT1", voxels, np.diag([-2.0, 2.0, 5.0, 1.0]), Study())
        done = self.call(image, tmp_path / "pacs", out, "--no-modality-check", folder="/in/PAT1")
        assert done.returncode == 0, done.stdout + done.stderr
        assert (out / "masks" / "PAT1.nii.gz").is_file()
        assert {path.name for path in (out / "dicom" / "PAT1").iterdir()} == {"segmentation.dcm", "outline"}

    def test_it_says_what_is_wrong_and_ends_with_1(self, image, data, out, tmp_path):
        done = self.call(image, data, tmp_path / "made by docker, so root's", "--overwrite")
        assert done.returncode == 1 and "/out cannot be written. Mount a folder of yours" in done.stderr
        done = self.call(image, data, out, "--participant-label", "nobody")
        assert done.returncode == 1 and "there is no participant sub-nobody" in done.stderr

    def test_its_card_and_its_version_are_inside(self, image):
        said = [docker("run", "--rm", "--network", "none", *LOCKED, image, o) for o in ("--card", "--version")]
        assert "## Out of scope" in said[0] and "Research use only" in said[0]
        assert f"models:/{MODEL_NAME}/1" in said[1] and "model_sha256" in said[1]

    def test_it_is_small_and_has_no_servers_and_nothing_that_installs(self, image):
        names = ("pip", "mlflow", "kfp", "boto3", "pandas")
        looks = f"import importlib.util; print([name for name in {names} if importlib.util.find_spec(name)])"
        inside = ["run", "--rm", *LOCKED, "--network", "none", "--entrypoint", "python3", image, "-c", looks]
        assert docker(*inside) == "[]"
        config = json.loads(docker("inspect", image))[0]
        assert config["Config"]["User"] == "10001:10001"
        assert config["Size"] < 1.4e9, "with PyTorch for CPUs"


@pytest.mark.parametrize("name", ["components", "trainer"])
def test_a_step_image_has_what_a_step_imports(images, name):
    code = "import kfp.dsl.executor_main, kfp.kubernetes, kubernetes, mlflow, torch; print(torch.__version__)"
    assert docker("run", "--rm", *LOCKED, "--network", "none", images[name], "python3", "-c", code)
