"""Where a network runs: on a GPU that PyTorch can use, else on the CPU, with the reason where a GPU is here."""

import functools
import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import torch

from components.model.network import AttentionUNet

DEVICES = Path("/dev")
DRIVER_FILE = Path("/proc/driver/nvidia/version")
READ_ON = 'docs/troubleshooting.md, "An older GPU or driver"'
TOLERANCE = 0.05
"""Share of a step by which two trials of learning may differ: the rounding of float32 makes 0.01, bfloat16 0.8."""


@dataclass(frozen=True)
class Build:
    """A build of PyTorch: its CUDA, the oldest driver that it runs on, the oldest GPU (compute capability)."""

    name: str
    cuda: str
    driver: int
    capability: tuple[int, int]


BUILDS = (Build("cu130", "13.0", 580, (7, 5)), Build("cu126", "12.6", 525, (5, 0)))
"""Newest first, of PyTorch 2.13. Drivers: "Minor Version Compatibility", table 1, in NVIDIA's CUDA compatibility guide
(docs.nvidia.com/deploy/cuda-compatibility): 580 for CUDA 13, 525 for CUDA 12. GPUs: "PyTorch CUDA Support Matrix" in
PyTorch's RELEASE.md, for x86-64 (on arm64 cu126 wants 8.0)."""


def device() -> torch.device:
    """An NVIDIA GPU, else Apple's where it gives the CPU's results, else the CPU."""
    if torch.cuda.is_available() and not _refusal():
        return torch.device("cuda")
    if torch.backends.mps.is_available() and not differs_from_cpu(torch.device("mps")):
        return torch.device("mps")
    return torch.device("cpu")


def named(where: torch.device) -> str:
    """What a person calls it: "NVIDIA A100-SXM4-40GB", "Apple GPU (mps)", "cpu, 4 threads"."""
    if where.type == "cuda":
        return torch.cuda.get_device_name()
    return "Apple GPU (mps)" if where.type == "mps" else f"cpu, {torch.get_num_threads()} threads"


def in_words() -> str:
    """The device, and why it is not the GPU that is here."""
    return "; ".join(filter(None, (named(device()), unused_gpu())))


def unused_gpu() -> str:
    """Why networks run on the CPU though a GPU is here, and what to do; "" where there is none, or it is used."""
    if device().type != "cpu":
        return ""
    if torch.backends.mps.is_available():
        return f"Apple's GPU (mps) is not used: {differs_from_cpu(torch.device('mps'))}"
    return f"the GPU here is not used: {_why_no_cuda()}" if nvidia_gpu() else ""


def nvidia_gpu() -> bool:
    """Whether this machine, or this container, has an NVIDIA GPU, whatever PyTorch says."""
    return any(DEVICES.glob("nvidia[0-9]*")) or ((DEVICES / "dxg").exists() and bool(driver()))  # dxg: of Windows (WSL)


def driver() -> str:
    """The version of NVIDIA's driver, "535.183.01"; "" where it is unknown."""
    try:
        said = DRIVER_FILE.read_text()
    except OSError:
        ask = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        try:
            said = subprocess.run(ask, capture_output=True, text=True, timeout=30).stdout
        except (OSError, subprocess.TimeoutExpired):
            return ""
    found = re.search(r"\b\d{3}\.\d+(\.\d+)?\b", said)
    return found[0] if found else ""


def _why_no_cuda() -> str:
    """Why PyTorch uses no NVIDIA GPU, and what to do."""
    built, has, hidden = torch.version.cuda, driver(), os.environ.get("CUDA_VISIBLE_DEVICES")
    if torch.cuda.is_available():
        return _refusal()
    if hidden is not None and not re.match(r"\s*(\d|GPU-|MIG-)", hidden):
        return f"CUDA_VISIBLE_DEVICES={hidden} hides it. Unset it"
    if built is None:
        return f"this PyTorch ({torch.__version__}) is built without CUDA. {_advice(has)}"
    needs = next((build.driver for build in BUILDS if _major(build.cuda) == _major(built)), 0)
    if has and _major(has) < needs:
        this = f"this PyTorch ({torch.__version__}, for CUDA {built})"
        return f"its driver is {has}, and {this} needs {needs} or newer. {_advice(has)}"
    return f"PyTorch {torch.__version__} (CUDA {built}, driver {has or 'unknown'}) says: {_error_of(torch.cuda.init)}"


def _advice(has: str, capability: tuple[int, int] | None = None) -> str:
    """Which build of PyTorch fits the driver and the GPU."""
    builds = [build for build in BUILDS if capability is None or build.capability <= capability]
    if not builds:
        return "No build of it has. Take another GPU"
    fits = next((build for build in builds if has and build.driver <= _major(has)), None)
    if fits:
        return f"Install PyTorch's {fits.name} build, which fits ({READ_ON})"
    return f"Install driver {builds[0].driver} or newer and PyTorch's {builds[0].name} build ({READ_ON})"


def _major(version: str) -> int:
    return int(version.partition(".")[0])


@functools.cache
def _refusal() -> str:
    """Why a GPU that PyTorch sees does not compute; "" where it does."""
    error = _error_of(lambda: (torch.ones(8, device="cuda") + 1).sum().item())
    if "no kernel image" not in error:
        return error and f"PyTorch {torch.__version__} says: {error}"
    capability = torch.cuda.get_device_capability()
    name, number = torch.cuda.get_device_name(), ".".join(map(str, capability))
    return (f"this PyTorch ({torch.__version__}) has no code for {name}, of compute capability {number}. "
            f"{_advice(driver(), capability)}")  # fmt: skip


@functools.cache
def differs_from_cpu(where: torch.device) -> str:
    """Why the device cannot stand in for the CPU: learning fails there, or ends elsewhere; "" where it can."""
    learnt = {}
    for place in (torch.device("cpu"), where):
        if error := _error_of(lambda place=place: learnt.update({place.type: two_steps(place)})):
            return f"PyTorch {torch.__version__} says: {error}"
    pairs = zip(learnt["cpu"], learnt[where.type], strict=True)
    far = max(float((cpu - other).norm() / cpu.norm()) for cpu, other in pairs)
    return "" if far <= TOLERANCE else f"two steps of learning end {100 * far:.0f} % away from where the CPU's do"


def two_steps(where: torch.device) -> list[torch.Tensor]:
    """What a small network makes of two steps on noise: its logits, and how far each filter moved; on the CPU."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network, x_BCHW = AttentionUNet(4), torch.randn(2, 3, 32, 32)
    filters = [p.detach().clone() for p in network.parameters() if p.ndim > 1]
    network, x_BCHW = network.to(where), x_BCHW.to(where)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4, fused=True)
    for _ in range(2):
        optimizer.zero_grad()
        (network(x_BCHW) - 1).square().mean().backward()
        optimizer.step()
    with torch.inference_mode():
        logits = network.eval()(x_BCHW.contiguous(memory_format=torch.channels_last)).cpu()
    moved = [p.detach().cpu() for p in network.parameters() if p.ndim > 1]
    return [logits, *(now - then for now, then in zip(moved, filters, strict=True))]


def _error_of(act) -> str:
    """The first line of the error that `act()` raises, or ""."""
    try:
        act()
    except Exception as error:
        return (str(error).strip() or type(error).__name__).partition("\n")[0][:300]
    return ""
