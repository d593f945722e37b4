"""Match predicted and true lesions one to one."""

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching

OVERLAP = 0.25
"""Least IoU of a matched pair, as in ISLES'26."""


def matched_f1(predicted: np.ndarray, truth: np.ndarray) -> float:
    """Return 2 TP / (number of lesions in both) of two label volumes (X, Y, S) with background 0; 1 if both are empty.

    TP is the largest number of pairs of a predicted and a true lesion with an IoU of at least 0.25, each lesion in one
    pair at most. A mask of the whole brain touches every lesion and matches none of them.
    """
    sizes = [np.bincount(labels.ravel()) for labels in (predicted, truth)]
    count = len(sizes[0]) + len(sizes[1]) - 2
    if not count:
        return 1.0
    both = (predicted > 0) & (truth > 0)
    pairs, shared = np.unique(np.stack([predicted[both], truth[both]]), axis=1, return_counts=True)
    close = shared >= OVERLAP * (sizes[0][pairs[0]] + sizes[1][pairs[1]] - shared)
    graph = csr_array((np.ones(close.sum()), pairs[:, close]), shape=(len(sizes[0]), len(sizes[1])))
    return 2 * int((maximum_bipartite_matching(graph) >= 0).sum()) / count
