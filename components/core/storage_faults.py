"""What goes wrong on the way to an S3 server: what may pass, and what to say of what does not."""

import os

import botocore.session
from boto3.exceptions import S3UploadFailedError
from botocore import exceptions
from botocore.exceptions import BotoCoreError, ClientError, ProfileNotFound
from botocore.parsers import ResponseParserError
from urllib3.exceptions import HTTPError

from components.core.step import without_logins


class CameShort(BotoCoreError):
    fmt = "nothing new came"


PASSING = {"SlowDown", "RequestTimeout", "BadDigest", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch",
           "IncompleteBody", "OperationAborted", "Throttling", "TooManyRequests"}  # fmt: skip
"""Refusals that another try may escape, beside those that their HTTP status (408, 429, 5xx) tells."""
LASTING = (501, 507)
ALTERED = (exceptions.ChecksumError, exceptions.FlexibleChecksumError)
BROKEN_ON_THE_WAY = (
    exceptions.HTTPClientError, exceptions.IncompleteReadError, ResponseParserError, HTTPError, CameShort, *ALTERED
)  # fmt: skip
"""HTTPError is urllib3's: botocore lets it through where the body of a refusal breaks."""
FAULTS = (ClientError, BotoCoreError, ResponseParserError, HTTPError, S3UploadFailedError)


def may_pass(error: Exception) -> bool:
    """Whether the same request may succeed a little later."""
    if isinstance(error, ClientError):
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return named(error) in PASSING or status in (408, 429) or (status >= 500 and status not in LASTING)
    return isinstance(error, BROKEN_ON_THE_WAY) and not isinstance(error, exceptions.SSLError)


def unknown_profile(error: ProfileNotFound) -> str:
    """Return which profile is missing, who asks for it, and which there are."""
    asking = [name for name in ("AWS_PROFILE", "AWS_DEFAULT_PROFILE") if os.environ.get(name)]
    known = ", ".join(botocore.session.Session().available_profiles) or "none"
    return f"{error}. Correct or unset {' and '.join(asking)}. Profiles of this machine's ~/.aws: {known}."


def named(error: Exception) -> str:
    """The server's code for it, else the name of the error."""
    code = error.response.get("Error", {}).get("Code") if isinstance(error, ClientError) else None
    return str(code or type(error).__name__)


def what_to_do(error: Exception, bucket: str, patience: float) -> str:
    """What is wrong, and what to do about it, in words; `patience` is how many seconds it was tried."""
    denied = "access was denied. Give these credentials the right to list, read and write it."
    expired = "the login has expired. Fetch new credentials (AWS_SESSION_TOKEN and the two beside it), run again."
    full = "the store is full, or its quota is used up. Make room there, then run again."
    advice = {
        "NoSuchBucket": f"the bucket '{bucket}' does not exist. Create it, or correct the name.",
        "NoSuchKey": "there is no such object. Was it removed while the run was going on?",
        "404": "there is no such object. Was it removed while the run was going on?",
        "InvalidRange": "it changed while it was read. Run again once the bucket is still.",
        "AccessDenied": denied,
        "403": denied,
        "InvalidAccessKeyId": "the access key is not known there. Check AWS_ACCESS_KEY_ID.",
        "SignatureDoesNotMatch": "the secret is wrong. Check AWS_SECRET_ACCESS_KEY.",
        "ExpiredToken": expired,
        "InvalidToken": expired,
        "TokenRefreshRequired": expired,
        "RequestTimeTooSkewed": "this machine's clock is wrong, the server says. Set it, then run again.",
        "NoCredentialsError": "there is no login for it. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.",
        "QuotaExceeded": full,
        "InsufficientStorage": full,
        "507": full,
    }.get(named(error))
    if advice is None and may_pass(error):
        at = without_logins(os.environ.get("S3_ENDPOINT_URL") or "AWS")
        advice = (
            f"{named(error)}, and no better for {patience:.0f} s, from the server at {at}. Is it there, "
            "and not overloaded? Check S3_ENDPOINT_URL and the network, then run again: what is done is kept."
        )
    return advice or f"{named(error)}. Check S3_ENDPOINT_URL and the AWS_* variables, then run again."
