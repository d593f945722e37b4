"""The brain of the synthetic scans: MNI152 tissue maps, and anatomy by position in millimetres.

Everything here lives on a grid of 2 mm, flattened to a row per voxel.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from scipy import ndimage

from pipelines.demo.fields import Sampler, smooth_field

FAR_MM = 30.0
"""Distances are cut off here."""
MEDIAN_DEPTH_MM = 18.0
"""Ventricles lie at least so deep below the surface of the brain."""
EYES_MM = ((33, 62, -36), (-33, 62, -36))


@dataclass(frozen=True)
class Territory:
    """An arterial territory: the voxels nearest to its points, (|x|, y, z) in MNI mm.

    The points are placed by eye after textbook maps; shares are rough clinical frequencies.
    """

    name: str
    share: float
    largest_ml: float
    points: tuple[tuple[int, int, int], ...]


TERRITORIES = (
    Territory("MCA superior", 0.24, 320, ((44, 30, 8), (50, 2, 28), (42, -8, 48), (48, -28, 44), (38, 8, 2))),
    Territory("MCA inferior", 0.22, 320, ((58, -25, 4), (54, -48, 22), (50, -4, -22), (46, -62, 20))),
    Territory("MCA deep", 0.16, 20, ((26, 2, 2), (23, -8, 16), (16, 10, 8))),
    Territory("ACA", 0.07, 60, ((8, 58, 0), (8, 42, 28), (8, 12, 56), (8, -22, 62), (8, -48, 50))),
    Territory("PCA", 0.14, 70, ((12, -84, 4), (28, -76, -8), (32, -44, -14), (10, -58, 12))),
    Territory("thalamus", 0.05, 6, ((13, -18, 8),)),
    Territory("cerebellum, inferior", 0.05, 50, ((24, -62, -50), (10, -68, -42))),
    Territory("cerebellum, superior", 0.03, 40, ((12, -62, -18), (36, -58, -32))),
    Territory("brainstem", 0.04, 5, ((5, -26, -32), (5, -20, -14), (4, -38, -52))),
)
POSTERIOR_FOSSA = [i for i, t in enumerate(TERRITORIES) if t.name.startswith(("cerebellum", "brainstem"))]


class Template:
    """The template's voxels, a row each: tissue shares, distances and places in mm."""

    def __init__(self) -> None:
        from nilearn import datasets  # seconds, needed by the simulation alone

        maps = [datasets.load_mni152_gm_template(resolution=1), datasets.load_mni152_wm_template(resolution=1)]
        gray, white = (_sharper(_halved(image.get_fdata(dtype=np.float32))) for image in maps)
        self.affine = maps[0].affine @ np.diag([2.0, 2.0, 2.0, 1.0])
        self.affine[:3, 3] += 0.5
        self.shape = gray.shape
        self.sampler = Sampler(self.shape)
        inside = ndimage.binary_fill_holes(ndimage.binary_closing(gray + white > 0.25, iterations=4))
        ijk = np.indices(self.shape).reshape(3, -1)
        self.mm = (self.affine[:3, :3] @ ijk + self.affine[:3, 3:]).astype(np.float32)
        self.axes_mm = [
            2 * np.arange(n, dtype=np.float32) + np.float32(self.affine[a, 3]) for a, n in enumerate(self.shape)
        ]
        self.depth_mm, self.surface_mm = self._surface(inside)
        fluid = np.clip(1 - gray - white, 0, 1)
        ventricles = (fluid > 0.5) & (self.depth_mm.reshape(self.shape) > MEDIAN_DEPTH_MM)
        x, y, z = np.abs(self.mm[0]), self.mm[1], self.mm[2]
        lateral = (x < 42) & (x > 2) & ((x > 7) | (y > -30)) & ((z > 2) | (x > 15))
        ventricles &= lateral.reshape(self.shape)
        self.ventricle_mm = _signed_mm(ventricles).ravel()
        self.eye_mm = np.minimum(*(self.distance_mm(np.array(eye)) for eye in EYES_MM))
        self.gray, self.white = gray.ravel(), white.ravel()
        self.tissue = self.gray + self.white > 0.5
        self.cerebellum = np.isin(self.territory, POSTERIOR_FOSSA)

    def _surface(self, inside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the depth of each voxel below the surface of the brain, and the nearest place on it (mm)."""
        signed = ndimage.gaussian_filter(_signed_mm(inside), 1.0)
        _, nearest = ndimage.distance_transform_edt(inside, return_indices=True)
        above = [ndimage.gaussian_filter(n.astype(np.float32), 1.5) for n in nearest]
        return -signed.ravel(), 2 * np.stack(above).reshape(3, -1)

    @cached_property
    def territory_mm(self) -> np.ndarray:
        """Distance of each voxel from each territory's nearest point, mm (territories, voxels)."""
        return np.stack([
            np.min([self.distance_mm(np.array(p) * [x, 1, 1]) for p in t.points for x in (-1, 1)], axis=0)
            for t in TERRITORIES
        ])  # fmt: skip

    @cached_property
    def territory(self) -> np.ndarray:
        return self.territory_mm.argmin(0)

    @cached_property
    def fossa(self) -> np.ndarray:
        """Share of each voxel that is cerebellum or brainstem, with soft edges."""
        return ndimage.gaussian_filter(self.cerebellum.reshape(self.shape).astype(np.float32), 1.5).ravel()

    def distance_mm(self, point: np.ndarray, stretch: np.ndarray | float = 1.0) -> np.ndarray:
        """Distance of each voxel from a point, mm, each axis over its stretch."""
        x, y, z = self._squares(point, stretch)
        return np.sqrt(x[:, None, None] + (y[:, None] + z)).ravel()

    def bump(self, point: np.ndarray, radii_mm: np.ndarray | float) -> np.ndarray:
        """A smooth bump of height 1 that falls to 1/e at its radii."""
        x, y, z = (np.exp(-square) for square in self._squares(point, radii_mm))
        return (x[:, None, None] * (y[:, None] * z)).ravel()

    def _squares(self, point: np.ndarray, stretch: np.ndarray | float) -> list[np.ndarray]:
        """Along each axis the squared distance of the grid's planes from a point, over the stretch."""
        sides = zip(self.axes_mm, point, np.broadcast_to(stretch, 3), strict=True)
        return [((axis - np.float32(p)) / np.float32(r)) ** 2 for axis, p, r in sides]

    def smooth_field(self, rng: np.random.Generator, scale_mm: float) -> np.ndarray:
        """A smooth random field of unit standard deviation."""
        return smooth_field(rng, self.shape, (2.0, 2.0, 2.0), scale_mm).ravel()


template = lru_cache(maxsize=1)(Template)


def _halved(volume: np.ndarray) -> np.ndarray:
    """The mean of each 2 x 2 x 2 voxels."""
    x, y, z = (n // 2 for n in volume.shape)
    return volume[: 2 * x, : 2 * y, : 2 * z].reshape(x, 2, y, 2, z, 2).mean((1, 3, 5))


def _sharper(shares: np.ndarray) -> np.ndarray:
    """Sharpen tissue maps: the template is blurred by averaging over many people."""
    return np.clip(shares + 1.0 * (shares - ndimage.gaussian_filter(shares, 1.0)), 0, 1)


def _signed_mm(inside: np.ndarray) -> np.ndarray:
    """Distance from the border of a mask in mm, negative within it, cut off at 30 mm."""
    out = ndimage.distance_transform_edt(~inside) - ndimage.distance_transform_edt(inside)
    return np.clip(2 * out, -FAR_MM, FAR_MM).astype(np.float32)
