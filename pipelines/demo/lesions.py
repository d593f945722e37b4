"""Place and grow lesions; and draw what looks like a lesion on DWI but is not one."""

import numpy as np
from scipy.stats import norm

from pipelines.demo.anatomy import POSTERIOR_FOSSA, TERRITORIES, template
from pipelines.demo.patient import OUT_OF_REACH
from pipelines.demo.protocol import Protocol

GOLDEN_RATIO = (5**0.5 - 1) / 2
NAMES = [t.name for t in TERRITORIES]
KINDS = {
    "territory": (2.0, 320.0, 0.4),
    "branch": (0.5, 60.0, 0.25),
    "lacune": (0.05, 2.5, 0.3),
    "cortex": (0.1, 15.0, 0.2),
    "watershed": (0.5, 25.0, 0.1),
    "emboli": (0.3, 30.0, 0.35),
    "brainstem": (0.05, 4.0, 0.12),
}
"""Kind of lesion to its smallest and largest volume in mL and its weight among those that a volume allows."""

LEAST_EMBOLUS_ML = 0.1
"""On average, of a shower of emboli."""
DEEP = ("lacune", "brainstem")
"""Kinds that are round, and may touch the midline."""
SURFACE = [n for n in NAMES if n not in ("MCA deep", "thalamus", "brainstem")]
HOMES = {
    "brainstem": ["brainstem"],
    "lacune": ["MCA deep", "thalamus", "brainstem", "MCA superior"],
    "branch": SURFACE,
    "cortex": SURFACE,
    "watershed": [n for n in SURFACE if not n.startswith("cerebellum")],
}
"""Kind of lesion to the territories where it may start; the others start in any."""


def lesion_volume_ml(index: int, seed: int) -> float:
    """Return the lesion volume of a patient in mL; 0 for the 1 in 8 who has none.

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


def draw_kind(rng: np.random.Generator, volume_ml: float) -> str:
    weight = {kind: share for kind, (low, high, share) in KINDS.items() if low <= volume_ml <= high}
    weight = weight or {"territory" if volume_ml > 1 else "lacune": 1.0}
    return str(rng.choice(list(weight), p=np.array(list(weight.values())) / sum(weight.values())))


def lesion_score(rng: np.random.Generator, kind: str, volume_ml: float) -> np.ndarray:
    """Return how early each template voxel joins a growing lesion of a kind, in mm from its core (0 and below).

    A lesion stays on its side, and above or below the tentorium; emboli from the heart go everywhere.
    """
    brain, home = template(), _home(rng, kind, volume_ml)
    radius_mm = (volume_ml * 1000 * 3 / (4 * np.pi)) ** (1 / 3)
    left, midline_mm = rng.random() < 0.5, 2 if kind in DEEP else -1
    reachable = (brain.mm[0] < midline_mm) == left
    reachable &= (brain.cerebellum == (home in POSTERIOR_FOSSA)) & (brain.depth_mm > -1)
    if kind == "emboli":
        score = np.full(len(brain.gray), OUT_OF_REACH, np.float32)
        reachable = brain.depth_mm > -1 if rng.random() < 0.5 else reachable
        emboli = int(rng.integers(3, int(4 + min(32, volume_ml / LEAST_EMBOLUS_ML))))
        radius_mm /= emboli ** (1 / 3)
    else:
        score = _core_score(rng, kind, home, reachable, radius_mm)
        emboli = int(rng.integers(1, 16)) if kind not in DEEP and rng.random() < 0.35 else 0
    seats = np.flatnonzero(reachable & brain.tissue & ((brain.gray > 0.4) | (rng.random() < 0.3)))
    for embolus in brain.mm[:, rng.choice(seats, emboli)].T:
        later_mm = radius_mm * rng.uniform(*((0, 0.8) if kind == "emboli" else (0.4, 1.1)))
        score = np.maximum(score, -brain.distance_mm(embolus, np.exp(rng.normal(0, 0.3, 3))) - later_mm)
    score += min(7.0, 0.3 * radius_mm) * brain.smooth_field(rng, float(np.clip(radius_mm, 4, 14)))
    score += min(3.0, 0.2 * radius_mm) * brain.smooth_field(rng, 4.0)
    return np.where(reachable, score, OUT_OF_REACH).astype(np.float32)


def _home(rng: np.random.Generator, kind: str, volume_ml: float) -> int:
    """Return the territory where the lesion starts, one that is large enough."""
    share = np.array([t.share * (t.largest_ml >= volume_ml) for t in TERRITORIES])
    if kind in HOMES:
        share *= np.isin(NAMES, HOMES[kind])
    return int(rng.choice(len(TERRITORIES), p=share / share.sum()))


def _core_score(rng: np.random.Generator, kind: str, home: int, reachable: np.ndarray, radius_mm: float) -> np.ndarray:
    """Return the score of a lesion that grows from one place."""
    brain = template()
    own_mm, places = brain.territory_mm[home], reachable & brain.tissue
    beyond_mm = 1.3 * np.clip(own_mm - brain.territory_mm.min(0), 0, None)
    if kind == "watershed":
        border_mm = np.abs(own_mm - np.delete(brain.territory_mm, home, 0).min(0))
        core = _one(rng, places & (border_mm < 2) & (brain.mm[2] > 10))
        score = -1.5 * border_mm - rng.uniform(0.25, 0.5) * brain.distance_mm(core)
        return score + rng.uniform(-3, 6) * (brain.gray - 0.5)
    fitting = places & (beyond_mm == 0)
    if kind == "lacune" and home not in POSTERIOR_FOSSA:
        fitting &= brain.depth_mm > 18
    if kind == "cortex":
        fitting &= (brain.gray > 0.6) & (brain.depth_mm < 12)
    core = _one(rng, fitting if fitting.any() else places)
    if kind in DEEP:
        return -radius_mm * brain.distance_mm(core, radius_mm * np.exp(rng.normal(0, 0.3, 3)))
    score = -brain.distance_mm(core, np.exp(rng.normal(0, 0.15, 3))) - beyond_mm
    if kind == "branch":  # a wedge that widens towards the surface
        score -= rng.uniform(0.3, 0.9) * brain.depth_mm.clip(0)
    along_cortex_mm = rng.uniform(6, 14) if kind == "cortex" else rng.uniform(-3, 6)
    return score + along_cortex_mm * (brain.gray - 0.5)


def _one(rng: np.random.Generator, places: np.ndarray) -> np.ndarray:
    """The place (mm) of one voxel of a mask."""
    return template().mm[:, rng.choice(np.flatnonzero(places))]


TRACTS_MM = (
    ((24, -20, 6), (5, 9, 9)), ((24, -22, 22), (5, 10, 10)), ((13, -22, -10), (5, 5, 9)), ((7, -24, -28), (4, 5, 10)),
    ((10, -40, 12), (12, 5, 6)), ((8, 26, 8), (9, 4, 7)), ((28, -34, 30), (6, 12, 9)),
)  # fmt: skip
"""Internal capsule, cerebral peduncle, pyramid, splenium, genu, corona radiata: centre (|x|, y, z) and radii."""
CORTEX_MM = (
    ((38, 4, 0), (7, 18, 14)), ((6, 34, 16), (6, 18, 18)), ((24, -12, -20), (9, 14, 8)), ((20, 16, -18), (14, 10, 7)),
)  # fmt: skip
"""Insula, cingulate gyrus, hippocampus, orbitofrontal cortex."""
IRON_MM = (((18, -4, 0), (6, 9, 7)), ((26, 2, 2), (6, 12, 9)), ((10, -18, -10), (5, 5, 4)), ((14, -58, -34), (6, 7, 5)))
"""Pallidum, putamen, red nucleus and substantia nigra, dentate nucleus."""
CHOROID_MM = ((20, -42, 8), (14, -30, 16))


def look_alikes(rng: np.random.Generator, protocol: Protocol) -> dict[str, np.ndarray]:
    """Draw what resembles a lesion but is not one, independent of the lesion: name to a value of each template voxel.

    Shares: shine_through, old white-matter lesions (a long T2, no low ADC); choroid (bright on DWI, high ADC); old,
    cavities of old infarcts, filled with fluid; rim, the scar around them. What a patient does not have is left out.
    gain: brightness without a change of ADC, of tracts that run across the diffusion gradients, of limbic cortex, of
    nuclei rich in iron (below 1).
    """
    brain, drawn = template(), {}
    wobble = brain.smooth_field(rng, 5.0)
    if rng.random() < protocol.shine_through:
        near_ventricle = brain.ventricle_mm + 3 * np.clip(12 - brain.depth_mm, 0, None)
        shine = np.clip((rng.uniform(0, 7) + 3 * wobble - near_ventricle) / 4, 0, 1) * (brain.white > 0.3)
        for _ in range(int(rng.integers(0, 8))):
            place = _one(rng, (brain.white > 0.8) & (brain.depth_mm > 8))
            blob = (rng.uniform(2, 7) - brain.distance_mm(place, np.exp(rng.normal(0, 0.3, 3))) + 1.5 * wobble) / 3
            shine = np.maximum(shine, np.clip(blob + 0.5, 0, 1))
        drawn["shine_through"] = shine
    if rng.random() < protocol.choroid_plexus:
        sides = []
        for x in (-1, 1):
            blob = np.max([4 - brain.distance_mm(np.array(p) * [x, 1, 1]) for p in CHOROID_MM], axis=0) + wobble
            sides.append(np.clip(blob / 2 + 0.5, 0, 1) * np.float32(rng.uniform(0.5, 1)))
        drawn["choroid"] = np.maximum(*sides)
    if rng.random() < protocol.old_infarcts:
        volume_ml = float(np.exp(rng.uniform(np.log(0.1), np.log(60))))
        score = lesion_score(rng, draw_kind(rng, volume_ml), volume_ml)
        reached = score[score > OUT_OF_REACH / 2]
        count = min(int(volume_ml * 1000 / 8) + 1, reached.size)
        inside_mm = score - np.partition(reached, -count)[-count]
        drawn["old"], drawn["rim"] = np.clip(inside_mm / 3, 0, 1), np.clip(inside_mm / 3 + 1.5, 0, 1)
    gain = 1 - np.minimum(_bumps(rng, IRON_MM, 0.5), 0.6)
    if rng.random() < protocol.bright_tracts:
        gain += _bumps(rng, TRACTS_MM, 0.35)
    if rng.random() < protocol.bright_cortex:
        gain += _bumps(rng, CORTEX_MM, 0.4) * brain.gray
    return drawn | {"gain": gain}


def _bumps(rng: np.random.Generator, places: tuple, most: float) -> np.ndarray:
    """The sum of smooth bumps on either side, each of a height of its own; the sides differ by a little."""
    brain, strength = template(), rng.uniform(0.3, 1)
    out = np.zeros(len(brain.gray), np.float32)
    for centre, radii in places:
        height = strength * rng.uniform(0, most)
        for x in (-1, 1):
            bump = brain.bump(np.array(centre) * [x, 1, 1] + rng.normal(0, 1, 3), radii)
            out += np.float32(height * rng.uniform(0.85, 1.15)) * bump
    return out
