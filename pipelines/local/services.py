"""The services of a run on this machine: an S3 server (rclone) and MLflow, on loopback only.

    up(Path(".local"))      starts the services that do not run, returns the environment of the steps
    status(Path(".local"))  prints one line per service
    down(Path(".local"))    stops both; data, logs and credentials stay

A user with servers of their own names them in the usual variables (`S3_ENDPOINT_URL`, with the login in `AWS_*`;
`MLFLOW_TRACKING_URI`). Then those are used, and none is started here.
"""

import fcntl
from pathlib import Path
from typing import TextIO

from components.core import port_owner
from components.core.errors import StepError
from components.core.loopback import around_proxy
from pipelines import environment
from pipelines.file_lock import lock
from pipelines.local.mlflow_server import MLflow
from pipelines.local.s3_server import S3


def up(state: Path) -> dict[str, str]:
    """Start the services that do not run, wait until they answer, and return the environment of the steps.

    Raises:
        StepError: a service does not start, or the user's own does not answer.
    """
    environment.settle()
    with _lock(state):
        s3, mlflow = S3(state), MLflow(state)
        settings = s3.up()
        both = settings | mlflow.up(settings)
        processes = s3.in_use(), mlflow.in_use()
        own_ports = " ".join(str(process.port) for process in processes if process)
        proxy = around_proxy(both["S3_ENDPOINT_URL"], both["MLFLOW_TRACKING_URI"])
        return both | proxy | {port_owner.OWN_PORTS: own_ports}


def down(state: Path) -> None:
    """Stop the services that `up` started, and no other."""
    with _lock(state):
        MLflow(state).down()
        S3(state).down()


def status(state: Path) -> bool:
    """Print one line per service; return whether both answer."""
    return all([S3(state).status(), MLflow(state).status()])


def _lock(state: Path) -> TextIO:
    """Return an open file that makes any other `up` or `down` wait until it is closed."""
    try:
        (state / "logs").mkdir(mode=0o700, parents=True, exist_ok=True)
        state.chmod(0o700)
        file = (state / "services.lock").open("w")
    except OSError as error:
        advice = f"Change the owner of {state} to yourself, remove it, or name another folder: STATE=/folder/of/yours"
        raise StepError(f"cannot write: {error}. {advice}") from error
    lock(file, fcntl.LOCK_EX)
    return file
