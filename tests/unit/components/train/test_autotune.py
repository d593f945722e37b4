"""Number format and layout: what was asked for is kept, what is left open is measured, and nothing else changes."""

import itertools

import pytest
import torch

from components.core.settings import Settings
from components.train import autotune
from components.train.autotune import CPU_CANDIDATES, MEMORY_FORMATS, choose, trial_seconds

CPU = torch.device("cpu")
PRECISIONS, LAYOUTS = ("float32", "bfloat16", "float16"), ("contiguous", "channels_last")


@pytest.fixture(autouse=True)
def small_trials(monkeypatch):
    """The trial in its own size takes seconds; which one wins is not what is tested here."""
    monkeypatch.setattr(autotune, "TRIAL_SIDE", 32)
    monkeypatch.setattr(autotune, "TRIAL_BATCH", 1)


@pytest.mark.parametrize(("precision", "layout"), itertools.product(PRECISIONS, LAYOUTS))
def test_what_was_asked_for_is_kept(precision, layout):
    assert choose(CPU, 4, precision, layout) == (precision, layout)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_layout_alone_may_be_left_open(precision):
    kept, layout = choose(CPU, 4, precision, "auto")
    assert kept == precision
    assert layout in LAYOUTS


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_precision_alone_may_be_left_open(layout):
    precision, kept = choose(CPU, 4, "auto", layout)
    assert kept == layout
    assert (precision, kept) in CPU_CANDIDATES


def test_what_is_left_open_is_one_of_the_candidates():
    assert choose(CPU, 4, "auto", "auto") in CPU_CANDIDATES


@pytest.mark.parametrize("fastest", CPU_CANDIDATES)
def test_the_fastest_candidate_is_taken(fastest, monkeypatch):
    """Which one is the fastest differs between machines, so the clock is played."""
    monkeypatch.setattr(autotune, "trial_seconds", lambda _, __, *candidate: 1.0 if candidate[:2] == fastest else 2.0)
    assert choose(CPU, 4, "auto", "auto") == fastest


@pytest.mark.parametrize(("asked", "kept"), [("auto", "float32"), ("bfloat16", "bfloat16")])
def test_on_apples_gpu_nothing_is_measured_and_float32_is_taken_unless_told(asked, kept, monkeypatch):
    monkeypatch.setattr(autotune, "trial_seconds", None)
    assert choose(torch.device("mps"), 4, asked, "contiguous") == (kept, "contiguous")
    assert choose(torch.device("mps"), 4, "auto", "auto") == ("float32", "contiguous")
    assert choose(torch.device("mps"), 4, "auto", "channels_last") == ("float32", "channels_last")


def test_the_trial_does_not_disturb_the_random_numbers_that_follow():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    choose(CPU, 4, "auto", "auto")
    assert torch.equal(torch.get_rng_state(), before)


def test_a_trial_takes_a_positive_time():
    assert trial_seconds(CPU, 4, "float32", "contiguous") > 0


def test_every_setting_there_is_can_be_used():
    annotations = {name: Settings.model_fields[name].annotation.__args__ for name in ("precision", "memory_format")}
    assert annotations == {"precision": ("auto", *PRECISIONS), "memory_format": ("auto", *MEMORY_FORMATS)}
