"""Where a command works: on this machine, on the kind cluster of this machine, or on another cluster."""

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from components.core.step import StepError

LOCAL, KIND, CLUSTER = ALL = ("local", "kind", "cluster")


@dataclass(frozen=True)
class Target:
    """`run(data=, preset=, settings=, state=)` runs the pipeline there; its exit code, None for 0.

    `with tracking(state) as uri:` inside, MLflow answers at `uri`, and MLFLOW_TRACKING_URI names it.
    `with services(state) as uri:` the same, and the S3 variables name the storage of the same place, with its ledger.
    """

    name: str
    run: Callable[..., int | None]
    tracking: Callable[[Path], contextlib.AbstractContextManager[str]]
    services: Callable[[Path], contextlib.AbstractContextManager[str]]


def require_usable(name: str, usable: tuple[str, ...] = ALL) -> None:
    """Raise StepError if the target does not exist, or the command cannot use it."""
    if name not in ALL:
        raise StepError(f"unknown TARGET={name}. Targets: {', '.join(usable)}.")
    if name not in usable:
        raise StepError(f"TARGET={name} is of no use to this command. It takes TARGET={' or '.join(usable)}.")


def as_argument(name: str) -> str:
    """Return what a printed command needs to use the same target: " TARGET=kind", or "" on this machine."""
    return "" if name == LOCAL else f" TARGET={name}"


def target(name: str) -> Target:
    """The target of this name.

    Raises:
        StepError: there is none.
    """
    require_usable(name)
    if name == LOCAL:
        from pipelines.local.run_locally import pipeline_run

        return Target(name, _with_environment_as_before(pipeline_run), _local, _local)
    from pipelines.cluster.run_on_cluster import pipeline_run as run_on_cluster

    return Target(
        name,
        _with_environment_as_before(partial(run_on_cluster, name)),
        lambda state: _on_cluster(name, state, with_storage=False),
        lambda state: _on_cluster(name, state, with_storage=True),
    )


def _with_environment_as_before(pipeline_run: Callable[..., int | None]) -> Callable[..., int | None]:
    def run(**what) -> int | None:
        with environment_as_before():
            return pipeline_run(**what)

    return run


@contextlib.contextmanager
def _local(state: Path) -> Iterator[str]:
    from pipelines.local.run_locally import use_services

    with environment_as_before():
        yield use_services(state)["MLFLOW_TRACKING_URI"]


@contextlib.contextmanager
def _on_cluster(name: str, state: Path, with_storage: bool) -> Iterator[str]:
    from pipelines.cluster.connect import connect
    from pipelines.cluster.storage import use_storage

    with environment_as_before(), connect(name, kfp=False) as cluster:
        os.environ.pop("MLFLOW_REGISTRY_URI", None)  # of another place
        os.environ["MLFLOW_TRACKING_URI"] = cluster.mlflow_url
        os.environ.setdefault("SCRATCH_DIR", str(state / "scratch"))
        if with_storage:
            use_storage(cluster)
        yield cluster.mlflow_url


@contextlib.contextmanager
def environment_as_before() -> Iterator[None]:
    """Put the environment back at the end: the next one to ask for the services looks again whether they run."""
    before = dict(os.environ)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
