"""Inputs that nobody thought of: no reader crashes on them, hangs, or takes in what it should not.

make torture ONLY=fuzz does the same for longer, and by coverage.
"""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.corpus.doors import DOORS, seeds


@st.composite
def spoilt(draw, name: str) -> bytes:
    """A seed with some bytes changed, cut out or put in; or any bytes at all."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=2000))
    content = bytearray(draw(st.sampled_from(seeds(name))))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, min(len(content), 400)))  # most that can be said wrong is said at the start
        new = draw(st.binary(max_size=8) | st.sampled_from(seeds(name)).map(lambda s: s[:60]))
        content[at : at + draw(st.integers(0, 8))] = new
    return bytes(content)


@pytest.mark.parametrize("name", DOORS)
def test_any_bytes_get_an_answer(name):
    answers = set()

    @settings(max_examples=50, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(spoilt(name))
    def every(content):
        answers.add(DOORS[name](content))

    every()
    assert len(answers) > 1


@pytest.mark.parametrize("name", DOORS)
def test_the_seeds_get_one_too(name):
    for content in seeds(name):
        DOORS[name](content)
