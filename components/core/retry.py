"""Try a call again while its error is of a kind that passes."""

from collections.abc import Callable
from typing import TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception, stop_before_delay, wait_random_exponential

Result = TypeVar("Result")


def retry(
    call: Callable[[], Result],
    *,
    may_pass: Callable[[Exception], bool],
    seconds: float,
    first_pause: float = 0.5,
    longest_pause: float = 10.0,
    before_retry: Callable[[Exception, float], None] | None = None,
) -> Result:
    """Return the result of `call`, and call again while it raises an error that `may_pass`, for at most `seconds`.

    Each pause is random, between 0 and a limit that starts at `first_pause` and doubles up to `longest_pause`, in
    seconds: many clients of one server do not come back at the same moment. `before_retry` gets the error and the
    seconds since the first call.

    Raises:
        Exception: the error of the last call, when it does not pass or the time is over.
    """

    def retriable(error: BaseException) -> bool:
        return isinstance(error, Exception) and may_pass(error)

    def report(state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        if before_retry and isinstance(error, Exception):
            before_retry(error, state.seconds_since_start or 0.0)

    return Retrying(
        retry=retry_if_exception(retriable),
        stop=stop_before_delay(seconds),
        wait=wait_random_exponential(multiplier=first_pause, max=longest_pause),
        before_sleep=report,
        reraise=True,
    )(call)
