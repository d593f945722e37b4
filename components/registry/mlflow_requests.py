"""Requests to MLflow: defaults of its client, errors that say what to do, log lines during a wait, safe retries."""

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from components.core.errors import StepError
from components.core.port_owner import guard
from components.core.retry import retry

RETRIES = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"
DIRECT = "MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD"
"""If true, or if MLflow's server may choose, files come directly from its S3. Not every client reaches that S3."""
REQUEST_SECONDS = 30
"""How long MLflow's client waits for one answer, unless the environment says otherwise."""
CREATE_SECONDS = 60.0
"""How long `find_or_create` tries. Longer than one request may take."""
TRY_AGAIN = {408, 429}
"""HTTP statuses of a busy server, besides those from 500 on."""
LOG_EVERY_SECONDS = 30
Result = TypeVar("Result")

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault(RETRIES, "4")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(REQUEST_SECONDS))
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault(DIRECT, "false")
os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
guard()


@contextlib.contextmanager
def explain_mlflow_errors(hint: str = "") -> Iterator[None]:
    """Turn errors of MLflow into a `StepError` with a remedy; a context manager and a decorator.

    Raises:
        StepError: MLflow does not answer, or refuses a request. `hint` is added to its text.
    """
    import mlflow
    from mlflow.exceptions import MlflowException
    from requests import RequestException

    try:
        yield
    except (MlflowException, RequestException) as error:
        raise StepError(
            f"MLflow at {mlflow.get_tracking_uri()}: {' '.join(str(error).split())[:300]}.{hint} "
            "Check MLFLOW_TRACKING_URI and MLFLOW_RUN_ID, or start the embedded server: make up. Then run again: "
            "finished work is kept, and nothing is registered twice."
        ) from error


@contextlib.contextmanager
def log_while_waiting(what: str) -> Iterator[None]:
    """During a long request to MLflow, log every half minute `what` is awaited, and from which address."""
    import mlflow

    done, start = threading.Event(), time.monotonic()
    where = f"MLflow at {mlflow.get_tracking_uri()}"
    if os.environ.get(DIRECT) != "false":
        where += f", which may redirect to its S3 (set {DIRECT}=false to prevent this)"

    def log() -> None:
        while not done.wait(LOG_EVERY_SECONDS):
            logging.warning("waiting %.0f s for %s, from %s", time.monotonic() - start, what, where)

    threading.Thread(target=log, daemon=True, name="waiting for MLflow").start()
    try:
        yield
    finally:
        done.set()


def find_or_create(find: Callable[[], Result | None], create: Callable[[], Result]) -> Result:
    """Return what `find` finds, else what `create` creates. After a lost answer, look before creating again.

    MLflow's own retry would repeat the request without a look, and create a second one.

    Raises:
        MlflowException: MLflow refuses the request, or every attempt failed for `CREATE_SECONDS`.
    """
    from mlflow.exceptions import MlflowException

    def attempt() -> Result:
        if (found := find()) is not None:
            return found
        try:
            with _without_client_retries():
                return create()
        except MlflowException:
            if (found := find()) is not None:  # the request was done, and its answer was lost
                return found
            raise

    def may_pass(error: Exception) -> bool:
        if not isinstance(error, MlflowException):
            return False
        status = error.get_http_status_code()
        return status >= 500 or status in TRY_AGAIN

    return retry(
        attempt,
        may_pass=may_pass,
        seconds=CREATE_SECONDS,
        first_pause=1,
        longest_pause=8,
    )


@contextlib.contextmanager
def _without_client_retries() -> Iterator[None]:
    """Stop MLflow's client from repeating requests. It reads the variable at each request."""
    before = os.environ.get(RETRIES)
    os.environ[RETRIES] = "0"
    try:
        yield
    finally:
        if before is None:
            del os.environ[RETRIES]
        else:
            os.environ[RETRIES] = before
