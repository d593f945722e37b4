"""Random changes of training slices: `light` (preset baseline), or `strong`, similar to nnU-Net's.

Intensities are normalised: 0 is the median of the head, or the mean, and values may be negative. Albumentations'
transforms of brightness, contrast, gamma, noise and resolution expect values from 0 to 1 and clip to them, so this
module has its own.
"""

import os
import random
from typing import TypeAlias

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
import albumentations as A
import cv2
import numpy as np

DWI_CHANNELS = 3
ROTATION_DEGREES = 10
BRIGHTNESS_SHIFT = 0.1
STRONG_DEGREES, STRONG_SCALE, STRONG_TRANSLATION, STRONG_BRIGHTNESS = 20, (0.8, 1.25), 0.05, 0.2
"""Rotation both ways, size, translation as a share of the side, brightness in standard deviations."""

cv2.setNumThreads(0)


class DwiTransform(A.ImageOnlyTransform):
    """Change the DWI channels (H, W, 3), float32. The ADC channels have a physical unit and stay unchanged."""

    def change(self, dwi: np.ndarray, drawn: float) -> np.ndarray:
        """Return the changed channels; `drawn` is a random number from `low` to `high`."""
        raise NotImplementedError

    def __init__(self, low: float, high: float, p: float):
        super().__init__(p=p)
        self.low, self.high = low, high

    def get_params(self) -> dict:
        return {"drawn": self.py_random.uniform(self.low, self.high)}

    def apply(self, img: np.ndarray, drawn: float, **_) -> np.ndarray:
        changed = self.change(np.ascontiguousarray(img[..., :DWI_CHANNELS]), drawn)
        return np.concatenate([changed, img[..., DWI_CHANNELS:]], -1) if img.shape[2] > DWI_CHANNELS else changed


class BrightnessShift(DwiTransform):
    """Add a constant from `low` to `high`."""

    def change(self, dwi: np.ndarray, drawn: float) -> np.ndarray:
        return dwi + np.float32(drawn)


class Contrast(DwiTransform):
    """Multiply by a factor from `low` to `high`; 0 stays 0."""

    def change(self, dwi: np.ndarray, drawn: float) -> np.ndarray:
        return dwi * np.float32(drawn)


class Gamma(DwiTransform):
    """Raise x to the power of gamma, from `low` to `high`; x is 0 at the darkest and 1 at the brightest pixel.

    Then shift and scale the result so that 0 stays 0 and the slope there is 1, as a normalisation by the head would do:
    only the distances of dark and bright pixels from the middle change.
    """

    def change(self, dwi: np.ndarray, drawn: float) -> np.ndarray:
        darkest, brightest = float(dwi.min()), float(dwi.max())
        if not darkest < 0 < brightest:
            return dwi
        middle = -darkest / (brightest - darkest)
        curve = (dwi * np.float32(1 / (brightest - darkest)) + np.float32(middle)).clip(0, 1)
        slope = drawn * middle ** (drawn - 1) / (brightest - darkest)
        return (cv2.pow(curve, drawn) - np.float32(middle**drawn)) * np.float32(1 / slope)


class Noise(DwiTransform):
    """Add Gaussian noise with a standard deviation from `low` to `high`."""

    def change(self, dwi: np.ndarray, drawn: float) -> np.ndarray:
        return dwi + np.float32(drawn) * self.random_generator.standard_normal(dwi.shape, np.float32)


class Blur(DwiTransform):
    """Blur by a Gaussian with a standard deviation from `low` to `high` pixels."""

    def change(self, dwi: np.ndarray, drawn: float) -> np.ndarray:
        return cv2.GaussianBlur(dwi, (0, 0), drawn)


class LowResolution(DwiTransform):
    """Reduce to `low` to `high` times the side by averaging, then enlarge to the old side by interpolation."""

    def change(self, dwi: np.ndarray, drawn: float) -> np.ndarray:
        height, width = dwi.shape[:2]
        small = (max(1, round(width * drawn)), max(1, round(height * drawn)))
        return cv2.resize(cv2.resize(dwi, small, interpolation=cv2.INTER_AREA), (width, height))


class BiasField(DwiTransform):
    """Multiply by a smooth field, as coils do: exp of a polynomial of degree 2 with coefficients from `low` to `high`.

    The darkest pixel counts as no signal and stays unchanged.
    """

    def change(self, dwi: np.ndarray, drawn: float) -> np.ndarray:
        y, x = (np.linspace(-1, 1, side, dtype=np.float32) for side in dwi.shape[:2])
        down, across, down2, across2, both = self.random_generator.uniform(self.low, self.high, 5).astype(np.float32)
        rows, columns = down * y + down2 * y * y, across * x + across2 * x * x
        field = cv2.exp(rows[:, None] + columns + both * y[:, None] * x)[..., None]
        darkest = dwi.min()
        return (dwi - darkest) * field + darkest


def light(hflip: float, rotate: float, brightness: float) -> A.Compose:
    """Return flip, rotation by up to 10 degrees and brightness by up to 0.1, with these probabilities."""
    return A.Compose(
        [
            A.HorizontalFlip(p=hflip),
            A.Rotate(limit=ROTATION_DEGREES, border_mode=cv2.BORDER_REPLICATE, p=rotate),
            BrightnessShift(-BRIGHTNESS_SHIFT, BRIGHTNESS_SHIFT, p=brightness),
        ]
    )


class Strong:
    """Random position, size and intensities, with probabilities near those of nnU-Net's 2D training.

    Isensee et al. 2021 (doi:10.1038/s41592-020-01008-z); the bias field is an addition. With `zero_outside`, pixels
    outside of the head, which are 0, stay 0.
    """

    def __init__(self, hflip: float, zero_outside: bool):
        self.zero_outside = zero_outside
        self.place = A.Compose(
            [
                A.HorizontalFlip(p=hflip),
                A.Affine(
                    scale=STRONG_SCALE,
                    rotate=(-STRONG_DEGREES, STRONG_DEGREES),
                    translate_percent=(-STRONG_TRANSLATION, STRONG_TRANSLATION),
                    balanced_scale=True,
                    border_mode=cv2.BORDER_CONSTANT if zero_outside else cv2.BORDER_REPLICATE,
                    p=0.4,
                ),
            ]
        )
        self.look = A.Compose(
            [
                BiasField(-0.25, 0.25, p=0.2),
                Blur(0.5, 1.0, p=0.2),
                LowResolution(0.5, 1.0, p=0.25),
                Noise(0.0, 0.3, p=0.15),
                BrightnessShift(-STRONG_BRIGHTNESS, STRONG_BRIGHTNESS, p=0.15),
                Contrast(0.75, 1.25, p=0.15),
                Gamma(0.7, 1.5, p=0.3),
            ]
        )

    def set_random_state(self, generator: np.random.Generator, python: random.Random) -> None:
        """Set the random state of all transforms."""
        for stage in (self.place, self.look):
            stage.set_random_state(generator, python)

    def __call__(self, image: np.ndarray, mask: np.ndarray) -> dict[str, np.ndarray]:
        placed = self.place(image=image, mask=mask)
        looked = self.look(image=placed["image"])["image"]
        return {"image": looked * (placed["image"] != 0) if self.zero_outside else looked, "mask": placed["mask"]}


Augmentation: TypeAlias = "A.Compose | Strong"


def augmentation(kind: str, hflip: float, rotate: float, brightness: float, zero_outside: bool) -> Augmentation:
    """Return the augmentation `kind`, "light" or "strong"; of the probabilities, strong uses only that of the flip."""
    return Strong(hflip, zero_outside) if kind == "strong" else light(hflip, rotate, brightness)
