"""Which device is taken, and what is said of a GPU that is not.

No GPU is needed: torch.cuda, torch.backends.mps, /dev and the driver's file are stand-ins here. What a real old driver,
an old GPU or a Mac does was not tried.
"""

import subprocess

import pytest
import torch

from components.model import device as devices
from components.model import gpu_advice
from components.model.device import device, differs_from_cpu, two_steps
from components.model.gpu_advice import describe_device, device_name, driver, unused_gpu

PROPRIETARY = """NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.01  Sun May 12 19:39:15 UTC 2024
GCC version:  gcc version 12.2.0 (Debian 12.2.0-14)
"""
OPEN = """NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build  (dvs-builder)  Sun Jul 27
GCC version:  gcc version 13.3.0
"""
TOO_OLD = (
    "The NVIDIA driver on your system is too old (found version 12020). Please update your GPU driver\nby downloading"
)


ONES = torch.ones


class Machine:
    """A machine to put together: `gpu("535.183.01")`, `torch(...)`, `mac(...)`."""

    def __init__(self, folder, patch):
        self.folder, self.patch = folder, patch
        patch.setattr(gpu_advice, "DEVICES", folder)
        patch.setattr(gpu_advice, "DRIVER_FILE", folder / "version")
        patch.setattr("subprocess.run", self._no_program)
        patch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        self.torch("2.13.0+cu130", "13.0")

    @staticmethod
    def _no_program(*_, **__):
        raise FileNotFoundError

    def gpu(self, version: str = "", node: str = "nvidia0") -> None:
        (self.folder / node).touch()
        if version:
            (self.folder / "version").write_text(PROPRIETARY.replace("535.183.01", version))

    def torch(self, version: str, cuda: str | None, sees: bool = False, says: str = "no more is known") -> None:
        """`sees`: whether it finds a GPU; `says`: its error where it does not, or where it computes there."""

        def fail(*_, **__):
            raise RuntimeError(says)

        self.patch.setattr(torch, "__version__", version)
        on_gpu = fail if says else (lambda: torch.zeros(8))
        self.patch.setattr(torch.version, "cuda", cuda)
        self.patch.setattr(torch.cuda, "is_available", lambda: sees)
        self.patch.setattr(torch.cuda, "init", fail)
        self.patch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA TITAN V")
        self.patch.setattr(
            torch, "ones", lambda *size, device=None, **more: on_gpu() if device else ONES(*size, **more)
        )

    def mac(self) -> None:
        self.patch.setattr(torch.backends.mps, "is_available", lambda: True)


@pytest.fixture
def machine(tmp_path, monkeypatch):
    for remembers in (devices.cuda_error, differs_from_cpu):
        remembers.cache_clear()
    yield Machine(tmp_path, monkeypatch)
    for remembers in (devices.cuda_error, differs_from_cpu):
        remembers.cache_clear()


@pytest.mark.parametrize(("said", "version"), [(PROPRIETARY, "535.183.01"), (OPEN, "580.65.06"), ("nonsense", "")])
def test_the_drivers_version_is_read_from_its_file(machine, said, version):
    (machine.folder / "version").write_text(said)
    assert driver() == version


@pytest.mark.parametrize(
    ("said", "version"), [("550.54.15\n550.54.15\n", "550.54.15"), ("No devices were found\n", "")]
)
def test_without_the_file_the_drivers_program_is_asked(machine, monkeypatch, said, version):
    asked = subprocess.CompletedProcess([], 0, said)
    monkeypatch.setattr("subprocess.run", lambda *_, **__: asked)
    assert driver() == version


def test_without_either_it_is_unknown(machine):
    assert driver() == ""


def test_a_machine_without_a_gpu_says_the_cpu_and_no_more(machine):
    assert device() == torch.device("cpu")
    assert unused_gpu() == ""
    assert describe_device() == f"cpu, {torch.get_num_threads()} threads"


def test_a_driver_without_a_device_is_that_of_the_machine_around_a_container(machine):
    machine.gpu("535.183.01", node="nvidia-caps")
    assert unused_gpu() == ""


def test_windows_has_its_device_under_another_name(machine, monkeypatch):
    machine.gpu(node="dxg")
    assert unused_gpu() == ""
    monkeypatch.setattr("subprocess.run", lambda *_, **__: subprocess.CompletedProcess([], 0, "536.25\n"))
    assert "its driver is 536.25" in unused_gpu()


def test_a_gpu_that_computes_is_used(machine):
    machine.gpu("580.65.06")
    machine.torch("2.13.0+cu130", "13.0", sees=True, says="")
    assert device() == torch.device("cuda")
    assert describe_device() == device_name(device()) == "NVIDIA TITAN V"


@pytest.mark.parametrize(
    ("version", "cuda", "has", "said"),
    [
        ("2.13.0+cu130", "13.0", "535.183.01",
         "its driver is 535.183.01, and this PyTorch (2.13.0+cu130, for CUDA 13.0) needs 580 or newer. Install "
         "PyTorch's cu126 build, which fits (docs/troubleshooting.md, "),
        ("2.13.0+cu130", "13.0", "579.99", "needs 580 or newer. Install PyTorch's cu126 build, which fits"),
        ("2.13.0+cu132", "13.2", "525.60.13", "needs 580 or newer. Install PyTorch's cu126 build, which fits"),
        ("2.13.0+cu130", "13.0", "470.82.01", "needs 580 or newer. Install driver 580 or newer and PyTorch's cu130"),
        ("2.13.0+cu126", "12.6", "470.82.01", "needs 525 or newer. Install driver 580 or newer and PyTorch's cu130"),
        ("2.13.0+cpu", None, "580.65.06", "this PyTorch (2.13.0+cpu) is built without CUDA. Install PyTorch's cu130"),
        ("2.13.0+cpu", None, "550.54.15", "this PyTorch (2.13.0+cpu) is built without CUDA. Install PyTorch's cu126"),
        ("2.13.0+cpu", None, "", "is built without CUDA. Install driver 580 or newer and PyTorch's cu130 build"),
        ("2.13.0+cu130", "13.0", "580.65.06", "PyTorch 2.13.0+cu130 (CUDA 13.0, driver 580.65.06) says: The NVIDIA"),
        ("2.13.0+cu126", "12.6", "535.183.01", "PyTorch 2.13.0+cu126 (CUDA 12.6, driver 535.183.01) says: The NVIDIA"),
        ("2.13.0+cu130", "13.0", "", "PyTorch 2.13.0+cu130 (CUDA 13.0, driver unknown) says: The NVIDIA driver on"),
    ],
)  # fmt: skip
def test_why_a_gpu_is_not_used_and_which_build_of_pytorch_would_fit(machine, version, cuda, has, said):
    machine.gpu(has)
    machine.torch(version, cuda, says=TOO_OLD)
    assert device() == torch.device("cpu")
    assert unused_gpu().startswith("the GPU here is not used: ") and said in unused_gpu()
    assert "\n" not in unused_gpu() and unused_gpu() in describe_device()


@pytest.mark.parametrize(
    ("value", "hides"), [("", True), ("-1", True), ("NoDevFiles", True), ("0", False), ("GPU-8", False)]
)
def test_a_gpu_that_is_hidden_on_purpose(machine, monkeypatch, value, hides):
    machine.gpu("580.65.06")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    assert (f"CUDA_VISIBLE_DEVICES={value} hides it. Unset it" in unused_gpu()) == hides


@pytest.mark.parametrize(
    ("capability", "has", "advice"),
    [
        ((7, 0), "580.65.06", "Install PyTorch's cu126 build, which fits"),
        ((6, 1), "470.82.01", "Install driver 525 or newer and PyTorch's cu126 build"),
        ((12, 0), "580.65.06", "Install PyTorch's cu130 build, which fits"),
        ((3, 7), "470.82.01", "No build of it has. Take another GPU"),
    ],
)
def test_a_gpu_that_the_build_has_no_code_for_is_passed_over(machine, monkeypatch, capability, has, advice):
    machine.gpu(has)
    machine.torch("2.13.0+cu130", "13.0", sees=True, says="CUDA error: no kernel image is available for execution on")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    assert device() == torch.device("cpu")
    number = ".".join(map(str, capability))
    assert f"has no code for NVIDIA TITAN V, of compute capability {number}. {advice}" in unused_gpu()


def test_a_gpu_that_another_program_holds_is_passed_over(machine):
    machine.gpu("580.65.06")
    machine.torch(
        "2.13.0+cu130", "13.0", sees=True, says="CUDA error: all CUDA-capable devices are busy\nFor debugging"
    )
    assert device() == torch.device("cpu")
    assert unused_gpu().endswith("PyTorch 2.13.0+cu130 says: CUDA error: all CUDA-capable devices are busy")


def test_apples_gpu_is_used_where_it_learns_what_the_cpu_learns(machine, monkeypatch):
    machine.mac()
    learnt = two_steps(torch.device("cpu"))
    monkeypatch.setattr(devices, "two_steps", lambda where: [(1 + 0.01 * (where.type == "mps")) * x for x in learnt])
    assert device() == torch.device("mps")
    assert describe_device() == "Apple GPU (mps)"


@pytest.mark.parametrize("wrong", [0, 10, -1])
def test_apples_gpu_is_not_used_where_one_filter_alone_does_not_learn(machine, monkeypatch, wrong):
    machine.mac()
    learnt = two_steps(torch.device("cpu"))
    stuck = [x if n != wrong % len(learnt) else torch.zeros_like(x) for n, x in enumerate(learnt)]
    monkeypatch.setattr(devices, "two_steps", lambda where: stuck if where.type == "mps" else learnt)
    assert device() == torch.device("cpu")
    assert unused_gpu() == (
        "Apple's GPU (mps) is not used: two steps of learning end 100 % away from where the CPU's do"
    )


def test_apples_gpu_is_not_used_where_something_fails_there(machine):
    """This PyTorch has no code for it, so that the trial itself fails: that is no stand-in."""
    machine.mac()
    assert device() == torch.device("cpu")
    assert unused_gpu().startswith("Apple's GPU (mps) is not used: PyTorch ")


def test_the_trial_holds_rounding_for_no_difference_and_half_precision_for_one(monkeypatch):
    once, network = two_steps(torch.device("cpu")), devices.AttentionUNet
    assert all((a == b).all() for a, b in zip(once, two_steps(torch.device("cpu")), strict=True))
    shares = {}
    for name, change in {"layout": _channels_last, "half": _in_half_precision}.items():
        monkeypatch.setattr(devices, "AttentionUNet", lambda width, change=change: change(network(width)))
        pairs = zip(once, two_steps(torch.device("cpu")), strict=True)
        shares[name] = max(float((a - b).norm() / a.norm()) for a, b in pairs)
    assert 0 < shares["layout"] < devices.TOLERANCE / 10
    assert shares["half"] > 2 * devices.TOLERANCE


def _channels_last(network):
    return network.to(memory_format=torch.channels_last)


def _in_half_precision(network):
    whole = network.forward
    network.forward = lambda x: torch.autocast("cpu", torch.bfloat16)(whole)(x).float()
    return network


def test_the_trial_changes_no_random_number_that_comes_after_it():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    two_steps(torch.device("cpu"))
    assert torch.equal(torch.get_rng_state(), before)
