"""The device of a training: the line in the log, and the errors. Devices are stand-ins."""

import pytest
import torch

from components.core.errors import StepError
from components.model import gpu_advice
from components.train import ranks, setup

CPU, GPU = torch.device("cpu"), torch.device("cuda")
UNUSED = "the GPU here is not used: its driver is 535.183.01, and this PyTorch needs 580 or newer"


@pytest.fixture
def machine(monkeypatch):
    """machine(where, asked, why): the device, the GPUs asked for, and why a GPU that is here is not used."""

    def make(where: torch.device, asked: int, why: str = "") -> None:
        for module in (setup, gpu_advice):
            monkeypatch.setattr(module, "device", lambda: where)
            monkeypatch.setattr(module, "unused_gpu", lambda: why)
        monkeypatch.setattr(setup, "asked_gpus", lambda: asked)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H100")

    return make


@pytest.mark.parametrize(
    ("where", "asked", "why", "said"),
    [
        (CPU, 0, "", "training on cpu, {threads} threads"),
        (CPU, 0, UNUSED, f"training on cpu, {{threads}} threads; {UNUSED}"),
        (GPU, 0, "", "training on NVIDIA H100"),
        (GPU, 1, "", "training on NVIDIA H100"),
        (GPU, 4, "", "training on NVIDIA H100; this machine has fewer than the 4 GPUs asked for"),
        (torch.device("mps"), 1, "", "training on Apple GPU (mps)"),
    ],
)
def test_the_device_is_said_and_once_why_it_is_not_the_gpu_that_is_here(machine, caplog, where, asked, why, said):
    machine(where, asked, why)
    caplog.set_level("INFO")
    assert setup.choose_device() == where
    assert caplog.messages == [said.format(threads=torch.get_num_threads())]


@pytest.mark.parametrize(
    ("why", "said"), [(UNUSED, UNUSED), ("", f"PyTorch {torch.__version__} finds no GPU on this machine")]
)
def test_where_gpus_were_asked_for_it_does_not_train_on_the_cpu(machine, why, said):
    machine(CPU, 2, why)
    with pytest.raises(StepError) as error:
        setup.choose_device()
    assert str(error.value) == f"GPUS=2 asks for a GPU, but {said}. To train on the CPU leave GPUS out."


def test_processes_that_met_over_gpus_do_not_train_on_the_cpu(machine, monkeypatch):
    machine(CPU, 0, UNUSED)
    monkeypatch.setattr(ranks, "over_gpus", lambda: True)
    with pytest.raises(StepError, match=r"needs 580 or newer. To train on the CPU hide the GPUs: CUDA_VISIBLE_DEVICES"):
        setup.choose_device()
