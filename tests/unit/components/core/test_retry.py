import pytest

from components.core.retry import retry


@pytest.fixture
def clock(monkeypatch):
    """A clock that only pauses move; `clock.pauses` holds them."""

    class Clock:
        def __init__(self):
            self.now, self.pauses = 1000.0, []

        def sleep(self, seconds: float) -> None:
            self.pauses.append(seconds)
            self.now += seconds

    clock = Clock()
    monkeypatch.setattr("time.monotonic", lambda: clock.now)
    monkeypatch.setattr("time.sleep", clock.sleep)
    return clock


def failing(times: int, error: type[BaseException] = OSError):
    """A call that raises `error` so many times, then returns how often it was called."""
    calls = []

    def call() -> int:
        calls.append(None)
        if len(calls) <= times:
            raise error(f"try {len(calls)}")
        return len(calls)

    call.calls = calls
    return call


def is_os_error(error: Exception) -> bool:
    return isinstance(error, OSError)


def test_a_call_that_succeeds_is_made_once_and_without_a_pause(clock):
    assert retry(failing(0), may_pass=is_os_error, seconds=60) == 1
    assert clock.pauses == []


def test_an_error_that_passes_is_tried_again(clock):
    assert retry(failing(5), may_pass=is_os_error, seconds=600) == 6
    assert len(clock.pauses) == 5


def test_an_error_that_does_not_pass_is_raised_at_once(clock):
    call = failing(1, ValueError)
    with pytest.raises(ValueError, match="try 1"):
        retry(call, may_pass=is_os_error, seconds=600)
    assert clock.pauses == []


def test_the_last_error_is_raised_when_the_time_is_over_and_never_after_it(clock):
    call = failing(10**9)
    with pytest.raises(OSError, match=r"try \d+"):
        retry(call, may_pass=is_os_error, seconds=60)
    assert 30 < clock.now - 1000 <= 60
    assert len(call.calls) == len(clock.pauses) + 1


def test_no_time_is_one_try(clock):
    call = failing(1)
    with pytest.raises(OSError):
        retry(call, may_pass=is_os_error, seconds=0)
    assert len(call.calls) == 1


def test_the_limits_of_the_pauses_double_up_to_the_longest(clock):
    limits = [0.5, 1, 2, 4, 8, 10, 10, 10]
    longest = [0.0] * len(limits)
    for _ in range(100):
        clock.pauses.clear()
        retry(failing(len(limits)), may_pass=is_os_error, seconds=1e6)
        assert all(pause <= limit for pause, limit in zip(clock.pauses, limits, strict=True))
        longest = [max(pair) for pair in zip(longest, clock.pauses, strict=True)]
    assert all(pause > 0.8 * limit for pause, limit in zip(longest, limits, strict=True))


def test_what_is_tried_again_can_be_reported(clock):
    reports = []
    retry(
        failing(2),
        may_pass=is_os_error,
        seconds=60,
        before_retry=lambda error, waited: reports.append((str(error), waited)),
    )
    assert [text for text, _ in reports] == ["try 1", "try 2"]
    assert reports[0][1] == 0 and reports[1][1] == pytest.approx(clock.pauses[0])


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_the_end_of_the_process_is_never_tried_again(error, clock):
    call = failing(1, error)
    with pytest.raises(error):
        retry(call, may_pass=lambda error: True, seconds=60)
    assert len(call.calls) == 1
