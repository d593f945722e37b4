"""The processes that read for a GPU: real ones, which end, hang or have nowhere to meet. No GPU is needed for that."""

import os
import signal
import subprocess
import sys
import time
import warnings

import numpy as np
import pytest
import torch

from components.core.errors import StepError
from components.train import data_workers
from components.train.data import EpochBatches, StackDataset, loader
from pipelines.image_tags import ROOT

SLICES, BATCH = 24, 2


class Noise(StackDataset):
    """Slices of zeros; the worker that reads row 5 for the first time does `what` before."""

    side, channels = 16, 3

    def __init__(self, what=lambda: None):
        self.what = what

    def __getitem__(self, item):
        if item[0] == 5:
            self.what()
        return np.zeros((16, 16, 3), np.float32), np.zeros((16, 16), np.uint8)


def batches_of(dataset):
    """What the loader for a GPU gives, read as the training reads it, by two workers."""
    warnings.simplefilter("ignore")  # there is no GPU to pin memory for
    data = loader(dataset, EpochBatches(np.ones(SLICES, bool), BATCH, 0, 0), torch.device("cuda"), cpus=3)
    assert data.num_workers == 2
    with data_workers.at_work():
        yield from data_workers.read(data)


READ_ALL = """
from tests.unit.components.train.test_data_workers import Noise, batches_of
print("batches:", len(list(batches_of(Noise()))))
"""


@pytest.mark.sampled(4)
@pytest.mark.parametrize(("characters", "method"), [(40, "fork"), (82, "fork"), (120, "fork"), (82, "forkserver")])
def test_workers_pass_their_batches_on_wherever_temporary_files_lie(tmp_path, characters, method):
    """82: where a checkout lies 36 characters deep. forkserver: the usual way to start a process in Python 3.14."""
    folder = tmp_path
    while len(str(folder)) < characters:
        folder /= "d" * min(40, max(1, characters - len(str(folder)) - 1))
    folder.mkdir(parents=True, exist_ok=True)
    start = f"import multiprocessing; multiprocessing.set_start_method({method!r})"
    done = subprocess.run(
        [sys.executable, "-c", f"{start}\n{READ_ALL}"], capture_output=True, text=True, timeout=100,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(folder)},
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "batches: 12\n"), done.stderr


def test_where_no_folder_supports_sockets_one_process_reads(monkeypatch, caplog):
    monkeypatch.setattr(data_workers, "_supports_sockets", lambda folder: False)
    assert data_workers.with_room(3, 1) == 0
    assert "Set TMPDIR to a folder on this machine with a short path" in caplog.text


def test_a_folder_that_cannot_be_written_or_is_not_there_takes_no_socket(tmp_path):
    assert data_workers._supports_sockets(str(tmp_path)) == (len(str(tmp_path)) < 75)
    assert not data_workers._supports_sockets("/proc")
    assert not data_workers._supports_sockets("/nowhere")
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("end", "said"),
    [
        (lambda: os.kill(os.getpid(), signal.SIGKILL), r"was killed \(SIGKILL\), as a system does whose memory runs"),
        (lambda: os.kill(os.getpid(), signal.SIGBUS), r"was killed \(SIGBUS\), as where /dev/shm is full. Make it lar"),
        (lambda: os.kill(os.getpid(), signal.SIGSEGV), r"ended \(Segmentation fault\); the lines above may say why"),
        (lambda: os._exit(7), r"ended \(exit code 7\); the lines above may say why"),
    ],
    ids=["memory", "shared memory", "fault", "exit"],
)
def test_a_worker_that_ends_is_said_in_words_and_at_once(end, said):
    start = time.monotonic()
    with pytest.raises(StepError, match=f"^a process that reads training slices {said}.* goes on from its last epoch"):
        list(batches_of(Noise(end)))
    assert time.monotonic() - start < 20


def test_a_worker_that_cannot_pass_a_batch_on_ends_and_does_not_drop_it(monkeypatch, capfd):
    """A stand-in for a full /dev/shm, too many open files, a socket that cannot be made: what cannot be pickled."""
    monkeypatch.setattr(data_workers, "LOOK_AFTER", 2)
    monkeypatch.setattr(data_workers, "PATIENCE", 2)
    monkeypatch.setattr("components.train.data._collate", lambda side, channels, items: lambda: None)
    with pytest.raises(StepError, match="could not pass them on; the line above says why"):
        list(batches_of(Noise()))
    assert "a batch of training slices cannot be passed on: " in capfd.readouterr().out


def test_a_worker_that_is_slow_is_waited_for_and_it_is_said(monkeypatch, caplog):
    monkeypatch.setattr(data_workers, "LOOK_AFTER", 1)
    assert len(list(batches_of(Noise(lambda: time.sleep(2.5))))) == SLICES // BATCH
    assert "no training slices were read for 2 seconds; waiting" in caplog.messages


def test_workers_that_hang_end_the_step_and_are_ended(monkeypatch):
    monkeypatch.setattr(data_workers, "LOOK_AFTER", 1)
    monkeypatch.setattr(data_workers, "PATIENCE", 2)
    start = time.monotonic()
    with pytest.raises(StepError, match=r"gave none for 2 seconds. See whether the disk with .* answers. Run again"):
        list(batches_of(Noise(lambda: time.sleep(600))))
    assert not data_workers.multiprocessing.active_children()
    assert time.monotonic() - start < 20


@pytest.mark.parametrize(
    "message", ["CUDA error: no kernel image is available", "Caught KeyError in DataLoader worker process 0."]
)
def test_what_is_no_workers_end_stays_as_it_is(message):
    with pytest.raises(RuntimeError, match=message), data_workers.at_work():
        raise RuntimeError(message)


FAILS = """
from components.core.step import StepError, step
from tests.unit.components.train.test_data_workers import Noise, batches_of
from components.train import data_workers
with step("train"), data_workers.at_work():
    for batch in batches_of(Noise()):
        raise StepError("the loss is no number")
"""


@pytest.mark.slow
def test_a_training_that_fails_for_another_reason_leaves_no_worker_and_ends():
    done = subprocess.run(
        [sys.executable, "-c", FAILS], capture_output=True, text=True, timeout=100,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, "ERROR train: the loss is no number\n"), done.stderr
