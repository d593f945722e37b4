"""Train with several processes on this machine, started by torchrun."""

import os
import re
import subprocess
import sys
from collections.abc import Sequence

from components.core.errors import StepError
from components.core.machine import cpus
from components.core.settings import Settings
from components.core.step import ended_by_sigterm
from components.train import torchrun_worker
from components.train.failure_cause import MARK, first_cause
from components.train.training_inputs import TrainingPaths

EXIT_CODE = re.compile(r"exitcode\s*: (-?\d+)")
"""Matches torchrun's report of a failed process."""


def torchrun(
    processes: int, paths: TrainingPaths, settings: Settings, rendezvous: Sequence[str] = ("--standalone",)
) -> None:
    """Run `train` in several processes, each with its share of every batch.

    `rendezvous` are torchrun's options to find the processes of other machines.

    Raises:
        StepError: a process failed, or the batch is too small to share.
    """
    if settings.batch_size < processes:
        raise StepError(f"batch_size={settings.batch_size} is too small for {processes} GPUs. "
                        f"Raise it to {processes} or more, or use fewer GPUs.")  # fmt: skip
    command = [sys.executable, "-m", "torch.distributed.run", *rendezvous, f"--nproc-per-node={processes}"]
    command += ["-m", torchrun_worker.__name__, torchrun_worker.arguments(paths, settings)]
    environment = {"OMP_NUM_THREADS": str(max(1, cpus() // processes)), **os.environ}
    errors: list[str] = []
    exit_codes: list[int] = []
    with ended_by_sigterm():
        started = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", env=environment
        )
        try:
            for line in started.stdout or ():
                shown, _, error = line.partition(MARK)
                if not errors:  # later lines show how torchrun ends the other processes
                    print(shown, end="", flush=True)
                if error:
                    errors.append(error.strip())
                exit_codes += map(int, EXIT_CODE.findall(line))
            code = started.wait()
        finally:
            started.terminate()
            started.wait()
    if code:
        cause = first_cause(errors, exit_codes)
        raise StepError(cause or f"torchrun ended with exit code {code}; the lines above show why")
