"""The S3 client for S3_ENDPOINT_URL, with time limits and without a proxy for this machine."""

import base64
import logging
import os
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ConnectTimeoutError, ProfileNotFound, ReadTimeoutError

from components.core import etag
from components.core.errors import StepError
from components.core.loopback import is_here
from components.core.port_owner import guard
from components.core.step import without_logins
from components.core.storage_faults import error_code, unknown_profile

PARALLEL_TRANSFERS = 8
ATTEMPTS = 3
CONNECT_SECONDS, ANSWER_SECONDS = 10, 60


def connect() -> Any:
    """Return a client for S3_ENDPOINT_URL (or AWS's own) with the usual AWS_* variables.

    Servers other than AWS may not support the checksums that boto3 sends since 1.36: boto3 sends them only if the
    user sets AWS_REQUEST_CHECKSUM_CALCULATION. Every transfer is checked against its ETag in any case.

    Raises:
        StepError: AWS_PROFILE names a profile that does not exist, or ~/.aws is invalid.
    """
    guard()
    endpoint = os.environ.get("S3_ENDPOINT_URL") or None
    try:
        session = boto3.Session()
        client = session.client(
            "s3",
            endpoint_url=endpoint,
            region_name=os.environ.get("AWS_DEFAULT_REGION")
            or os.environ.get("AWS_REGION")
            or session.region_name
            or "us-east-1",
            config=Config(
                retries={"total_max_attempts": ATTEMPTS, "mode": "standard"},  # Storage tries again after that
                connect_timeout=CONNECT_SECONDS,
                read_timeout=ANSWER_SECONDS,
                max_pool_connections=2 * PARALLEL_TRANSFERS,
                request_checksum_calculation=_checksums("AWS_REQUEST_CHECKSUM_CALCULATION", endpoint),
                response_checksum_validation=_checksums("AWS_RESPONSE_CHECKSUM_VALIDATION", endpoint),
                proxies={} if endpoint and is_here(endpoint) else None,
            ),
        )
    except ProfileNotFound as error:
        raise StepError(unknown_profile(error)) from error
    except (BotoCoreError, ValueError) as error:
        raise StepError(f"the S3 settings are invalid: {error}. Correct S3_ENDPOINT_URL, AWS_* or ~/.aws.") from error
    client.meta.events.register("needs-retry.s3", _log_timeout)
    client.meta.events.register("before-sign.s3.DeleteObjects", _with_md5)
    return client


def server_address() -> str:
    """Return the address of the S3 server for a message, without a login; "AWS" if none is set."""
    return without_logins(os.environ.get("S3_ENDPOINT_URL") or "AWS")


def _log_timeout(caught_exception: Exception | None, endpoint: Any, **_: Any) -> None:
    if isinstance(caught_exception, ConnectTimeoutError | ReadTimeoutError):
        logging.warning("S3 at %s: %s", without_logins(endpoint.host), error_code(caught_exception))


def _checksums(variable: str, endpoint: str | None) -> str | None:
    """Return when boto3 uses its checksums; None if the user's variable or AWS itself decides."""
    return "when_required" if endpoint and not os.environ.get(variable) else None


def _with_md5(request: Any, **_: Any) -> None:
    """Send a batch delete with Content-MD5 alone: every server accepts it, and older ones require it."""
    for name in [name for name in request.headers if name.lower().startswith(("x-amz-checksum-", "x-amz-sdk-check"))]:
        del request.headers[name]
    body = request.body if isinstance(request.body, bytes) else str(request.body).encode()
    request.headers["Content-MD5"] = base64.b64encode(bytes.fromhex(etag.md5(body))).decode()
