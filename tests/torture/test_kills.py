"""A run is killed at random moments of every step, and at every request of what must happen once; then it goes on.

What comes out is what an undisturbed run gives, to the bit: every epoch's measures, the weights, the test metrics;
one model version, one finished MLflow run and none that seems to be running, nothing half-written read as whole.
"""

import contextlib
import http.client
import json
import os
import signal
import sqlite3
import threading
import time
from pathlib import Path

import mlflow
import psutil
import pytest
import torch

from components.core.storage import Storage, file_sha256
from components.register.register import register
from components.registry.tracking import EXPERIMENT, MODEL_NAME
from components.train.checkpoints import Checkpoints
from pipelines.pipeline import STEPS
from pipelines.upload import upload
from tests.support.checkout import Checkout

SETTINGS = "image_size=32 base_channels=4 epochs=4 batch_size=4 precision=float32 memory_format=contiguous"
HOWS = [(number, whom) for number in (signal.SIGKILL, signal.SIGTERM) for whom in ("step", "run")]


@pytest.fixture(scope="module")
def whole(demo_scans, tmp_path_factory):
    """A checkout with one undisturbed run."""
    with Checkout(tmp_path_factory.mktemp("whole") / "checkout", one_cpu=True) as checkout:
        checkout.python("run", "--data", str(demo_scans), "--set", SETTINGS)
        yield checkout


def outcome(checkout: Checkout) -> dict:
    """All that a run comes to, clocks and names aside."""
    artifacts = checkout.state / "s3" / "dwi-stroke" / "artifacts"
    model = max(artifacts.glob("*/train/model/history.json"), key=lambda path: path.stat().st_mtime).parent
    rows = json.loads((model / "history.json").read_text())
    run = checkout.last_run()
    return {
        "history": [{k: v for k, v in row.items() if k not in ("time", "seconds")} for row in rows],
        "weights": file_sha256(model / "best_model.pth"),
        "metrics": run["metrics"],
        "data": run["data_version"],
        "version": (run["model"]["version"], run["model"]["aliases"]),
    }


def in_mlflow(checkout: Checkout) -> tuple[list[str], int]:
    """The states of its runs, and how many model versions it has."""
    with contextlib.closing(sqlite3.connect(checkout.state / "mlflow" / "mlflow.db")) as database:
        states = [state for (state,) in database.execute("select status from runs")]
        return states, database.execute("select count(*) from model_versions").fetchone()[0]


def kill_in(checkout: Checkout, demo_scans: Path, step: str, seconds: float, how: tuple[int, str]) -> bool:
    """Run, and kill so many seconds into the step; whether it was still going on."""
    number, whom = how
    process = checkout.start("run", "--data", str(demo_scans), "--set", SETTINGS)
    said = threading.Event()
    lines: list[str] = []

    def read() -> None:
        for line in process.stdout:
            lines.append(line)
            if f"] {step}\n" in line:
                said.set()

    reader = threading.Thread(target=read)
    reader.start()
    while process.poll() is None and not said.wait(0.05):
        pass
    time.sleep(seconds)
    steps: list[psutil.Process] = []
    with contextlib.suppress(psutil.NoSuchProcess):
        children = psutil.Process(process.pid).children(recursive=True)
        steps = [child for child in children if "kfp.dsl.executor_main" in child.cmdline()]
        for victim in steps[-1:] if whom == "step" else [psutil.Process(process.pid)]:
            victim.send_signal(number)
    process.wait()
    reader.join()
    assert psutil.wait_procs(steps, timeout=15)[1] == [], "a step outlives its run"
    assert "Traceback" not in "".join(lines), "".join(lines)
    return process.returncode != 0


def test_killed_at_random_moments_of_every_step(campaign, demo_scans, whole, tmp_path):
    expected = outcome(whole)
    seconds = {name: step["seconds"] for name, step in whole.last_run()["steps"].items()}
    ahead = sorted([*STEPS, "train", "register"], key=STEPS.index)
    with Checkout(tmp_path / "killed", one_cpu=True) as checkout:
        for _ in campaign.rounds(most=len(ahead)):
            step, how = ahead.pop(0), campaign.random.choice(HOWS)
            if kill_in(checkout, demo_scans, step, campaign.random.uniform(0, 0.8 * seconds[step]), how):
                campaign.count(f"{step}: {signal.Signals(how[0]).name} of the {how[1]} survived")
        checkout.python("run", "--data", str(demo_scans), "--set", SETTINGS)
        assert outcome(checkout) == expected
        campaign.count("results equal to the undisturbed run's, to the bit")
        states, versions = in_mlflow(checkout)
        assert versions == 1 and "RUNNING" not in states and states.count("FINISHED") == 1, states
        assert not list(checkout.state.rglob("*.part"))
        assert "running" not in {
            json.loads(p.read_text())["status"] for p in checkout.state.glob("runs/*/summary.json")
        }


def killed_at(event: int | None, function) -> bool:
    """Call the function in a process of its own that SIGKILL ends at its n-th request, answer or body; whether it did.

    An odd event is a request of which half is sent, an even one an answer that nobody reads.
    """
    child = os.fork()
    if not child:
        torch.set_num_threads(1)  # a fork has none of the threads of its parent's pool, and would wait for them
        events = iter(range(1, 1_000_000))
        send, getresponse = http.client.HTTPConnection.send, http.client.HTTPConnection.getresponse

        def die() -> None:
            os.kill(os.getpid(), signal.SIGKILL)

        def half(self, data):
            if next(events) == event:
                if isinstance(data, bytes):
                    send(self, data[: len(data) // 2])
                die()
            return send(self, data)

        def unread(self):
            answer = getresponse(self)
            if next(events) == event:
                die()
            return answer

        http.client.HTTPConnection.send, http.client.HTTPConnection.getresponse = half, unread
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            function()
            os._exit(0)
        except BaseException:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) in (0, -signal.SIGKILL)
    return os.waitstatus_to_exitcode(status) != 0


@pytest.fixture
def here(whole, monkeypatch):
    """This process's environment points at the services of the undisturbed run."""
    for name, value in whole.services().items():
        monkeypatch.setenv(name, value)
    return whole


def soon(campaign, most: int) -> int:
    """1 to `most`, the early ones oftener, so that few of them lie behind the end."""
    return int(most ** campaign.random.random())


def test_killed_at_any_request_of_an_upload(campaign, here, tmp_path):
    for number in campaign.rounds(most=80):
        folder, state = tmp_path / f"{number}" / "scans", tmp_path / f"{number}" / "state"
        folder.mkdir(parents=True)
        contents = {f"{name}.bin": campaign.random.randbytes(1 << campaign.random.randrange(1, 22)) for name in "abcd"}
        for name, content in contents.items():
            (folder / name).write_bytes(content)
        for _ in range(2):
            died = killed_at(soon(campaign, 200), lambda f=folder, s=state: upload(f, s))
            campaign.count("upload: SIGKILL within a request survived", died)
        storage = Storage(upload(folder, state))
        assert {o.key: storage.get(o.key) for o in storage.list()} == contents


def test_killed_at_any_request_of_keeping_a_checkpoint(campaign, here):
    def state(epoch: int) -> dict:
        return {"epoch": epoch, "weights": torch.full((1 << 16,), float(epoch))}

    def keep(digest: str, epoch: int) -> None:
        checkpoints = Checkpoints(digest)
        checkpoints.save(epoch, state(epoch))
        checkpoints.wait()

    for number in campaign.rounds(most=80):
        digest = f"torture{number}"
        keep(digest, 1)
        died = killed_at(soon(campaign, 12), lambda d=digest: keep(d, 2))
        campaign.count("checkpoint: SIGKILL within a request survived", died)
        found = Checkpoints(digest).load()
        assert found["epoch"] in ((1, 2) if died else (2,))
        assert torch.equal(found["weights"], state(found["epoch"])["weights"])
        keep(digest, 3)
        assert len(Checkpoints(digest).storage.list()) == 1


def test_killed_at_any_request_of_the_registration(campaign, here, monkeypatch):
    artifacts = here.state / "s3" / "dwi-stroke" / "artifacts"
    model, evaluation = (next(artifacts.glob(f"*/{name}")) for name in ("train/model", "evaluate/evaluation"))
    client, ledger = mlflow.MlflowClient(), Storage("s3://dwi-stroke/ledger")
    experiment = client.get_experiment_by_name(EXPERIMENT).experiment_id

    def forget() -> None:
        if client.search_registered_models(f"name = '{MODEL_NAME}'"):
            client.delete_registered_model(MODEL_NAME)
        for run in client.search_runs([experiment]):
            client.delete_run(run.info.run_id)
        ledger.delete([o.key for o in ledger.list()])

    for number in campaign.rounds(most=100):
        forget()
        for attempt in range(3):
            monkeypatch.setenv("KFP_RUN_ID", f"registration {number}, try {attempt}")
            event = soon(campaign, 300) if attempt < 2 else None
            died = killed_at(event, lambda: register(model, evaluation))
            campaign.count("registration: SIGKILL within a request survived", died)
        assert not died
        (version,) = client.search_model_versions(f"name = '{MODEL_NAME}'")
        assert sorted(client.get_model_version(MODEL_NAME, version.version).aliases) == ["challenger", "champion"]
        assert [run.info.status for run in client.search_runs([experiment])] == ["FINISHED"]
        run = client.get_run(version.run_id)
        for name in ("val_dice", "test_dice_mean", "training_seconds"):
            steps = [m.step for m in client.get_metric_history(version.run_id, name)]
            assert len(steps) == len(set(steps)), f"{name} was logged twice"
        assert run.data.tags["training_recorded"] == "true"
        assert len(ledger.list()) == 1
        loaded = mlflow.artifacts.download_artifacts(f"models:/{MODEL_NAME}/{version.version}")
        assert file_sha256(next(Path(loaded).rglob("best_model.pth"))) == file_sha256(model / "best_model.pth")
        campaign.count("one version, one finished run, one entry in the ledger")
