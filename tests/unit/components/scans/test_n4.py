"""N4 takes a known shading away, leaves a scan without one nearly as it is, and does the same every time."""

import numpy as np
import pytest
import SimpleITK as sitk

from components.scans.n4 import without_bias


def phantom(shape=(32, 28, 6), seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """An ellipsoid of two tissues with a bright lesion and noise, zero around it; and where it is."""
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
    brain = x**2 + y**2 + 0.2 * z**2 < 0.8
    tissue = 100 + 30 * (np.sin(7 * x) * np.sin(6 * y) > 0) + 100 * ((x - 0.3) ** 2 + y**2 < 0.02)
    noisy = tissue + np.random.default_rng(seed).normal(0, 4, shape)
    return np.where(brain, noisy, 0).astype(np.float32), brain


def shading(shape, strength: float = 0.4) -> np.ndarray:
    """A smooth field, as coils make it: between about 1/2 and 2."""
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
    return np.exp(strength * (x - 0.7 * y + 0.5 * x * y + 0.3 * z)).astype(np.float32)


def unevenness(scan, truth, brain) -> float:
    """How far a scan is from being proportional to the truth: the variation of their ratio."""
    ratio = scan[brain] / truth[brain]
    return ratio.std() / ratio.mean()


@pytest.mark.parametrize(
    "shape",
    [(32, 28, 6), pytest.param((96, 80, 12), marks=pytest.mark.slow), (33, 17, 3), (16, 16, 3)],
    ids=str,
)
def test_a_known_field_is_found_and_taken_away(shape):
    truth, brain = phantom(shape)
    field = shading(shape)
    out = without_bias(truth * field)
    estimated = np.log(truth * field, where=brain, out=np.zeros_like(truth)) - np.log(
        out, where=brain, out=np.zeros_like(truth)
    )
    assert np.corrcoef(estimated[brain], np.log(field[brain]))[0, 1] > 0.99
    assert unevenness(out, truth, brain) < 0.2 * unevenness(truth * field, truth, brain)
    assert out.shape == shape and out.dtype == np.float32


def test_a_scan_without_shading_is_left_nearly_as_it_is():
    truth, brain = phantom()
    assert unevenness(without_bias(truth), truth, brain) < 0.05


def test_it_is_what_simpleitk_finds_on_the_whole_grid():
    """Against the filter on every voxel with its own defaults: the down-sampling costs little."""
    truth, brain = phantom((64, 64, 4))
    shaded = truth * shading(truth.shape)
    image = sitk.GetImageFromArray(shaded.T)
    theirs = sitk.GetArrayFromImage(sitk.N4BiasFieldCorrection(image, image > float(shaded.mean()))).T
    assert unevenness(without_bias(shaded), theirs, brain) < 0.03


@pytest.mark.slow
def test_it_is_the_same_every_time_and_whatever_the_layout_in_memory():
    shaded = phantom()[0] * shading((32, 28, 6))
    first = without_bias(shaded)
    assert np.array_equal(without_bias(shaded), first)
    assert np.array_equal(without_bias(np.asfortranarray(shaded)), first)


@pytest.mark.parametrize(
    "volume",
    [np.zeros((20, 20, 4)), np.full((20, 20, 4), 7), np.full((20, 20, 4), -7), np.zeros((20, 20, 0))],
    ids=["zeros", "constant", "constant below zero", "no slices"],
)
def test_a_scan_that_shows_nothing_comes_back_unchanged(volume):
    assert np.array_equal(without_bias(volume.astype(np.float32)), volume)


def test_noise_below_zero_and_a_lone_bright_voxel_give_finite_values():
    noise = np.random.default_rng(0).normal(0, 1, (20, 20, 4)).astype(np.float32)
    lone = np.zeros((20, 20, 4), np.float32)
    lone[3, 3, 1] = 5
    for volume in (noise, lone):
        assert np.isfinite(without_bias(volume)).all()


@pytest.mark.slow
def test_around_the_head_the_field_stays_within_what_was_seen():
    shaded = phantom()[0] * shading((32, 28, 6))
    brain = shaded > shaded.mean()
    shaded[:2] = 1.0  # faint background in a corner that no tissue tells of
    factor = shaded[:2] / without_bias(shaded)[:2]
    inside = shaded[brain] / without_bias(shaded)[brain]
    assert inside.min() * 0.99 <= factor.min() and factor.max() <= inside.max() * 1.01
