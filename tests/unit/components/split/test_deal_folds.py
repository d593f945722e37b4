"""Patients are dealt into folds: evenly, with small and large lesions in each, and they stay there."""

from collections import Counter

import pytest

from components.core.errors import StepError
from components.split.deal_folds import deal_folds


def groups(count: int, first: int = 1) -> dict[frozenset, float]:
    """Groups of one patient; every fourth without a lesion, the others with lesions of all sizes."""
    return {frozenset({f"P{i:03d}"}): 0.0 if i % 4 == 0 else 37 * i % 101 + 1.0 for i in range(first, first + count)}


def counts(fold_of: dict[str, str], chosen: set[str]) -> list[int]:
    return sorted(Counter(fold for patient, fold in fold_of.items() if patient in chosen).values())


@pytest.mark.parametrize("folds", [3, 5, 10])
@pytest.mark.parametrize("count", [40, 43])
def test_folds_are_equal_in_patients_and_in_lesions_give_or_take_one(folds, count):
    size = groups(count)
    dealt = deal_folds(list(size), size, folds, 0)
    assert len(dealt) == count
    assert set(dealt.values()) == {f"fold-{n}" for n in range(1, folds + 1)}
    ill = {p for group, ml in size.items() if ml for p in group}
    for chosen in (set(dealt), ill, set(dealt) - ill):
        numbers = counts(dealt, chosen)
        assert max(numbers) - min(numbers) <= 1


def test_every_fold_gets_small_and_large_lesions():
    size = groups(40)
    dealt = deal_folds(list(size), size, 5, 0)
    largest_first = sorted((g for g in size if size[g]), key=size.get, reverse=True)
    for run in (largest_first[:5], largest_first[-5:]):
        assert len({dealt[p] for group in run for p in group}) == 5


def test_another_seed_deals_otherwise_and_the_same_one_alike():
    size = groups(40)
    first, again, other = (deal_folds(list(size), size, 5, seed) for seed in (0, 0, 1))
    assert first == again != other


def test_a_group_stays_together():
    size = groups(20) | {frozenset({"X", "Y", "Z"}): 5.0}
    dealt = deal_folds(list(size), size, 5, 0)
    assert dealt["X"] == dealt["Y"] == dealt["Z"]


def test_patients_keep_their_fold_and_new_ones_even_out_the_folds():
    size = groups(17)
    before = deal_folds(list(size), size, 5, 0)
    more = size | groups(18, first=18)
    kept = {group: before[min(group)] for group in size}
    after = deal_folds(list(more), more, 5, 7, kept)
    assert {patient: after[patient] for patient in before} == before
    numbers = counts(after, set(after))
    assert sum(numbers) == 35 and max(numbers) - min(numbers) <= 1


def test_patients_with_a_lesion_in_every_fold_are_needed():
    size = groups(5)
    with pytest.raises(StepError, match=r"FOLDS=5 needs 5 different patients with a lesion .*, 4 found"):
        deal_folds(list(size), size, 5, 0)
    kept = dict.fromkeys(groups(6), "fold-1")
    with pytest.raises(StepError, match="left for fold-2 and fold-3"):
        deal_folds(list(kept), groups(6), 3, 0, kept)
