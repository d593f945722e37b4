"""The brain that the demo scans are made of: MNI152 tissue maps, arterial territories, lesions.

Everything here lives on the template's 2 mm grid, except ``grow_lesion``, which works on the
patient's own.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache

import nibabel as nib
import numpy as np
from scipy import ndimage, spatial
from scipy.stats import norm

OUT_OF_REACH = -1000.0  # mm
GOLDEN_RATIO = (5**0.5 - 1) / 2
SKULL_BASE_MM = ((46, -18, -28), (14, 44, -20))  # above petrous bone and sinuses: EPI pile-up
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
    Territory("MCA deep", 0.18, 20, ((26, 2, 2), (23, -8, 16), (16, 10, 8))),
    Territory("ACA", 0.06, 60, ((8, 58, 0), (8, 42, 28), (8, 12, 56), (8, -22, 62), (8, -48, 50))),
    Territory("PCA", 0.14, 70, ((12, -84, 4), (28, -76, -8), (32, -44, -14), (14, -22, 8), (10, -58, 12))),
    Territory("cerebellum", 0.10, 50, ((24, -62, -44), (10, -68, -26), (38, -58, -34))),
    Territory("pons", 0.06, 5, ((5, -26, -32), (5, -22, -24), (5, -36, -48))),
)
POSTERIOR_FOSSA = [i for i, t in enumerate(TERRITORIES) if t.name in ("cerebellum", "pons")]


class Template:
    """Tissue fractions, territory index and position (mm) of each template voxel."""

    def __init__(self) -> None:
        from nilearn import datasets  # two seconds, wanted by the simulation alone

        gray = datasets.load_mni152_gm_template(resolution=2)
        self.affine = gray.affine
        self.gray = gray.get_fdata(dtype=np.float32)
        self.white = datasets.load_mni152_wm_template(resolution=2).get_fdata(dtype=np.float32)
        self.brain = datasets.load_mni152_brain_mask(resolution=2).get_fdata(dtype=np.float32)
        self.tissue = self.gray + self.white > 0.5
        ijk = np.moveaxis(np.indices(self.gray.shape), 0, -1)
        mm = nib.affines.apply_affine(self.affine, ijk)
        self.mm = np.moveaxis(mm, -1, 0).astype(np.float32)

    @cached_property
    def territory(self) -> np.ndarray:
        points = np.concatenate([territory.points for territory in TERRITORIES])
        owner = np.repeat(np.arange(len(TERRITORIES)), [len(t.points) for t in TERRITORIES])
        folded = np.stack([np.abs(self.mm[0]), self.mm[1], self.mm[2]], axis=-1)
        return owner[spatial.cKDTree(points).query(folded)[1]]

    @cached_property
    def head(self) -> tuple[np.ndarray, np.ndarray]:
        """Scalp, and the fluid of meninges and eyes, around the brain."""
        outside_mm = 2 * ndimage.distance_transform_edt(self.brain < 0.5)
        eyes = np.min([self.distance_mm(eye) for eye in EYES_MM], axis=0) < 12
        fluid = ((outside_mm > 0) & (outside_mm < 2.5)) | (eyes & (outside_mm > 6))
        scalp = (outside_mm > 8) & (outside_mm < 14) & ~fluid
        return scalp.astype(np.float32), fluid.astype(np.float32)

    def distance_mm(self, point: np.ndarray) -> np.ndarray:
        return np.sqrt(sum((axis - centre) ** 2 for axis, centre in zip(self.mm, point, strict=True)))

    def smooth_field(self, rng: np.random.Generator, scale_mm: float) -> np.ndarray:
        """A Gaussian random field of unit standard deviation."""
        white_noise = rng.standard_normal(self.gray.shape, dtype=np.float32)
        field = ndimage.gaussian_filter(white_noise, scale_mm / 2, truncate=3, mode="wrap")
        return field / field.std()


template = lru_cache(maxsize=1)(Template)


def lesion_volume_ml(index: int, seed: int) -> float:
    """Lesion volume of a patient in mL; 0 for the 1 in 8 who has none.

    The 5th, 50th and 95th percentiles of a published series of 1,449 acute strokes, 0.3, 12.7 and 197 mL, lean to
    the left in log: no plain log-normal has them (the nearest misses by 18, 28 and 18 %). One cut off at 320 mL,
    about what a carotid artery feeds, meets all three; mu and sigma solve for that. Additive golden-ratio draws span
    the range in a small set and need not know its size.
    """
    if index % 8 == 5:
        return 0.0
    mu, sigma, largest_ml = 2.8916, 2.4039, 320.0
    uniform = (np.random.default_rng(seed).random() + index * GOLDEN_RATIO) % 1
    below_largest = norm.cdf((np.log(largest_ml) - mu) / sigma)
    return float(np.exp(mu + sigma * norm.ppf(max(uniform, 0.001) * below_largest)))


def lesion_score(rng: np.random.Generator, volume_ml: float) -> np.ndarray:
    """How early each template voxel joins a growing infarct, in mm from its core (0 and below).

    It grows in the territory of its core first, with an uneven border, and never across the midline
    or the tentorium. An embolic shower adds smaller cores elsewhere on the same side.
    """
    brain = template()
    share = np.array([t.share * (t.largest_ml >= volume_ml) for t in TERRITORIES])
    chosen = rng.choice(len(TERRITORIES), p=share / share.sum())
    same_side = (brain.mm[0] > 0) == (rng.random() < 0.5)
    reachable = same_side & (np.isin(brain.territory, POSTERIOR_FOSSA) == (chosen in POSTERIOR_FOSSA))
    territory = reachable & (brain.territory == chosen)
    radius_mm = (volume_ml * 1000 * 3 / (4 * np.pi)) ** (1 / 3)

    core = rng.choice(brain.mm[:, territory & brain.tissue].T)
    score = -brain.distance_mm(core) - 1.5 * 2 * ndimage.distance_transform_edt(~territory)
    emboli = int(rng.integers(1, 13)) if rng.random() < 0.5 else 0
    for embolus in rng.choice(brain.mm[:, reachable & brain.tissue].T, emboli):
        later_mm = radius_mm * rng.uniform(0.6, 1.0)
        score = np.maximum(score, -brain.distance_mm(embolus) - later_mm)
    score += min(8.0, 0.35 * radius_mm) * brain.smooth_field(rng, min(8.0, 2 + radius_mm / 4))
    return np.where(reachable, score, OUT_OF_REACH).astype(np.float32)


def grow_lesion(score: np.ndarray, tissue: np.ndarray, volume_voxels: float) -> tuple[float, np.ndarray, np.ndarray]:
    """Lower the score's threshold, by bisection, until the lesion has its volume, and a voxel at least.

    ``score`` and ``tissue`` are (x, y, slice, subslice). Returns the threshold, the lesion's share of
    each subvoxel's tissue (edges are 3 mm wide), and the mask: voxels that it fills by half or more.
    """

    def grown_to(threshold: float) -> tuple[np.ndarray, np.ndarray]:
        share = np.clip((score - threshold) / 3.0 + 0.5, 0, 1)
        return share, (share * tissue).mean(axis=-1) >= 0.5

    low, high = -400.0, float(score.max()) + 3.0
    for _ in range(24):
        threshold = (low + high) / 2
        low, high = (low, threshold) if grown_to(threshold)[1].sum() < volume_voxels else (threshold, high)
    return low, *grown_to(low)


def shine_through_map(rng: np.random.Generator, free_of_lesion: np.ndarray) -> np.ndarray:
    """Old white-matter lesions and EPI pile-up above the skull base: bright T2, no ADC drop."""
    brain = template()
    places = brain.mm[:, free_of_lesion & (brain.white > 0.8)].T
    blobs = [(place, rng.uniform(3, 8)) for place in rng.choice(places, int(rng.integers(2, 7)))]
    blobs += [(np.array(p) * [rng.choice([-1, 1]), 1, 1], rng.uniform(0, 9)) for p in SKULL_BASE_MM]
    inside_mm = np.max([radius - brain.distance_mm(place) for place, radius in blobs], axis=0)
    wobble_mm = 1.5 * brain.smooth_field(rng, scale_mm=4)
    return np.clip((inside_mm + wobble_mm) / 4.0 + 0.5, 0, 1) * (inside_mm > -8)
