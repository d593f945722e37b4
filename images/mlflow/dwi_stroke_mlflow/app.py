"""What uvicorn serves: MLflow's own application behind the login."""

import os

TOKEN = "MLFLOW_TRACKING_TOKEN"  # noqa: S105 - its name
"""The variable that holds the login: the same for the server and, by MLflow's own rule, for its clients."""
FEWEST_CHARACTERS = 32


def create_app():
    """Return the ASGI application; TOKEN and MLflow's own variables configure it.

    Raises:
        SystemExit: there is no token, or a short one.
    """
    token = os.environ.get(TOKEN, "")
    if len(token) < FEWEST_CHARACTERS:
        raise SystemExit(
            f"{TOKEN} has {len(token)} characters, and {FEWEST_CHARACTERS} random ones or more are needed. "
            "On a cluster, run manifests/create-secrets.sh."
        )
    from mlflow.server import ARTIFACTS_DESTINATION_ENV_VAR
    from mlflow.server.fastapi_app import app
    from mlflow.server.fastapi_security import HostValidationMiddleware, get_allowed_hosts

    from dwi_stroke_mlflow import locations
    from dwi_stroke_mlflow.login import Login

    locations.keep_to(os.environ[ARTIFACTS_DESTINATION_ENV_VAR])
    return HostValidationMiddleware(Login(app, token), get_allowed_hosts())
