"""Run the compiled pipeline on this machine through kfp.local, and print its progress."""

import collections
import contextlib
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
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TextIO

from kfp import components, local
from kfp.dsl import PipelineTask
from kfp.local import subprocess_task_handler
from kfp.local.orchestrator import task_executor
from kfp.local.status import Status

from components.core.errors import StepError
from components.core.step import ERROR_MARK, SIGTERM_EXIT_CODE, plain
from pipelines.image_tags import ROOT, image
from pipelines.pipeline import STEP_HEADING, base_step, compile_to, steps_with

GRACE_SECONDS = 10
LAST_LINES = 15
CAUSE_OF_EXIT_CODE = {
    128 + signal.SIGKILL: "it was killed (SIGKILL), as a system does whose memory runs out. Give it more memory, or "
    "lower image_size, batch_size or base_channels.",
    SIGTERM_EXIT_CODE: "it was stopped (SIGTERM).",
    128 + signal.SIGBUS: "its memory or its disk is full (SIGBUS). Free some.",
}
"""For a step that ended without an error message of its own."""


@dataclass
class StepRun:
    """The end of one step: "succeeded", "failed" or "stopped", its seconds, and whether it came from cache."""

    state: str
    seconds: float
    cached: bool
    outputs: dict = field(default_factory=dict)


class StepFailed(StepError):
    """A step ended with an error; the message is the step's own."""


class LocalRun:
    """One run of the pipeline; `steps` fills as the run proceeds.

    kfp.local has no hooks, so three of its functions are replaced during a run: the one around each task (to see its
    start, its end and a cache hit), the one that inserts the path of Python (kfp's replaces every "python3" of the
    command) and the one that starts the process (to print its output at once, and to leave no process behind).
    """

    target = "local"

    def __init__(self, run_id: str, folder: Path, environment: dict[str, str], log: TextIO, folds: int = 1):
        self.run_id, self.folder, self.environment, self.log = run_id, folder, environment, log
        self.folds = folds
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

    def identification(self) -> dict[str, str]:
        """Return the variables that give a step the id of its run and the version of its code."""
        return {"KFP_RUN_ID": self.run_id, "IMAGE_TAG": self.image("train")}

    def execute(self, arguments: dict, pipeline_root: Path, cache_root: Path) -> None:
        """Compile and run the pipeline.

        Raises:
            StepFailed: a step failed; the message is the step's own.
        """
        definition = self.folder / "pipeline.yaml"
        images = {step: self.image(base_step(step)) for step in steps_with(self.folds)}
        compile_to(definition, images, _one_after_the_other(), folds=self.folds)
        workspace = self.folder / "tmp"
        workspace.mkdir(exist_ok=True)
        logging.disable(logging.INFO)
        try:
            with (
                _short_path(workspace) as self.temporary,
                contextlib.redirect_stdout(io.StringIO()),
                self._patched_kfp(),
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
                raise StepFailed("\n".join(self.error) or f"{name} failed without an error message")

    @contextlib.contextmanager
    def _patched_kfp(self) -> Iterator[None]:
        execute_task, handler = task_executor.execute_single_task, subprocess_task_handler
        original = handler.replace_python_executable, handler.run_local_subprocess

        def watched_task(**call):
            self.current, self.started_process, start = call["task_name"], False, time.perf_counter()
            self._print(f"[{len(self.steps) + 1}/{len(steps_with(self.folds))}] {self.current}")
            step = self.steps[self.current] = StepRun("stopped", 0.0, False)
            self.log.write(f"{STEP_HEADING} {self.current}\n")
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
            self._print(f"      {'from cache' if step.cached else f'{step.state} in {step.seconds:.1f} s'}")
            return outputs, status

        task_executor.execute_single_task = watched_task
        handler.replace_python_executable, handler.run_local_subprocess = with_python, self._run_process
        try:
            yield
        finally:
            task_executor.execute_single_task = execute_task
            handler.replace_python_executable, handler.run_local_subprocess = original

    def _run_process(self, full_command: list[str], env_vars: dict[str, str] | None = None) -> int:
        self.started_process = True
        environment = {
            **os.environ,
            **self.environment,
            **(env_vars or {}),
            **self.identification(),
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
        assert process.stdout is not None  # noqa: S101 - it is a pipe
        try:
            last: collections.deque[str] = collections.deque(maxlen=LAST_LINES)
            for line in self._step_lines(process.stdout, last):
                self._print(f"      {line}")
            if code := process.wait():
                code = 128 - code if code < 0 else code
                if cause := CAUSE_OF_EXIT_CODE.get(code):
                    self.error = self.error or [f"{self.current}: {cause} The same command continues from here."]
                self.error = self.error or [f"{self.current}: ended with exit code {code}; its last lines:", *last]
            return code
        finally:
            _end_group(process)

    def _step_lines(self, lines: IO[str], last: collections.deque[str]) -> Iterator[str]:
        """Yield the step's own lines; KFP's executor first prints a header and its whole input as JSON."""
        after_header = False
        for line in lines:
            line = plain(line.rstrip("\n"))
            self.log.write(line + "\n")
            last.append(line)
            if self.error or line.startswith(f"{ERROR_MARK} {self.current}: "):
                self.error.append(line.removeprefix(f"{ERROR_MARK} "))
            elif after_header and not line.startswith("Wrote executor output file"):
                yield line
            after_header = after_header or line == "}"
        self.log.flush()

    def _print(self, line: str) -> None:
        print(line, file=self.out, flush=True)


def _one_after_the_other() -> Callable[[str, PipelineTask], None]:
    """Return a function that puts the networks of a cross-validation in their order: here one step runs at a time."""
    trained: list[PipelineTask] = []

    def wait_for_earlier(step: str, task: PipelineTask) -> None:
        if base_step(step) == "train":
            task.after(*trained)
            trained.append(task)

    return wait_for_earlier


@contextlib.contextmanager
def _short_path(folder: Path) -> Iterator[str]:
    """Yield a short link to the folder: the path of a socket below it has room for 107 bytes at most.

    Files written there stay in the folder, which belongs to this run alone and is on a disk with room for them.
    """
    with contextlib.ExitStack() as stack:
        try:
            link = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dwi-")), "t")
            link.symlink_to(folder.resolve())
        except OSError:  # the system's temporary folder is full, or cannot be written
            link = folder
        yield str(link)


def with_python(command: list[str], python: str) -> list[str]:
    """Return a step's command, `sh -ec SCRIPT CODE ARGUMENTS`, with `python` as the python3 of its script alone."""
    shell, options, script, *rest = command
    return [shell, options, script.replace("python3", shlex.quote(python)), *rest]


def _end_group(process: subprocess.Popen) -> None:
    """End the rest of a step's process group: with SIGTERM where the step still runs, then with SIGKILL."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_SECONDS)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
