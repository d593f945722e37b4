"""Choose the device of a network: a GPU that computes what the CPU computes, else the CPU."""

import functools

import torch

from components.model.network import AttentionUNet

TOLERANCE = 0.05
"""Largest relative difference from the CPU after two training steps: float32 rounding gives 0.01, bfloat16 0.8."""


def device() -> torch.device:
    """Return an NVIDIA GPU, else an Apple GPU that gives the results of the CPU, else the CPU."""
    if torch.cuda.is_available() and not cuda_error():
        return torch.device("cuda")
    if torch.backends.mps.is_available() and not differs_from_cpu(torch.device("mps")):
        return torch.device("mps")
    return torch.device("cpu")


@functools.cache
def cuda_error() -> str:
    """Return the error of a small sum on the GPU that PyTorch finds; "" if it computes."""
    try:
        (torch.ones(8, device="cuda") + 1).sum().item()
    except Exception as error:
        return first_line(error)
    return ""


@functools.cache
def differs_from_cpu(where: torch.device) -> str:
    """Return why the device cannot replace the CPU: training fails, or has other results; "" if it can."""
    try:
        ours, others = two_steps(torch.device("cpu")), two_steps(where)
    except Exception as error:
        return f"PyTorch {torch.__version__} says: {first_line(error)}"
    pairs = zip(ours, others, strict=True)
    far = max(float((cpu - other).norm() / cpu.norm()) for cpu, other in pairs)
    return "" if far <= TOLERANCE else f"two steps of learning end {100 * far:.0f} % away from where the CPU's do"


def two_steps(where: torch.device) -> list[torch.Tensor]:
    """Train a small network for two steps on noise; return its logits and the change of each filter, on the CPU."""
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


def first_line(error: Exception) -> str:
    """Return the first line of an error's text, or its class if it has no text."""
    return (str(error).strip() or type(error).__name__).partition("\n")[0][:300]
