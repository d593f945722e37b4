"""The strong augmentation: what each part does to numbers worked by hand, and what none of them may do."""

import random

import cv2
import numpy as np
import pytest

from components.core.settings import Settings
from components.train.augment import (
    BiasField,
    Blur,
    BrightnessShift,
    Contrast,
    Gamma,
    LowResolution,
    Noise,
    Strong,
    augmentation,
    light,
)

SIDE, DRAWS = 64, 60
LOOKS = {
    "bias": BiasField(-0.25, 0.25, 1), "blur": Blur(0.5, 1.0, 1), "resolution": LowResolution(0.5, 1.0, 1),
    "noise": Noise(0.1, 0.3, 1), "brightness": BrightnessShift(0.1, 0.2, 1), "contrast": Contrast(1.1, 1.25, 1),
    "gamma": Gamma(1.2, 1.5, 1),
}  # fmt: skip


@pytest.fixture
def head() -> np.ndarray:
    """A disc, bool (H, W)."""
    y, x = np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j]
    return x**2 + y**2 < 0.6


@pytest.fixture
def stack(head) -> np.ndarray:
    """Intensities against the head (H, W, 3): 0 outside it, no pixel inside it exactly 0, a bright square."""
    inside = np.random.default_rng(0).normal(0, 1, (SIDE, SIDE, 3)).astype(np.float32)
    inside[20:30, 20:30] += 6
    inside[inside == 0] = 0.1
    return inside * head[..., None]


@pytest.fixture
def lesion() -> np.ndarray:
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[20:30, 20:30] = 1
    return mask


def drawn(augment, seed: int, stack: np.ndarray, lesion: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    augment.set_random_state(np.random.default_rng(seed), random.Random(seed))
    out = augment(image=stack.copy(), mask=lesion.copy())
    return out["image"], out["mask"]


def looked(transform, image: np.ndarray, seed: int = 0) -> np.ndarray:
    transform.set_random_state(np.random.default_rng(seed), random.Random(seed))
    return transform(image=image)["image"]


def test_the_same_seed_changes_a_slice_alike_whatever_came_before_and_another_seed_otherwise(stack, lesion):
    one, other = Strong(0.5, True), Strong(0.5, True)
    results = []
    for seed in range(DRAWS):
        first = drawn(one, seed, stack, lesion)
        drawn(other, 1000 + seed, stack, lesion)
        again = drawn(other, seed, stack, lesion)
        assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
        results.append(first[0].tobytes())
    assert len(set(results)) > 0.9 * DRAWS


def test_the_outside_of_the_head_stays_zero_and_the_inside_does_not_become_zero(stack, lesion):
    augment = Strong(0.5, True)
    for seed in range(DRAWS):
        augment.set_random_state(np.random.default_rng(seed), random.Random(seed))
        outside = augment.place(image=stack.copy(), mask=lesion.copy())["image"] == 0
        image, _ = drawn(augment, seed, stack, lesion)
        assert (image[outside] == 0).all()
        assert (image[~outside] != 0).mean() > 0.999
        assert outside.mean() > 0.2


def test_without_a_head_nothing_is_set_to_zero(lesion):
    flat = np.full((SIDE, SIDE, 3), -2, np.float32)
    flat[0, 0] = 1
    augment = Strong(0.5, False)
    assert not any((drawn(augment, seed, flat, lesion)[0] == 0).any() for seed in range(DRAWS))


def test_types_and_shapes_stay_and_a_lesion_is_zeros_and_ones_at_the_bright_place(stack, lesion):
    augment = Strong(0.5, True)
    for seed in range(DRAWS):
        image, mask = drawn(augment, seed, stack, lesion)
        assert (image.shape, image.dtype, mask.shape, mask.dtype) == (
            stack.shape, np.float32, lesion.shape, np.uint8
        )  # fmt: skip
        assert np.isfinite(image).all() and set(np.unique(mask)) == {0, 1}
        assert image[mask == 1].mean() > image[mask == 0].mean() + 1


def test_size_turn_and_place_of_a_lesion_are_within_what_is_promised(lesion):
    """A square of 10 pixels in the middle: its area tells the scale, its centre the shift."""
    middle = np.zeros_like(lesion)
    middle[27:37, 27:37] = 1
    image = np.repeat(middle[..., None].astype(np.float32), 3, 2)
    augment, areas, shifts = Strong(0.0, True), [], []
    for seed in range(400):
        augment.set_random_state(np.random.default_rng(seed), random.Random(seed))
        mask = augment.place(image=image, mask=middle)["mask"]
        areas.append(mask.sum())
        shifts.append(np.abs(np.argwhere(mask).mean(0) - 31.5).max())
    assert 55 < min(areas) < 75 and 140 < max(areas) < 175  # 100 * .8², 100 * 1.25²
    assert 2 < max(shifts) < 0.05 * SIDE + 0.6
    assert 0.5 < np.mean(np.array(areas) == 100) < 0.75  # 60 % of the slices are left where they are


@pytest.mark.parametrize("name", LOOKS)
def test_each_look_changes_the_dwi_and_leaves_the_adc(stack, name):
    six = np.concatenate([stack, stack + 1], -1)
    changed = looked(LOOKS[name], six)
    assert changed.dtype == np.float32 and changed.shape == six.shape
    assert np.abs(changed[..., :3] - six[..., :3]).max() > 0.05
    assert np.array_equal(changed[..., 3:], six[..., 3:])


@pytest.mark.parametrize("name", LOOKS)
def test_each_look_is_defined_on_a_slice_without_head(name):
    assert np.isfinite(looked(LOOKS[name], np.zeros((SIDE, SIDE, 3), np.float32))).all()


@pytest.mark.parametrize("name", [*LOOKS])
def test_no_look_changes_the_slice_that_it_is_given_in_place(stack, name):
    before = stack.copy()
    looked(LOOKS[name], stack)
    assert np.array_equal(stack, before)


def test_gamma_by_hand():
    """From -1 to 3, 0 lies at 1/4; with gamma 2: at 1/16, with the slope 2 * 1/4 / 4 = 1/8."""
    values = np.array([-1, 0, 1, 3], np.float32)
    image = np.repeat(values.reshape(2, 2, 1), 3, 2)
    expected = [(share**2 - 1 / 16) * 8 for share in (0, 1 / 4, 1 / 2, 1)]  # -1/2, 0, 3/2, 15/2
    np.testing.assert_allclose(looked(Gamma(2, 2, 1), image)[..., 0].ravel(), expected, atol=1e-5)


def test_gamma_of_one_changes_nothing_and_near_the_middle_none_changes_much(stack):
    np.testing.assert_allclose(looked(Gamma(1, 1, 1), stack), stack, atol=1e-4)
    near = np.abs(stack) < 0.05
    for gamma in (0.7, 1.5):
        changed = looked(Gamma(gamma, gamma, 1), stack)
        np.testing.assert_allclose(changed[near], stack[near], atol=2e-3)
        assert np.abs(changed.max() - stack.max()) > 1


@pytest.mark.parametrize("sign", [1, -1])
def test_gamma_leaves_a_slice_that_is_all_on_one_side_of_the_middle(stack, sign):
    one_sided = sign * np.abs(stack)
    assert np.array_equal(looked(Gamma(1.5, 1.5, 1), one_sided), one_sided)


def test_contrast_multiplies_and_brightness_adds(stack):
    np.testing.assert_allclose(looked(Contrast(1.25, 1.25, 1), stack), 1.25 * stack, rtol=1e-6)
    np.testing.assert_allclose(looked(BrightnessShift(0.2, 0.2, 1), stack), stack + 0.2, rtol=1e-5, atol=1e-6)


def test_noise_has_the_standard_deviation_that_was_drawn_and_differs_between_channels(stack):
    noise = looked(Noise(0.3, 0.3, 1), stack) - stack
    assert noise.std() == pytest.approx(0.3, rel=0.03) and abs(noise.mean()) < 0.01
    assert abs(np.corrcoef(noise[..., 0].ravel(), noise[..., 1].ravel())[0, 1]) < 0.05


def test_blur_keeps_the_sum_and_spreads_a_point_by_its_standard_deviation():
    point = np.zeros((SIDE, SIDE, 3), np.float32)
    point[32, 32] = 1
    blurred = looked(Blur(1, 1, 1), point)[..., 1]
    x = np.arange(SIDE) - 32
    assert blurred.sum() == pytest.approx(1, abs=1e-5)
    assert (blurred.sum(0) * x**2).sum() == pytest.approx(1, rel=0.05)


def test_half_the_resolution_averages_four_pixels():
    chequers = np.indices((SIDE, SIDE)).sum(0) % 2
    image = np.repeat(chequers[..., None].astype(np.float32), 3, 2)
    np.testing.assert_allclose(looked(LowResolution(0.5, 0.5, 1), image), 0.5, atol=1e-6)


def test_a_bias_field_multiplies_the_signal_above_the_darkest_pixel_by_a_smooth_field(stack):
    changed, darkest = looked(BiasField(-0.25, 0.25, 1), stack), stack.min()
    field = ((changed - darkest) / np.where(stack > darkest, stack - darkest, np.nan))[..., 0]
    assert np.isfinite(field).mean() > 0.99
    logs = np.log(field)
    assert 0.1 < np.nanmax(logs) - np.nanmin(logs) < 2.5
    second = logs[2:] - 2 * logs[1:-1] + logs[:-2]
    assert np.nanmax(np.abs(second)) < 1e-3  # a polynomial of degree 2 over 64 pixels
    assert changed.min() == pytest.approx(darkest, abs=1e-5)


def test_a_setting_names_each_kind_and_the_outside_is_kept_where_there_is_a_head():
    assert set(Settings.model_fields["augmentation"].annotation.__args__) == {"light", "strong"}
    strong = augmentation("strong", 0.3, 0.25, 0.2, zero_outside=True)
    assert isinstance(strong, Strong) and strong.zero_outside
    assert isinstance(augmentation("light", 0.3, 0.25, 0.2, zero_outside=True), type(light(0, 0, 0)))


def test_the_flip_of_strong_comes_as_often_as_asked(stack, lesion):
    for asked in (0.0, 1.0):
        augment = Strong(asked, True)
        augment.place.transforms[1].p = 0
        augment.set_random_state(np.random.default_rng(0), random.Random(0))
        placed = augment.place(image=stack, mask=lesion)
        expected = cv2.flip(stack, 1) if asked else stack
        assert np.array_equal(placed["image"], expected)
