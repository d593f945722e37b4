"""Lesions of a prediction and of the truth, matched one to one."""

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching

OVERLAP = 0.25
"""Least IoU of two components that may be matched, as in ISLES'26."""


def matched_f1(predicted: np.ndarray, truth: np.ndarray) -> float:
    """Return 2 TP / (components of both) of two label volumes (X, Y, S), 0 background; 1 where both are empty.

    TP is the largest number of pairs, one predicted and one true component of an IoU of at least 0.25 each, in which no
    component is twice. A mask of the whole brain touches every lesion and matches none.
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
