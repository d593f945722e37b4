"""SIGTERM is heeded between two items, wherever it comes; outside of the training it is as it was."""

import os
import signal

import pytest

from components.train.preemption import Preempted, between_items


def sigterm() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("at", [1, 2, 3])
def test_the_item_is_finished_and_no_other_begun(at):
    begun, finished, before = [], [], signal.getsignal(signal.SIGTERM)
    with pytest.raises(Preempted) as end, between_items() as watched:
        for item in watched([1, 2, 3]):
            begun.append(item)
            if item == at:
                sigterm()
            finished.append(item)
    assert begun == finished == list(range(1, at + 1))
    assert end.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is before


def test_what_comes_after_the_last_item_is_heeded_at_the_end():
    with pytest.raises(Preempted), between_items() as watched:
        assert list(watched([1])) == [1]
        sigterm()


def test_without_it_nothing_happens():
    with between_items() as watched:
        assert list(watched([1, 2])) == [1, 2]
