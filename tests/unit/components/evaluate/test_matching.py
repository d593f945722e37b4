"""Matched lesions: by hand, and against every possible matching."""

import itertools

import numpy as np
import pytest
from scipy import ndimage

from components.evaluate.matching import matched_f1
from components.evaluate.metrics import case_metrics

TOUCHING = np.ones((3, 3, 3), bool)


def row(*runs: tuple[int, int], length: int = 40) -> np.ndarray:
    """Labels along a line: run i from its first voxel to before its last is i + 1."""
    out = np.zeros((length, 1, 1), int)
    for label, (first, last) in enumerate(runs, start=1):
        out[first:last] = label
    return out


def best_of_all(predicted: np.ndarray, truth: np.ndarray) -> float:
    """2 TP / (components of both), where TP is tried over every order of the predicted components."""
    ours, theirs = ([labels == n for n in range(1, labels.max() + 1)] for labels in (predicted, truth))
    if not ours and not theirs:
        return 1.0

    def close(a, b) -> bool:
        return (a & b).sum() / (a | b).sum() >= 0.25

    few, many = sorted((ours, theirs), key=len)
    hits = (sum(map(close, few, order)) for order in itertools.permutations(many, len(few)))
    return 2 * max(hits) / (len(ours) + len(theirs))


def test_it_is_the_best_of_all_matchings():
    rng, found = np.random.default_rng(0), []
    for _ in range(80):
        masks = (rng.random((6, 6, 3)) < density for density in rng.choice([0, 0.02, 0.05, 0.08], 2))
        predicted, truth = (ndimage.label(mask, TOUCHING)[0] for mask in masks)
        if max(predicted.max(), truth.max()) <= 6:
            grown = np.where(rng.random(truth.shape) < 0.7, truth, predicted)
            predicted = ndimage.label(grown, TOUCHING)[0]
            if predicted.max() <= 6:
                found.append(matched_f1(predicted, truth))
                assert found[-1] == pytest.approx(best_of_all(predicted, truth))
    assert len(found) > 40 and len({round(score, 3) for score in found if 0 < score < 1}) > 5


def test_an_overlap_of_a_quarter_is_enough_and_less_is_not():
    """IoU 2 / 8, then 2 / 9."""
    assert matched_f1(row((0, 5)), row((3, 8))) == 1
    assert matched_f1(row((0, 5)), row((3, 9))) == 0


def test_one_component_finds_one_lesion_and_not_two():
    """It overlaps both by more than a quarter: one is found, one missed."""
    assert matched_f1(row((0, 20)), row((0, 9), (11, 20))) == pytest.approx(2 / 3)


def test_as_many_are_matched_as_can_be():
    """The first predicted one may be matched with either lesion, the second with the first lesion alone (IoU 0.3)."""
    predicted, truth = row((4, 14), (0, 4), length=30), row((0, 10), (10, 16), length=30)
    assert matched_f1(predicted, truth) == 1


def test_both_empty_is_perfect_and_one_empty_the_worst():
    empty, full = row(), row((0, 5))
    assert (matched_f1(empty, empty), matched_f1(empty, full), matched_f1(full, empty)) == (1, 0, 0)


def test_a_mask_of_the_whole_brain_matches_nothing():
    """It touches every lesion, so that any touch calls it perfect."""
    truth = np.zeros((30, 30, 8), bool)
    for at in ((4, 4, 2), (20, 8, 5), (10, 22, 6)):
        truth[tuple(slice(start, start + 3) for start in at)] = True
    measured = case_metrics(np.ones_like(truth), truth, (2, 2, 5))
    assert (measured["lesion_f1"], measured["lesion_f1_matched"]) == (1, 0)
