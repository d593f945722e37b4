"""The CPUs and GPUs that this process may use."""

import os
from pathlib import Path

from components.core.errors import StepError

CGROUP = Path("/sys/fs/cgroup")


def cpus() -> int:
    """Return the number of CPUs that this process may use: its affinity, or a container's lower limit."""
    mine = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota()
    return mine if quota is None else min(mine, max(1, round(quota)))


def _quota() -> float | None:
    """Return the CPUs of the container's limit, from cgroup v2 or v1; None without a limit."""
    try:
        if (limits := CGROUP / "cpu.max").exists():
            quota, period = limits.read_text().split()
        else:
            quota, period = ((CGROUP / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
    except OSError:  # not in a container, or not Linux
        return None
    return int(quota) / int(period) if quota.strip() not in ("max", "-1") else None


def asked_gpus() -> int:
    """Return the number of GPUs that the user asked for: TRAIN_GPUS in a cluster's train step, GPUS on a laptop.

    Raises:
        StepError: GPUS is not a whole number.
    """
    asked = os.environ.get("TRAIN_GPUS") or os.environ.get("GPUS") or "0"
    if not asked.isdecimal():
        raise StepError(f"GPUS={asked} is not a whole number. Set it to how many GPUs to train on, or leave it out.")
    return int(asked)
