"""Run the pipeline, and open its services, on a target: this machine or a cluster."""

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from components.registry import mlflow_requests  # noqa: F401 - its defaults of MLflow's client stay in the environment
from pipelines.environment import environment_as_before
from pipelines.target_name import LOCAL, require_usable


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
