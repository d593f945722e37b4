"""Deal groups of patients into the folds of a cross-validation, stratified by lesion size."""

from collections import Counter
from collections.abc import Mapping

import numpy as np

from components.artifacts.split_file import subset_names
from components.core.errors import StepError
from components.registry.split_history import DRAW_AGAIN
from components.split.assignment import Group


def deal_folds(
    groups: list[Group],
    lesion_size: Mapping[Group, float],
    folds: int,
    seed: int,
    kept: Mapping[Group, str] | None = None,
) -> dict[str, str]:
    """Deal each group into a fold; groups in `kept` have theirs already.

    The groups with a lesion are sorted by its size and cut into runs of as many groups as there are folds. The groups
    of a run go into different folds, so every fold gets small and large lesions. The lesion-free groups follow in the
    same way. A group goes to the fold that has the fewest, so new patients even out the folds.

    Args:
        groups: Patients who must stay together.
        lesion_size: Group to the size of its largest lesion; 0 for a lesion-free group.
        folds: Number of folds.
        seed: Seed of the draw.
        kept: Group to the fold of an earlier split.

    Returns:
        Patient to fold ("fold-1", ...).

    Raises:
        StepError: a fold gets no group with a lesion.
    """
    names = subset_names(folds)
    with_lesion = sorted((g for g in groups if lesion_size[g] > 0), key=lambda g: (lesion_size[g], min(g)))
    lesion_free = sorted((g for g in groups if lesion_size[g] == 0), key=min)
    if len(with_lesion) < folds:
        raise StepError(
            f"FOLDS={folds} needs {folds} different patients with a lesion (one in each fold), {len(with_lesion)} "
            "found. Add labelled scans, or ask for fewer folds."
        )
    rng = np.random.default_rng(seed)
    fold_of = dict(kept or {})
    for pool in (with_lesion, lesion_free):
        _deal(pool, names, fold_of, rng)
    having = {fold_of[g] for g in with_lesion}
    if empty := [name for name in names if name not in having]:
        raise StepError(
            f"no patient with a lesion is left for {' and '.join(empty)}: of {len(with_lesion)}, the patients of "
            f"earlier runs keep their folds. Add labelled scans of new patients. {DRAW_AGAIN}"
        )
    return {patient: fold_of[group] for group in groups for patient in group}


def _deal(pool: list[Group], names: tuple[str, ...], fold_of: dict[Group, str], rng: np.random.Generator) -> None:
    """Deal the groups of the sorted `pool` that have no fold yet."""
    have = Counter(fold_of[group] for group in pool if group in fold_of)
    total = Counter(fold_of.values())
    for start in range(0, len(pool), len(names)):
        run = pool[start : start + len(names)]
        taken = Counter(fold_of[group] for group in run if group in fold_of)
        for group in run:
            if group in fold_of:
                continue
            counts = {name: (have[name], taken[name], total[name]) for name in names}
            fewest = min(counts.values())
            fold = str(rng.choice([name for name in names if counts[name] == fewest]))
            fold_of[group] = fold
            for counter in (have, taken, total):
                counter[fold] += 1
