"""A real S3 and a real MLflow server, each behind a proxy that does harm; MLflow's own artifacts go through it too."""

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from pipelines.local import services
from tests.faults.proxy import Proxy

IMPATIENT = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20", "IMAGE_TAG": "torture:1"}
"""A minute's outage is played in seconds."""


class Faulty(NamedTuple):
    s3: Proxy
    mlflow: Proxy

    def heal(self) -> None:
        for proxy in self:
            proxy.gone, proxy.plan = False, lambda request: None


@contextlib.contextmanager
def behind_proxies(state: Path) -> Iterator[Faulty]:
    """Started with their data in `state`, the environment pointing at the proxies; stopped at the end."""
    (state / "logs").mkdir(parents=True)
    s3, mlflow = services.S3(state), services.MLflow(state)
    with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as stack:
        forget_services(patch)
        for name in ("S3_PORT", "MLFLOW_PORT"):
            patch.setenv(name, free_port())
        stack.callback(s3.down)
        stack.callback(mlflow.down)
        at = s3.up()
        faulty_s3 = stack.enter_context(Proxy(at["S3_ENDPOINT_URL"]))
        at |= {"S3_ENDPOINT_URL": faulty_s3.url}
        at |= mlflow.up(at)
        faulty_mlflow = stack.enter_context(Proxy(at["MLFLOW_TRACKING_URI"]))
        for name, value in {**at, "MLFLOW_TRACKING_URI": faulty_mlflow.url, **IMPATIENT}.items():
            patch.setenv(name, value)
        yield Faulty(faulty_s3, faulty_mlflow)


def forget_services(patch: pytest.MonkeyPatch) -> None:
    """Remove from the environment what names servers."""
    for name in list(os.environ):
        if name.startswith(("AWS_", "S3_", "MLFLOW_", "KFP_RUN_ID")):
            patch.delenv(name)


def free_port() -> str:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return str(s.getsockname()[1])
