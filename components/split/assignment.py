"""Draw a subset for each group of patients, stratified by lesion size."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

import numpy as np

from components.artifacts.cases import Case
from components.artifacts.split_file import SUBSETS
from components.core.errors import StepError
from components.registry.split_history import DRAW_AGAIN

Group = frozenset[str]
"""Patients who must be in one subset."""


def linked_patients(cases: Iterable[Case]) -> list[Group]:
    """Group the patients who share a byte-identical image; each other patient is a group."""
    owner: dict[str, str] = {}
    parent: dict[str, str] = {}

    def root(p: str) -> str:
        while parent[p] != p:
            p = parent[p]
        return p

    for case in cases:
        parent.setdefault(case.patient, case.patient)
        for digest in _image_digests(case):
            first = owner.setdefault(digest, case.patient)
            parent[root(case.patient)] = root(first)
    groups: dict[str, set[str]] = defaultdict(set)
    for p in parent:
        groups[root(p)].add(p)
    return sorted(map(frozenset, groups.values()), key=min)


def assign(
    groups: list[Group],
    lesion_size: Mapping[Group, float],
    ratios: tuple[float, float, float],
    seed: int,
    kept: Mapping[Group, str] | None = None,
) -> dict[str, str]:
    """Draw a subset for each group, stratified by lesion size; groups in `kept` have theirs already.

    The groups with a lesion are sorted by its size and cut into as many runs as a subset needs groups. One group is
    drawn from each run that has none of that subset yet, so every subset gets small and large lesions. The lesion-free
    groups are drawn in the same way; their numbers bring the ratios over all groups to those asked for.

    Args:
        groups: Patients who must stay together.
        lesion_size: Group to the size of its largest lesion; 0 for a lesion-free group.
        ratios: Shares of train, val and test.
        seed: Seed of the draw.
        kept: Group to the subset of an earlier split.

    Returns:
        Patient to subset.

    Raises:
        StepError: fewer than three groups have a lesion, or a subset gets no group with a lesion.
    """
    with_lesion = sorted((g for g in groups if lesion_size[g] > 0), key=lambda g: (lesion_size[g], min(g)))
    lesion_free = sorted((g for g in groups if lesion_size[g] == 0), key=min)
    if len(with_lesion) < 3:
        raise StepError(
            "3 different patients with a lesion are needed (one each to train, to validate and to test), "
            f"{len(with_lesion)} found. Add labelled scans."
        )
    n = len(with_lesion)
    test = max(1, min(round(n * ratios[2]), n - 2))
    val = max(1, min(round(n * ratios[1]), n - test - 1))
    rng = np.random.default_rng(seed)
    subset_of = dict(kept or {})
    _draw(with_lesion, {"test": test, "val": val}, subset_of, rng)
    having = Counter(subset_of[g] for g in with_lesion)
    if empty := [s for s in SUBSETS if not having[s]]:
        raise StepError(
            f"no patient with a lesion is left for {' and '.join(empty)}: of {n}, the patients of earlier runs keep "
            f"their subsets. Add labelled scans of new patients. {DRAW_AGAIN}"
        )
    free_test = max(0, min(round(len(groups) * ratios[2]) - having["test"], len(lesion_free)))
    free_val = max(0, min(round(len(groups) * ratios[1]) - having["val"], len(lesion_free) - free_test))
    _draw(lesion_free, {"test": free_test, "val": free_val}, subset_of, rng)
    return {p: subset_of[g] for g in groups for p in g}


def _draw(pool: list[Group], wanted: dict[str, int], subset_of: dict[Group, str], rng: np.random.Generator) -> None:
    """Draw a subset for each group of the sorted `pool`: test and val get `wanted` in total, train gets the rest."""
    have = Counter(subset_of[g] for g in pool if g in subset_of)
    wanted = {**wanted, "train": len(pool) - sum(wanted.values())}
    for subset, more in _shares(wanted, have, len(pool) - have.total()).items():
        left = [g for g in pool if subset_of.get(g, subset) == subset]
        runs = np.array_split(np.arange(len(left)), have[subset] + more) if more else []
        free = [run for run in runs if not any(left[i] in subset_of for i in run)]
        for k in range(more):
            subset_of[left[rng.choice(free[k * len(free) // more])]] = subset
    subset_of |= {g: "train" for g in pool if g not in subset_of}


def _shares(wanted: dict[str, int], have: Counter[str], new: int) -> dict[str, int]:
    """Return how many of the `new` groups test and val get; each goes to the subset that misses most for its size."""
    more: Counter[str] = Counter()
    for _ in range(new):
        more[max(wanted, key=lambda s: (wanted[s] - have[s] - more[s]) / max(wanted[s], 1))] += 1
    return {subset: more[subset] for subset in ("test", "val")}


def require_disjoint(cases: Iterable[Case], subset_of: Mapping[str, str]) -> None:
    """Raise StepError if a byte-identical image is in two subsets. `subset_of` maps a patient to a subset."""
    seen: dict[str, Case] = {}
    for case in cases:
        for digest in _image_digests(case):
            first = seen.setdefault(digest, case)
            subset, other_subset = subset_of[first.patient], subset_of[case.patient]
            if subset != other_subset:
                raise StepError(
                    f"{first.case} ({subset}) and {case.case} ({other_subset}) have the same image: the model would be "
                    "tested on a scan that it learnt from. Remove one of them, or give both one patient name."
                )


def _image_digests(case: Case) -> list[str]:
    """Return the digests of the volume and of its slices (but constant ones), in canonical orientation."""
    return [case.voxel_sha256, *case.slice_sha256]


def lesion_sizes(groups: list[Group], cases: list[Case]) -> dict[Group, float]:
    """Return the largest lesion of each group: mL if all scans have a voxel size, else the share of all voxels."""
    in_ml = all(c.lesion_ml is not None for c in cases)
    largest: dict[str, float] = defaultdict(float)
    for c in cases:
        size = c.lesion_ml if in_ml else (c.lesion_voxels or 0) / float(np.prod(c.shape))
        largest[c.patient] = max(largest[c.patient], size or 0.0)
    return {g: max(largest[p] for p in g) for g in groups}
