"""Each limit from both sides, on a head of 1000 voxels whose rule finds what it is told to."""

import numpy as np
import pytest

from components.artifacts.trained_model import HeadLimits
from components.model.plausibility import implausible, measures
from components.scans.head import Head

SHAPE = (20, 20, 10)
LIMITS = HeadLimits(most_share=0.1, share_root=0.5, unconfirmed_root=0.3, overlooked_root=0.2)
FINE = {"share": 0.1, "confirmed": 0.1, "overlooked": 0.0, "outside": 0.0}


def box(x: slice, y: slice, s: slice) -> np.ndarray:
    out = np.zeros(SHAPE, bool)
    out[x, y, s] = True
    return out


INSIDE = box(slice(5, 15), slice(5, 15), slice(0, 10))
HEAD = Head(INSIDE)


def test_what_is_measured_by_hand():
    """The rule finds 4 x 4 x 5 = 80 bright voxels of 2 mL; 48 of the mask's 96 are among them, 32 lie outside."""
    bright = box(slice(6, 10), slice(6, 10), slice(2, 7))
    volume = np.where(bright, 400, np.where(HEAD.mask, 100, 0)).astype(np.float32)
    mask = box(slice(3, 9), slice(6, 10), slice(2, 6))
    found = measures(mask, volume, (20.0, 20.0, 5.0), HEAD)  # voxels so large that the rule does not smooth
    assert found == {"share": 0.096, "confirmed": 0.048, "overlooked": 0.032, "outside": 32 / 96}


def test_of_an_empty_mask_nothing_lies_outside():
    volume = np.where(HEAD.mask, 100, 0).astype(np.float32)
    assert measures(np.zeros(SHAPE, bool), volume, None, HEAD) == dict.fromkeys(FINE, 0.0)


def test_what_is_plausible_gives_no_reason():
    assert implausible(FINE, LIMITS) == []


@pytest.mark.parametrize(
    ("within", "beyond", "said"),
    [
        (
            {"share": 0.124, "confirmed": 0.124},
            {"share": 0.126, "confirmed": 0.126},
            "predicted 13% of the head; at most 10% in training",
        ),
        ({"outside": 0.1}, {"outside": 0.11}, "11% of the prediction is outside the head"),
        (
            {"share": 0.064, "confirmed": 0.0011},
            {"share": 0.064, "confirmed": 0.0009},
            "predicted 6.4% of the head; the threshold rule confirms 0.1%",
        ),
        ({"overlooked": 0.0079}, {"overlooked": 0.0081}, "the threshold rule finds another 0.8% of the head"),
    ],
    ids=["share", "outside", "unconfirmed", "overlooked"],
)
def test_each_limit_from_both_sides(within, beyond, said):
    """Cube roots: 0.125 of the head is 0.5; 0.064 is 0.4 and 0.001 is 0.1; 0.008 is 0.2."""
    assert implausible(FINE | within, LIMITS) == []
    assert implausible(FINE | beyond, LIMITS) == [said]
