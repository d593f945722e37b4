"""Where a pipeline can run: on this machine, each step in a container of it, on a cluster."""

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from components.core.step import StepError


@dataclass(frozen=True)
class Target:
    """`run(data=, preset=, settings=, state=)` runs the pipeline there; its exit code, None for 0.

    `with tracking(state) as uri:` inside, MLflow answers at `uri`.
    """

    name: str
    run: Callable[..., int | None]
    tracking: Callable[[Path], contextlib.AbstractContextManager[str]]


def target(name: str) -> Target:
    """The target of this name.

    Raises:
        StepError: there is none.
    """
    from pipelines.cluster.connect import TARGETS
    from pipelines.local.target import KINDS

    if name in KINDS:
        from pipelines.local.target import pipeline_run

        def run(**what) -> int | None:
            with _environment_as_before():
                return pipeline_run(**what, kind=KINDS[name])

        return Target(name, run, _local_tracking)
    if name in TARGETS:
        from pipelines.cluster.target import pipeline_run

        return Target(name, lambda **what: pipeline_run(name, **what), lambda state: _cluster_tracking(name))
    raise StepError(f"unknown TARGET={name}. Targets: {', '.join([*KINDS, *TARGETS])}.")


@contextlib.contextmanager
def _local_tracking(state: Path) -> Iterator[str]:
    from pipelines.local.target import use_services

    with _environment_as_before():
        yield use_services(state)["MLFLOW_TRACKING_URI"]


@contextlib.contextmanager
def _environment_as_before() -> Iterator[None]:
    """What the services here wrote into the environment goes: the next one to ask looks anew whether they run."""
    before = dict(os.environ)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextlib.contextmanager
def _cluster_tracking(name: str) -> Iterator[str]:
    from pipelines.cluster.connect import connect

    with connect(name) as cluster:
        yield cluster.mlflow_url
