import socket

import pytest

from pipelines.local import services

SERVICE_VARIABLES = ("AWS_", "S3_", "MLFLOW_", "KFP_RUN_ID")


@pytest.fixture(scope="session")
def servers(tmp_path_factory):
    """The environment of a real S3 and a real MLflow server, for this session's tests."""
    state = tmp_path_factory.mktemp("servers")
    with pytest.MonkeyPatch.context() as patch:
        _forget_services(patch)
        for name in ("S3_PORT", "MLFLOW_PORT"):
            patch.setenv(name, _free_port())
        environment = services.up(state)
        yield environment
        services.down(state)


@pytest.fixture
def servers_here(servers, monkeypatch):
    """This process's environment points at them."""
    _forget_services(monkeypatch)
    for name, value in servers.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def free_port():
    return _free_port


def _forget_services(patch) -> None:
    import os

    for name in list(os.environ):
        if name.startswith(SERVICE_VARIABLES):
            patch.delenv(name)


def _free_port() -> str:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return str(s.getsockname()[1])
