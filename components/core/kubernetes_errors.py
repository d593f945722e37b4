"""Errors of the Kubernetes API as text."""

from kubernetes.client.rest import ApiException


def error_text(error: Exception) -> str:
    """Return the status and reason of an API error; of a connection error its last part."""
    if isinstance(error, ApiException):
        return f"{error.status} {error.reason}"
    return str(error).rpartition(">: ")[2]  # urllib3 begins with the connection's object
