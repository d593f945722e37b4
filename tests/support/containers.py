"""The local run with each step in a container of its image, as locked up as on a cluster."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from kfp import local
from kfp.local.docker_task_handler import DockerTaskHandler
from kfp.local.status import Status

from components.core.port_owner import OWN_PORTS
from components.core.step import StepError
from pipelines.cluster.kubernetes import Cluster, sources_tag
from pipelines.local.kfp_local import LocalRun
from pipelines.local.sandbox import HOST, UID, Sandbox

SERVICES = ("S3_ENDPOINT_URL", "MLFLOW_TRACKING_URI")


class ContainerRun(LocalRun):
    """Not root, a read-only root file system, /tmp in memory, no capability, no network but the two services."""

    target = "containers"

    def runner(self) -> local.DockerRunner:
        return local.DockerRunner()

    def image(self, step: str) -> str:
        """The train step has the trainer image, so that a run tries all of them."""
        return f"{Cluster.from_environment().registry}/{'trainer' if step == 'train' else 'components'}:{sources_tag()}"

    def execute(self, arguments: dict, pipeline_root: Path, cache_root: Path) -> None:
        """As in a local run.

        Raises:
            StepError: an engine, an image or a service that containers can use is missing.
        """
        _check_engine()
        for image in (self.image("ingest"), self.image("train")):
            if subprocess.run(["docker", "image", "inspect", image], capture_output=True).returncode:
                raise StepError(f"The image {image} is not built yet. Build it: make images")
        self.root = pipeline_root
        self.root.mkdir(parents=True, exist_ok=True)
        if not os.getuid():
            os.chown(self.root, UID, UID)
        super().execute(arguments, pipeline_root, cache_root)

    @contextlib.contextmanager
    def _watching(self) -> Iterator[None]:
        """Put our own way of starting a container in the place of kfp's, which loses the exit code of a quick one."""
        kfps = DockerTaskHandler.run

        def run(task: DockerTaskHandler) -> Status:
            command = self._command(task.image, task.full_command, task.env_vars)
            return Status.FAILURE if self._run_process(command, task.env_vars) else Status.SUCCESS

        name = f"dwi-stroke-{self.run_id}-{os.getpid()}"
        with Sandbox(name, self.image("ingest"), self._ports()) as self.sandbox, super()._watching():
            DockerTaskHandler.run = run
            try:
                yield
            finally:
                DockerTaskHandler.run = kfps

    def _command(self, image: str, command: list[str], variables: dict[str, str]) -> list[str]:
        """Values, some of them secret, come from the environment of the docker command; its arguments name them."""
        mlflows = [name for name in os.environ if name.startswith("MLFLOW_")]
        names = sorted({*self.environment, *variables, *self.lineage(), *mlflows, "PYTHONWARNINGS"} - {OWN_PORTS})
        return [
            "docker", "run", *self.sandbox.options, "--name", f"{self.sandbox.name}-{self.current}",
            *(f"--env={name}" for name in names), "--shm-size", "1g", "--volume", f"{self.root}:{self.root}",
            image, *command,
        ]  # fmt: skip

    def _ports(self) -> list[int]:
        urls = [urlsplit(self.environment.get(name, "")) for name in SERVICES]
        for name, url in zip(SERVICES, urls, strict=True):
            if url.hostname != HOST or not url.port:
                raise StepError(f"The steps' containers reach the embedded services alone. Unset {name} and its login.")
        return [url.port for url in urls]


def _check_engine() -> None:
    try:
        answer = subprocess.run(["docker", "info"], capture_output=True, text=True)
    except FileNotFoundError:
        raise StepError("Docker is needed and not installed: https://docs.docker.com/engine/install/") from None
    if answer.returncode:
        reason = answer.stderr.strip().splitlines()[-1:]
        raise StepError("\n".join(["Docker is installed, but its engine does not answer. Start it. It says:", *reason]))
