"""Errors of requests to an S3 server: which may pass, and what the user can do about the others."""

import os

import botocore.session
from boto3.exceptions import S3UploadFailedError
from botocore import exceptions
from botocore.exceptions import BotoCoreError, ClientError, ProfileNotFound
from botocore.parsers import ResponseParserError
from urllib3.exceptions import HTTPError


class NothingReceived(BotoCoreError):
    """The server's answer held no new bytes."""

    fmt = "no new bytes were received"


PASSING = {"SlowDown", "RequestTimeout", "BadDigest", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch",
           "IncompleteBody", "OperationAborted", "Throttling", "TooManyRequests"}  # fmt: skip
"""Error codes after which another try may succeed, besides the HTTP status 408, 429 and 5xx."""
LASTING = (501, 507)
"""HTTP status of errors of the server that another try does not change."""
ALTERED = (exceptions.ChecksumError, exceptions.FlexibleChecksumError)
BROKEN_ON_THE_WAY = (
    exceptions.HTTPClientError,
    exceptions.IncompleteReadError,
    ResponseParserError,
    HTTPError,
    NothingReceived,
    *ALTERED,
)
"""HTTPError is urllib3's: botocore does not catch it when the body of a refusal breaks off."""
FAULTS = (ClientError, BotoCoreError, ResponseParserError, HTTPError, S3UploadFailedError)


def cause(error: Exception) -> Exception:
    """Return the error itself; for a failed upload the error of the request behind it."""
    context = error.__context__ if isinstance(error, S3UploadFailedError) else None
    return context if isinstance(context, Exception) else error


def may_pass(error: Exception) -> bool:
    """Return whether the same request may succeed a little later."""
    error = cause(error)
    if isinstance(error, ClientError):
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return error_code(error) in PASSING or status in (408, 429) or (status >= 500 and status not in LASTING)
    return isinstance(error, BROKEN_ON_THE_WAY) and not isinstance(error, exceptions.SSLError)


def unknown_profile(error: ProfileNotFound) -> str:
    """Return a message that names the missing profile, the variables that ask for it, and the existing profiles."""
    variables = [name for name in ("AWS_PROFILE", "AWS_DEFAULT_PROFILE") if os.environ.get(name)]
    existing = ", ".join(botocore.session.Session().available_profiles) or "none"
    return f"{error}. Correct or unset {' and '.join(variables)}. Profiles of this machine's ~/.aws: {existing}."


def error_code(error: Exception) -> str:
    """Return the server's code for an error, else the name of its class."""
    error = cause(error)
    code = error.response.get("Error", {}).get("Code") if isinstance(error, ClientError) else None
    return str(code or type(error).__name__)


def advice(error: Exception, bucket: str, server: str, patience: float) -> str:
    """Return what is wrong and what to do about it; `server` is its address, `patience` the seconds of all tries."""
    code = error_code(error)
    missing = "there is no such object. Was it deleted during the run?"
    denied = "access was denied. Give these credentials the right to list, read and write it."
    expired = "the login has expired. Get new credentials (AWS_SESSION_TOKEN and its two keys), then run again."
    full = "the store is full, or its quota is used up. Free space there, then run again."
    known = {
        "NoSuchBucket": f"the bucket '{bucket}' does not exist. Create it, or correct the name.",
        "NoSuchKey": missing,
        "404": missing,
        "InvalidRange": "it changed while it was read. Run again when nobody writes to the bucket.",
        "AccessDenied": denied,
        "403": denied,
        "InvalidAccessKeyId": "the server does not know the access key. Check AWS_ACCESS_KEY_ID.",
        "SignatureDoesNotMatch": "the secret is wrong. Check AWS_SECRET_ACCESS_KEY.",
        "ExpiredToken": expired,
        "InvalidToken": expired,
        "TokenRefreshRequired": expired,
        "RequestTimeTooSkewed": "this machine's clock and the server's differ. Set the clock, then run again.",
        "NoCredentialsError": "the login is missing. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.",
        "QuotaExceeded": full,
        "InsufficientStorage": full,
        "507": full,
    }
    if code in known:
        return known[code]
    if may_pass(error):
        return (
            f"{code} for {patience:.0f} s from the server at {server}. Is it running, and not overloaded? "
            "Check S3_ENDPOINT_URL and the network, then run again: the finished work is kept."
        )
    return f"{code}. Check S3_ENDPOINT_URL and the AWS_* variables, then run again."
