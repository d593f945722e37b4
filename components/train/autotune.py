"""Choose number format and tensor layout: the fastest ones on this machine, by measurement."""

import time

import torch
from torch import nn

from components.model.inference import autocast
from components.model.network import AttentionUNet

CPU_CANDIDATES = [("float32", "contiguous"), ("float32", "channels_last"), ("bfloat16", "channels_last")]
TRIAL_SIDE, TRIAL_BATCH, TRIAL_STEPS = 96, 4, 2
MEMORY_FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


def choose(
    device: torch.device, base_channels: int, precision: str, memory_format: str, norm: str = "batch"
) -> tuple[str, str]:
    """Return precision and memory format to train with; values other than "auto" are kept.

    NVIDIA GPU: bfloat16 (float16 if it has no bfloat16), channels last. Apple GPU: float32 and contiguous, the only
    format that was compared with the CPU (`differs_from_cpu`). CPU: the fastest in a few training steps of the same
    network on small noise.
    """
    if device.type == "mps":
        fastest = [("float32", "contiguous")]
    elif device.type == "cuda":
        fastest = [
            ("bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16", "channels_last")
        ]
    else:
        fastest = CPU_CANDIDATES
    fits = [(p, m) for p, m in fastest if precision in ("auto", p) and memory_format in ("auto", m)]
    if not fits:
        plain = fastest[0][0] if device.type == "cuda" else "float32"
        return (
            plain if precision == "auto" else precision,
            "channels_last" if memory_format == "auto" else memory_format,
        )
    return (
        fits[0] if len(fits) == 1 else min(fits, key=lambda f: trial_seconds(device, base_channels, f[0], f[1], norm))
    )


def trial_seconds(
    device: torch.device, base_channels: int, precision: str, memory_format: str, norm: str = "batch"
) -> float:
    """Return the seconds of the fastest of a few training steps on noise."""
    with torch.random.fork_rng():
        network = AttentionUNet(base_channels, norm=norm)
        network.to(device, memory_format=MEMORY_FORMATS[memory_format])  # type: ignore[call-overload]  # as in Learner
        x_BCHW = torch.randn(TRIAL_BATCH, 3, TRIAL_SIDE, TRIAL_SIDE, device=device)
    x_BCHW = x_BCHW.contiguous(memory_format=MEMORY_FORMATS[memory_format])
    seconds = []
    for _ in range(1 + TRIAL_STEPS):
        start = time.perf_counter()
        with autocast(device, precision):
            out = network(x_BCHW)
        nn.functional.softplus(out.float()).mean().backward()
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])
