"""Run the pipeline here with each step in a container of its image, with as few rights as on a cluster.

`make test-containers` and tests/e2e/test_containers.py: python -m tests.support.containers run --data ...
"""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from kfp import local
from kfp.local.docker_task_handler import DockerTaskHandler
from kfp.local.status import Status

from components.core.errors import StepError
from components.core.port_owner import OWN_PORTS
from pipelines.__main__ import main
from pipelines.cluster.kubernetes import ClusterSettings
from pipelines.environment import settle_python
from pipelines.image_tags import sources_tag
from pipelines.local import run_locally
from pipelines.local.kfp_local import LocalRun
from pipelines.ports import HOST
from tests.support.sandbox import UID, Sandbox

SERVICES = ("S3_ENDPOINT_URL", "MLFLOW_TRACKING_URI")


class ContainerRun(LocalRun):
    """Each step runs without root on a read-only file system, has /tmp in memory, and reaches the services alone."""

    target = "containers"

    def runner(self) -> local.DockerRunner:
        return local.DockerRunner()

    def image(self, step: str) -> str:
        """Return the image of a step: the train step runs in the trainer image, so that a run uses both images."""
        registry, name = ClusterSettings.from_environment().registry, "trainer" if step == "train" else "components"
        return f"{registry}/{name}:{sources_tag()}"

    def execute(self, arguments: dict, pipeline_root: Path, cache_root: Path) -> None:
        """Run the pipeline as on this machine.

        Raises:
            StepError: Docker or an image is missing, or the services are not the embedded ones.
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
    def _patched_kfp(self) -> Iterator[None]:
        """Start the containers ourselves: kfp loses the exit code of one that ends quickly."""
        original = DockerTaskHandler.run

        def run(task: DockerTaskHandler) -> Status:
            command = self._command(task.image, task.full_command, task.env_vars)
            return Status.FAILURE if self._run_process(command, task.env_vars) else Status.SUCCESS

        name = f"dwi-stroke-{self.run_id}-{os.getpid()}"
        with Sandbox(name, self.image("ingest"), self._ports()) as self.sandbox, super()._patched_kfp():
            DockerTaskHandler.run = run
            try:
                yield
            finally:
                DockerTaskHandler.run = original

    def _command(self, image: str, command: list[str], variables: dict[str, str]) -> list[str]:
        """Return the docker command; the values of its variables, some of them secret, are in the environment."""
        mlflow_variables = [name for name in os.environ if name.startswith("MLFLOW_")]
        ours = {*self.environment, *variables, *self.identification(), "PYTHONWARNINGS"}
        names = sorted({*ours, *mlflow_variables} - {OWN_PORTS})
        return [
            "docker", "run", *self.sandbox.options, "--name", f"{self.sandbox.name}-{self.current}",
            *(f"--env={name}" for name in names), "--shm-size", "1g", "--volume", f"{self.root}:{self.root}",
            image, *command,
        ]  # fmt: skip

    def _ports(self) -> list[int]:
        urls = [urlsplit(self.environment.get(name, "")) for name in SERVICES]
        for name, url in zip(SERVICES, urls, strict=True):
            if url.hostname != HOST or not url.port:
                raise StepError(
                    f"The containers of the steps reach the embedded services only. Unset {name} and its login."
                )
        return [url.port for url in urls]


def _check_engine() -> None:
    try:
        answer = subprocess.run(["docker", "info"], capture_output=True, text=True)
    except FileNotFoundError:
        raise StepError("Docker is needed and not installed: https://docs.docker.com/engine/install/") from None
    if answer.returncode:
        reason = answer.stderr.strip().splitlines()[-1:]
        raise StepError(
            "\n".join(["Docker is installed, but its engine does not answer. Start it. Its error:", *reason])
        )


if __name__ == "__main__":
    settle_python()
    run_locally.LocalRun = ContainerRun  # type: ignore[misc] # a step's container in the place of its process
    sys.exit(main())
