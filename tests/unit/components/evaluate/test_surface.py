"""Distance between surfaces: by hand, by brute force and against MONAI."""

import itertools

import numpy as np
import pytest
import torch

from components.evaluate.surface import surface_distance_95

VOXEL_MM = (2.0, 1.0, 5.0)


def block(*spans: tuple[int, int], shape=(20, 20, 6)) -> np.ndarray:
    out = np.zeros(shape, bool)
    out[tuple(slice(first, last) for first, last in spans)] = True
    return out


def surface_by_hand(mask: np.ndarray) -> np.ndarray:
    """Centres, mm, of the voxels with a neighbour of six outside the mask."""
    steps = [s for s in itertools.product((-1, 0, 1), repeat=3) if sum(map(abs, s)) == 1]
    padded = np.pad(mask, 1)
    return np.array([
        np.multiply(voxel, VOXEL_MM)
        for voxel in np.argwhere(mask)
        if not all(padded[tuple(voxel + 1 + step)] for step in steps)
    ])  # fmt: skip


@pytest.fixture(scope="module")
def pairs() -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(0)
    made = []
    for _ in range(12):
        centres, radii = rng.uniform(3, 9, (2, 3)), rng.uniform(1.5, 5, 2)
        grid = np.stack(np.mgrid[:12, :12, :8], -1)
        made.append(tuple(((grid - c) ** 2).sum(-1) < r * r for c, r in zip(centres, radii, strict=True)))
    return made


def test_it_is_by_brute_force(pairs):
    for predicted, truth in pairs:
        ours, theirs = surface_by_hand(predicted), surface_by_hand(truth)
        apart = np.linalg.norm(ours[:, None] - theirs[None], axis=-1)
        expected = max(np.percentile(apart.min(1), 95), np.percentile(apart.min(0), 95))
        assert surface_distance_95(predicted, truth, VOXEL_MM) == pytest.approx(expected)


def test_it_is_monais(pairs):
    from monai.metrics import compute_hausdorff_distance  # seconds

    for predicted, truth in pairs:
        as_monai = (torch.from_numpy(mask)[None, None].float() for mask in (predicted, truth))
        theirs = compute_hausdorff_distance(*as_monai, include_background=True, percentile=95, spacing=VOXEL_MM)
        assert surface_distance_95(predicted, truth, VOXEL_MM) == pytest.approx(float(theirs), abs=1e-4)


def test_a_mask_moved_along_an_axis_is_so_far_away():
    """One voxel thick, so that all of it is surface: 3 voxels of 2 mm, then 2 of 5 mm."""
    truth = block((3, 4), (3, 12), (1, 2))
    assert surface_distance_95(block((6, 7), (3, 12), (1, 2)), truth, VOXEL_MM) == pytest.approx(6)
    assert surface_distance_95(block((3, 4), (3, 12), (3, 4)), truth, VOXEL_MM) == pytest.approx(10)


def test_it_has_no_direction_and_is_nothing_for_the_same_mask(pairs):
    for one, other in pairs:
        assert surface_distance_95(one, other, VOXEL_MM) == surface_distance_95(other, one, VOXEL_MM)
        assert surface_distance_95(one, one, VOXEL_MM) == 0


def test_one_stray_voxel_in_a_hundred_does_not_count_and_one_in_ten_does():
    truth = block((3, 4), (0, 20), (1, 6))
    stray = truth.copy()
    stray[19, 0, 0] = True
    assert surface_distance_95(stray, truth, VOXEL_MM) == 0
    small = block((3, 4), (0, 9), (1, 2))
    with_stray = small.copy()
    with_stray[19, 0, 1] = True
    assert surface_distance_95(with_stray, small, VOXEL_MM) > 10


def test_without_a_voxel_size_or_a_mask_there_is_no_distance():
    some, none = block((1, 3), (1, 3), (1, 3)), np.zeros((20, 20, 6), bool)
    assert surface_distance_95(some, some, None) is None
    assert surface_distance_95(none, some, VOXEL_MM) is None
    assert surface_distance_95(some, none, VOXEL_MM) is None
