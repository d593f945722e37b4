"""The application that uvicorn serves: MLflow's own, behind the login."""

import os
from typing import Any

TOKEN = "MLFLOW_TRACKING_TOKEN"  # noqa: S105 - its name
"""The variable with the login, for the server and, as MLflow defines it, for its clients."""
MIN_TOKEN_LENGTH = 32


def create_app() -> Any:
    """Return the ASGI application; TOKEN and MLflow's own variables configure it.

    Raises:
        SystemExit: the token is missing or too short.
    """
    token = os.environ.get(TOKEN, "")
    if len(token) < MIN_TOKEN_LENGTH:
        raise SystemExit(
            f"{TOKEN} has {len(token)} characters; at least {MIN_TOKEN_LENGTH} random ones are needed. "
            "On a cluster, run manifests/create-secrets.sh."
        )
    from mlflow.server import ARTIFACTS_DESTINATION_ENV_VAR
    from mlflow.server.fastapi_app import app
    from mlflow.server.fastapi_security import HostValidationMiddleware, get_allowed_hosts

    from dwi_stroke_mlflow import locations
    from dwi_stroke_mlflow.login import Login

    locations.allow_only(os.environ[ARTIFACTS_DESTINATION_ENV_VAR])
    return HostValidationMiddleware(Login(app, token), get_allowed_hosts())
