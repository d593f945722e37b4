"""The MLflow server of this machine, with a login, its database in SQLite and its artifacts in S3."""

import hashlib
import os
import secrets
import sys
from urllib.parse import unquote, urlsplit

from components.core.errors import StepError
from components.core.step import without_logins
from pipelines import environment
from pipelines.atomic_write import write_bytes
from pipelines.image_tags import ROOT
from pipelines.local import database
from pipelines.local.embedded_server import EmbeddedServer
from pipelines.ports import HOST

DATABASE = "mlflow.db"
LOGIN_APP = ROOT / "images" / "mlflow"
"""The app that adds a login to MLflow's server, as in the image of the cluster."""
SHORTEST_TOKEN = 32


class MLflow(EmbeddedServer):
    name, title, port, health, healthy = "mlflow", "MLflow", 5000, "/health", (200, 401, 403)
    address, prefix, package = environment.MLFLOW_ADDRESS, "MLFLOW_TRACKING_", "mlflow"
    command = r"mlflow[ .]server"

    def up(self, s3: dict[str, str]) -> dict[str, str]:
        """Start the server where it is missing, with its artifacts in this S3; return the environment of its clients.

        Raises:
            StepError: the server does not start, or the user's own does not answer.
        """
        if external := self.external():
            uri = external["MLFLOW_TRACKING_URI"]
            if problem := environment.about_address("MLFLOW_TRACKING_URI", uri):
                raise StepError(problem)
            if not self.answers(uri):
                advice = "Start it, correct the variable, or unset it to have one started here"
                raise StepError(f"no MLflow at {without_logins(uri)} (MLFLOW_TRACKING_URI). {advice}")
            self.report("external", uri)
            return external | _split_login(uri)
        command = [sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", "<port>"]
        # A relative path: the state folder's own path may contain characters that have a meaning in an address.
        command += ["--app-name", "dwi-stroke", "--workers", "1", "--backend-store-uri", f"sqlite:///{DATABASE}"]
        command += ["--artifacts-destination", f"s3://{s3['S3_BUCKET']}/mlflow"]
        command += ["--allowed-hosts", "127.0.0.1:*,localhost:*"]  # any port: also that of a tunnel
        variables = {name: value for name, value in s3.items() if name.startswith("AWS_")}
        if "S3_ENDPOINT_URL" in s3:
            variables["MLFLOW_S3_ENDPOINT_URL"] = s3["S3_ENDPOINT_URL"]
        for name in ("MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK"):
            variables[name] = os.environ.get(name, "true")
        variables["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"  # it starts eight processes, which take 1.4 GB
        variables |= {"PYTHONPATH": str(LOGIN_APP), "PYTHONDONTWRITEBYTECODE": "1"}
        login = {"MLFLOW_TRACKING_TOKEN": self._token()}
        # Without NETRC, clients would send a login of ~/.netrc instead of the token.
        return {"MLFLOW_TRACKING_URI": self.ensure_running(command, variables | login), **login, "NETRC": os.devnull}

    def release(self) -> str:
        code = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(LOGIN_APP.rglob("*.py"))))
        return f"{super().release()} {code.hexdigest()}"

    def prepare(self) -> None:
        """Upgrade the database that an older MLflow left."""
        path = self.data / DATABASE
        if database.is_older(path):
            self.report("upgrading", f"{path}, which an older MLflow wrote")
            self.report("upgraded", f"the database as it was before: {database.upgrade(path)}")

    def _token(self) -> str:
        """Return the login of this folder's MLflow; make it where it is missing. Only its owner may read the file."""
        path = self.records.with_name("mlflow-token")
        token = path.read_text().strip() if path.exists() else ""
        if len(token) < SHORTEST_TOKEN:  # missing, or cut off by a power cut
            token = secrets.token_urlsafe(SHORTEST_TOKEN)
            write_bytes(path, token.encode(), 0o600)
        return token


def _split_login(uri: str) -> dict[str, str]:
    """Return MLFLOW_TRACKING_URI without a login, which links and logs may show, and the login in its variables."""
    parts = urlsplit(uri)
    if parts.username is None or not uri.startswith(("http://", "https://")):
        return {}
    return {
        "MLFLOW_TRACKING_URI": parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl(),
        "MLFLOW_TRACKING_USERNAME": unquote(parts.username),
        "MLFLOW_TRACKING_PASSWORD": unquote(parts.password or ""),
    }
