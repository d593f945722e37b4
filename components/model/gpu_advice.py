"""Name the device, and explain why a GPU of this machine is not used and what to install."""

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import torch

from components.model.device import cuda_error, device, differs_from_cpu, first_line

DEVICES = Path("/dev")
DRIVER_FILE = Path("/proc/driver/nvidia/version")
READ_ON = 'docs/troubleshooting.md, "An older GPU or driver"'


@dataclass(frozen=True)
class Build:
    """A build of PyTorch: its CUDA version, and the oldest driver and GPU (compute capability) that it supports."""

    name: str
    cuda: str
    driver: int
    capability: tuple[int, int]


BUILDS = (Build("cu130", "13.0", 580, (7, 5)), Build("cu126", "12.6", 525, (5, 0)))
"""Newest first, of PyTorch 2.13. Drivers: "Minor Version Compatibility", table 1, in NVIDIA's CUDA compatibility guide
(docs.nvidia.com/deploy/cuda-compatibility): 580 for CUDA 13, 525 for CUDA 12. GPUs: "PyTorch CUDA Support Matrix" in
PyTorch's RELEASE.md, for x86-64 (on arm64 cu126 needs 8.0)."""


def device_name(where: torch.device) -> str:
    """Return the device's name: "NVIDIA A100-SXM4-40GB", "Apple GPU (mps)", "cpu, 4 threads"."""
    if where.type == "cuda":
        return torch.cuda.get_device_name()
    return "Apple GPU (mps)" if where.type == "mps" else f"cpu, {torch.get_num_threads()} threads"


def describe_device() -> str:
    """Return the device's name, and why this machine's GPU is not used."""
    return "; ".join(filter(None, (device_name(device()), unused_gpu())))


def unused_gpu() -> str:
    """Return why this machine's GPU is not used, and what to do; "" if there is no GPU, or it is used."""
    if device().type != "cpu":
        return ""
    if torch.backends.mps.is_available():
        return f"Apple's GPU (mps) is not used: {differs_from_cpu(torch.device('mps'))}"
    return f"the GPU here is not used: {_why_no_cuda()}" if nvidia_gpu() else ""


def nvidia_gpu() -> bool:
    """Return whether this machine or container has an NVIDIA GPU, even if PyTorch cannot use it."""
    return any(DEVICES.glob("nvidia[0-9]*")) or ((DEVICES / "dxg").exists() and bool(driver()))  # dxg: of Windows (WSL)


def driver() -> str:
    """Return the version of NVIDIA's driver, such as "535.183.01"; "" if it is unknown."""
    try:
        text = DRIVER_FILE.read_text()
    except OSError:
        ask = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        try:
            text = subprocess.run(ask, capture_output=True, text=True, timeout=30).stdout
        except (OSError, subprocess.TimeoutExpired):
            return ""
    found = re.search(r"\b\d{3}\.\d+(\.\d+)?\b", text)
    return found[0] if found else ""


def _why_no_cuda() -> str:
    """Return why PyTorch does not use the NVIDIA GPU, and what to do."""
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
    try:
        torch.cuda.init()
        says = "nothing"
    except Exception as error:
        says = first_line(error)
    return f"PyTorch {torch.__version__} (CUDA {built}, driver {has or 'unknown'}) says: {says}"


def _advice(has: str, capability: tuple[int, int] | None = None) -> str:
    """Return which build of PyTorch to install for the driver and the GPU."""
    builds = [build for build in BUILDS if capability is None or build.capability <= capability]
    if not builds:
        return "No build of it has. Take another GPU"
    fits = next((build for build in builds if has and build.driver <= _major(has)), None)
    if fits:
        return f"Install PyTorch's {fits.name} build, which fits ({READ_ON})"
    return f"Install driver {builds[0].driver} or newer and PyTorch's {builds[0].name} build ({READ_ON})"


def _major(version: str) -> int:
    return int(version.partition(".")[0])


def _refusal() -> str:
    """Return why a GPU that PyTorch finds does not compute; "" if it does."""
    error = cuda_error()
    if "no kernel image" not in error:
        return error and f"PyTorch {torch.__version__} says: {error}"
    capability = torch.cuda.get_device_capability()
    name, number = torch.cuda.get_device_name(), ".".join(map(str, capability))
    return (f"this PyTorch ({torch.__version__}) has no code for {name}, of compute capability {number}. "
            f"{_advice(driver(), capability)}")  # fmt: skip
