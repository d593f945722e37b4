"""One of several training processes ends: the step ends with it, and says why it did, not that the others miss it."""

import json
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from components.core.errors import StepError
from components.core.settings import Settings
from components.train import torchrun
from components.train.failure_cause import first_cause
from components.train.training_inputs import TrainingPaths
from pipelines.image_tags import ROOT
from tests.unit.components.train import ends_early


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("SIGKILL", r"one of the training processes was killed \(SIGKILL\): the system does this when memory runs out"),
        ("SIGSEGV", r"one of the training processes ended \(SIGSEGV\); the lines above may show why. Run again"),
        ("7", r"one of the training processes ended \(exit code 7\); the lines above may show why. Run again"),
        ("says why", "the loss is no number$"),
    ],
)
def test_a_process_that_ends_is_said_in_words_and_within_a_minute(monkeypatch, how, said):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    stand_in = SimpleNamespace(__name__=ends_early.__name__, arguments=lambda *_: json.dumps([how]))
    monkeypatch.setattr(torchrun, "torchrun_worker", stand_in)
    start = time.monotonic()
    with pytest.raises(StepError, match=f"^{said}"):
        torchrun.torchrun(2, TrainingPaths(*[Path()] * 6), Settings())
    assert time.monotonic() - start < 60


@pytest.mark.parametrize(
    ("reasons", "codes", "said"),
    [
        (["Connection reset by peer"], [1, -9, -15], "was killed (SIGKILL)"),
        (["Connection reset by peer", "out of memory"], [1, 1], "out of memory"),
        (["out of memory"], [-9], "out of memory"),
        (["Connection reset by peer"], [1, -15], "Connection reset by peer"),
        ([], [-7], "ended (SIGBUS)"),
        ([], [], ""),
    ],
)
def test_the_cause_is_told_from_what_follows_of_it(reasons, codes, said):
    cause = first_cause(reasons, codes)
    assert said in cause and bool(said) == bool(cause)
