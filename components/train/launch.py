"""Train with what is here: in this process, with one for each of several GPUs through torchrun, or on several nodes."""

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from components.core.machine import cpus
from components.core.settings import Settings
from components.core.step import ERROR_MARK, StepError, ended_by_sigterm
from components.train import torchrun_worker
from components.train.data_workers import AGAIN
from components.train.train import train

MARK = f"{ERROR_MARK} train: "
PEER_IS_GONE = re.compile(r"unexpected Dist\w+Error|closed by peer|reset by peer|Broken pipe")
"""In the error of a process whose peer has ended: the cause is with the peer."""
EXIT_CODE = re.compile(r"exitcode\s*: (-?\d+)")
"""In what torchrun says of its processes; negative where a signal ended one."""


def launch(paths: list[Path], settings: Settings) -> None:
    """`train(*paths, settings)` on every GPU of this machine; on a CPU, or one GPU, in this process.

    With TRAIN_NODES above 1 on so many nodes of the cluster, and not here.

    Raises:
        StepError: as `train`.
    """
    if int(os.environ.get("TRAIN_NODES", 1)) > 1:
        from components.train.nodes import train_on_nodes  # with the Kubernetes client, which nothing else here needs

        train_on_nodes(paths, settings)
        return
    gpus = torch.cuda.device_count()
    if gpus < 2:
        train(*paths, settings)
    else:
        torchrun(gpus, paths, settings)


def torchrun(processes: int, paths: list[Path], settings: Settings, rendezvous=("--standalone",)) -> None:
    """`train` in so many processes on this machine, each with its share of every batch.

    `rendezvous` are the options by which they find those of other machines, if there are any.

    Raises:
        StepError: as `train` in any of them, or one of them ended without a word.
    """
    if settings.batch_size < processes:
        raise StepError(f"batch_size={settings.batch_size} gives {processes} GPUs nothing to share. "
                        f"Raise it to {processes} or more, or take fewer GPUs.")  # fmt: skip
    command = [sys.executable, "-m", "torch.distributed.run", *rendezvous, f"--nproc-per-node={processes}"]
    environment = {"OMP_NUM_THREADS": str(max(1, cpus() // processes)), **os.environ}
    with ended_by_sigterm(), _ended(
        subprocess.Popen(
            [*command, "-m", torchrun_worker.__name__, torchrun_worker.arguments(paths, settings)],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", env=environment,
        )
    ) as started:  # fmt: skip
        reasons, codes = [], []
        for line in started.stdout:
            shown, _, reason = line.partition(MARK)
            if not reasons:  # what comes after the first reason is how torchrun ends the others
                print(shown, end="", flush=True)
            if reason:
                reasons.append(reason.strip())
            codes += map(int, EXIT_CODE.findall(line))
        code = started.wait()
    if code:
        raise StepError(_why(reasons, codes) or f"torchrun ended with exit code {code}; the lines above say why")


def _why(reasons: list[str], codes: list[int]) -> str:
    """Why the first process ended; the errors of the others are that it is gone, and torchrun ends them by SIGTERM."""
    own = [reason for reason in reasons if not PEER_IS_GONE.search(reason)]
    unsaid = [code for code in codes if code not in (0, 1, -signal.SIGTERM)]
    if own or not unsaid:
        return next(iter(own + reasons), "")
    if unsaid[0] == -signal.SIGKILL:
        return ("one of the training processes was killed (SIGKILL), as a system does whose memory runs out. Give the "
                "step more memory, or lower batch_size or image_size.")  # fmt: skip
    how = signal.Signals(-unsaid[0]).name if unsaid[0] < 0 else f"exit code {unsaid[0]}"
    return f"one of the training processes ended ({how}); the lines above may say why. {AGAIN}"


@contextlib.contextmanager
def _ended(torchrun: subprocess.Popen) -> Iterator[subprocess.Popen]:
    """Inside it runs; at the end it is told to stop where it still does, and does so with its processes."""
    try:
        yield torchrun
    finally:
        torchrun.terminate()
        torchrun.wait()
