"""Two nodes train as one: two processes that each think they are a machine, told by PET_* variables where the other is.

Kubeflow Trainer sets those variables in a TrainJob's pods; object storage and MLflow are real.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from components.core.errors import StepError
from components.core.settings import checked
from components.train import node
from components.train.launch import launch
from components.train.node_storage import NodeStorage
from components.train.training_inputs import TrainingPaths
from pipelines.image_tags import ROOT
from tests.integration.test_training import SETTINGS, checkpoints, history, inputs, train  # noqa: F401 - fixtures


@pytest.fixture
def storage(servers_here):
    storage = NodeStorage("run-1")
    yield storage
    storage.remove()
    assert storage.storage.list() == []


def paths(inputs: list[Path], folder: Path) -> TrainingPaths:  # noqa: F811
    return TrainingPaths(*inputs, folder / "model", folder / "curves.html")


def start_nodes(port: str, folder: Path) -> list[subprocess.Popen]:
    """The command of the TrainJob in a scratch folder for each node, with the variables that Trainer sets."""
    return [
        subprocess.Popen(
            [sys.executable, "-m", node.__name__, node.arguments("run-1", 1, checked(SETTINGS))],
            env={
                **os.environ, "PYTHONPATH": str(ROOT), "GLOO_SOCKET_IFNAME": "lo", "KFP_RUN_ID": "two nodes",
                "SCRATCH_DIR": str(folder / rank), "PET_NNODES": "2", "PET_NODE_RANK": rank,
                "PET_NPROC_PER_NODE": "auto", "PET_MASTER_ADDR": "127.0.0.1", "PET_MASTER_PORT": port,
            },
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in ("0", "1")
    ]  # fmt: skip


@pytest.mark.slow
def test_two_nodes_learn_what_one_process_learns(storage, inputs, train, checkpoints, free_port, tmp_path):  # noqa: F811
    alone = train("alone", launch)
    checkpoints.delete([o.key for o in checkpoints.list()])

    storage.upload_inputs(paths(inputs, tmp_path))
    first, second = start_nodes(free_port(), tmp_path)
    said, _ = first.communicate(timeout=300)
    also_said, _ = second.communicate(timeout=60)
    assert (first.returncode, second.returncode) == (0, 0), said + also_said
    storage.download_results(paths(inputs, tmp_path))

    for one, both in zip(history(alone), history(tmp_path / "model"), strict=True):
        for what in ("train_loss", "train_dice", "val_loss", "val_dice", "learning_rate"):
            assert both[what] == pytest.approx(one[what], abs=2e-3), (what, one["epoch"])
    assert "<html" in (tmp_path / "curves.html").read_text()
    assert {p.name for p in alone.iterdir()} == {p.name for p in (tmp_path / "model").iterdir()}
    assert "epoch 3/3" in said and "epoch 3/3" not in also_said


def test_what_was_sent_is_not_sent_again_and_what_came_of_it_is_forgotten(storage, inputs, tmp_path, caplog):  # noqa: F811
    caplog.set_level("INFO")
    storage.upload_inputs(paths(inputs, tmp_path))
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "best_model.pth").write_bytes(b"weights")
    (tmp_path / "curves.html").write_text("<html></html>")
    storage.upload_results(paths(inputs, tmp_path))
    caplog.clear()

    storage.upload_inputs(paths(inputs, tmp_path))
    assert [m for m in caplog.messages if "to upload" in m] == [
        "in/cases: 0 files to upload, 0.0 MB", "in/slices: 0 files to upload, 0.0 MB",
    ]  # fmt: skip
    with pytest.raises(StepError, match=r"s3://.*/out/model is empty"):
        storage.download_results(paths(inputs, tmp_path))


ENDS_SOON = """
import time
from components.train import node
node.STEP_TIMEOUT = 1
node.torchrun = lambda *_: time.sleep(60)
node.main()
"""


def test_a_node_ends_when_its_step_is_gone(storage, tmp_path):
    storage.storage.put("in/cases/big", b"1")
    ended = subprocess.run(
        [sys.executable, "-c", ENDS_SOON, node.arguments("run-1", 1, checked(SETTINGS))],
        env={**os.environ, "PYTHONPATH": str(ROOT), "PET_NODE_RANK": "1", "SCRATCH_DIR": str(tmp_path)},
        capture_output=True, text=True, timeout=50,
    )  # fmt: skip
    assert ended.returncode == 1
    assert ended.stdout.endswith("ERROR train: the train step has ended: nothing would read the model\n")
