"""Run the compiled pipeline here through kfp.local, and show it to a person while it goes on."""

import collections
import contextlib
import fcntl
import io
import logging
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from kfp import components, local
from kfp.local import subprocess_task_handler
from kfp.local.orchestrator import task_executor
from kfp.local.status import Status

from components.core.step import ERROR_MARK, SIGTERM_EXIT_CODE, StepError, plain
from pipelines.file_lock import lock
from pipelines.image_tags import ROOT, image
from pipelines.pipeline import STEPS, compile_to

GRACE_SECONDS = 10
LAST_LINES = 15
ENDED_BY = {
    128 + signal.SIGKILL: "it was killed (SIGKILL), as a system does whose memory runs out. Give it more memory, or "
    "lower image_size, batch_size or base_channels.",
    SIGTERM_EXIT_CODE: "it was told to stop (SIGTERM).",
    128 + signal.SIGBUS: "its memory or its disk is full (SIGBUS). Make room.",
}
"""What ended a step that had no time for a word of its own."""
STEP_MARK = "==="
"""In the log, the line before a step's first."""


@dataclass
class StepRun:
    """What became of one step: "succeeded", "failed" or "stopped", its seconds, and whether it came from cache."""

    state: str
    seconds: float
    cached: bool
    outputs: dict = field(default_factory=dict)


class StepFailed(StepError):
    """A step ended with an error; the message is the step's own."""


class LocalRun:
    """One run of the pipeline; `steps` fills as it goes on.

    kfp.local has no hooks, so while a run goes on three of its functions are replaced: the one around each
    task (to see its start, end and cache hit), the one that names the Python (kfp's replaces the word wherever
    it stands) and the one that starts its process (to show its output as it comes, and to leave no process behind).
    """

    target = "local"

    def __init__(self, run_id: str, folder: Path, environment: dict[str, str], log: TextIO):
        self.run_id, self.folder, self.environment, self.log = run_id, folder, environment, log
        self.steps: dict[str, StepRun] = {}
        self.out = sys.stdout
        self.current = ""
        self.started_process = False
        self.temporary = ""
        self.error: list[str] = []

    def runner(self) -> local.SubprocessRunner | local.DockerRunner:
        return local.SubprocessRunner(use_venv=False)

    def image(self, step: str) -> str:
        return image(step)

    def lineage(self) -> dict[str, str]:
        """What tells a step which run it belongs to and which code it is."""
        return {"KFP_RUN_ID": self.run_id, "IMAGE_TAG": self.image("train")}

    def execute(self, arguments: dict, pipeline_root: Path, cache_root: Path) -> None:
        """Compile and run.

        Raises:
            StepFailed: with the failing step's message.
        """
        definition = self.folder / "pipeline.yaml"
        compile_to(definition, {step: self.image(step) for step in STEPS})
        workspace = self.folder / "tmp"
        workspace.mkdir(exist_ok=True)
        logging.disable(logging.INFO)
        try:
            with (
                _by_a_short_path(workspace) as self.temporary,
                contextlib.redirect_stdout(io.StringIO()),
                self._watching(),
            ):
                local.init(
                    runner=self.runner(),
                    pipeline_root=str(pipeline_root),
                    workspace_root=str(workspace),
                    raise_on_error=False,
                    enable_caching=True,
                    cache_root=str(cache_root),
                )
                components.load_component_from_file(str(definition))(**arguments)
        finally:
            logging.disable(logging.NOTSET)
            shutil.rmtree(workspace, ignore_errors=True)
        for name, step in self.steps.items():
            if step.state == "failed":
                raise StepFailed("\n".join(self.error) or f"{name} failed without a word")

    @contextlib.contextmanager
    def _watching(self) -> Iterator[None]:
        execute_task, handler = task_executor.execute_single_task, subprocess_task_handler
        kfps = handler.replace_python_executable, handler.run_local_subprocess

        def watched_task(**call):
            self.current, self.started_process, start = call["task_name"], False, time.perf_counter()
            self._say(f"[{len(self.steps) + 1}/{len(STEPS)}] {self.current}")
            step = self.steps[self.current] = StepRun("stopped", 0.0, False)
            self.log.write(f"{STEP_MARK} {self.current}\n")
            try:
                outputs, status = execute_task(**call)
                step.state = "succeeded" if status == Status.SUCCESS else "failed"
                step.outputs = outputs
            finally:
                step.seconds = time.perf_counter() - start
                step.cached = step.state == "succeeded" and not self.started_process
                if step.state != "succeeded":
                    task_root = Path(call["pipeline_root"], call["pipeline_resource_name"], self.current)
                    shutil.rmtree(task_root, ignore_errors=True)
            self._say(f"      {'from cache' if step.cached else f'{step.state} in {step.seconds:.1f} s'}")
            return outputs, status

        task_executor.execute_single_task = watched_task
        handler.replace_python_executable, handler.run_local_subprocess = with_python, self._run_process
        try:
            yield
        finally:
            task_executor.execute_single_task = execute_task
            handler.replace_python_executable, handler.run_local_subprocess = kfps

    def _run_process(self, full_command: list[str], env_vars: dict[str, str] | None = None) -> int:
        self.started_process = True
        environment = {
            **os.environ,
            **self.environment,
            **(env_vars or {}),
            **self.lineage(),
            "PYTHONPATH": str(ROOT),
            "PYTHONUTF8": "1",
            "PYTHONUNBUFFERED": "1",
            "PYTHONWARNINGS": "ignore",
            "RUN_PID": str(os.getpid()),
            "TMPDIR": self.temporary,
        }
        process = subprocess.Popen(
            full_command,
            stdout=subprocess.PIPE,
            stderr=None if sys.stderr.isatty() else subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            env=environment,
            start_new_session=True,
        )
        try:
            last = collections.deque(maxlen=LAST_LINES)
            for line in self._without_kfp_chatter(process.stdout, last):
                self._say(f"      {line}")
            if code := process.wait():
                code = 128 - code if code < 0 else code
                if why := ENDED_BY.get(code):
                    self.error = self.error or [f"{self.current}: {why} The same command goes on from here."]
                self.error = self.error or [f"{self.current}: ended with exit code {code}; its last lines:", *last]
            return code
        finally:
            _end_group(process)

    def _without_kfp_chatter(self, lines: TextIO, last: collections.deque) -> Iterator[str]:
        """The step's own lines; KFP's executor first prints a header and its whole input as JSON."""
        own = False
        for line in lines:
            line = plain(line.rstrip("\n"))
            self.log.write(line + "\n")
            last.append(line)
            if self.error or line.startswith(f"{ERROR_MARK} {self.current}: "):
                self.error.append(line.removeprefix(f"{ERROR_MARK} "))
            elif own and not line.startswith("Wrote executor output file"):
                yield line
            own = own or line == "}"
        self.log.flush()

    def _say(self, line: str) -> None:
        print(line, file=self.out, flush=True)


@contextlib.contextmanager
def _by_a_short_path(folder: Path) -> Iterator[str]:
    """Inside, a link leads to the folder: the path of a socket below it has room for 107 bytes at most.

    What lies there stays in the folder, which is this run's own and has the room.
    """
    with contextlib.ExitStack() as at_the_end:
        try:
            link = Path(at_the_end.enter_context(tempfile.TemporaryDirectory(prefix="dwi-")), "t")
            link.symlink_to(folder.resolve())
        except OSError:  # the system's folder for temporary files is full, or not ours
            link = folder
        yield str(link)


def with_python(command: list[str], python: str) -> list[str]:
    """Return a step's command, `sh -ec SCRIPT CODE ARGUMENTS`, with `python` as the python3 of its script alone."""
    shell, options, script, *rest = command
    return [shell, options, script.replace("python3", shlex.quote(python)), *rest]


def _end_group(process: subprocess.Popen) -> None:
    """End whatever is left of a step's process group: politely where it still runs, then for good."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_SECONDS)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def is_running(state: Path) -> bool:
    """Whether a run holds the state folder now."""
    with contextlib.suppress(FileNotFoundError), (state / "run.lock").open() as file:
        try:
            lock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


@contextlib.contextmanager
def alone(state: Path) -> Iterator[None]:
    """Hold the state folder for one run; a second one is told to wait.

    Raises:
        StepError: another run holds it, or it lies where there are no locks.
    """
    state.mkdir(parents=True, exist_ok=True)
    with (state / "run.lock").open("a+") as file:
        try:
            lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise StepError(
                f"another pipeline run is going on here (process {file.read().strip()}). Wait until it ends."
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
