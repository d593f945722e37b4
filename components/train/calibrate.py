"""How far a model can be trusted, learnt once its weights, threshold and smallest lesion are chosen.

Volumes, temperature and doubt are learnt from the validation patients, who chose the threshold and the weights before:
all of it is optimistic by so much, and how it holds on the test patients is what evaluate reports.
"""

import json
import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.special import expit, logit

from components.core.machine import cpus
from components.core.usual_range import prediction_bound
from components.model.average_head import Portrait, learn_average, portrait
from components.model.calibration import fitted_temperature, histogram
from components.model.inference import load_model, native_probability
from components.model.lesions import lesion_mask
from components.model.out_of_range import appearance
from components.model.plausibility import measures, overlooked_root, unconfirmed_root
from components.model.uncertainty import SELDOM, WIDE_ABOVE_ML, uncertainty, volume_interval
from components.scans.head import find_head
from components.scans.volumes import read
from components.train.data import CaseSlices

VOLUME_PERCENT = 90
"""Of validation patients whose volume lies in its interval."""
DOUBTED, DISAGREED, LARGER = 0.025, 0.015, 0.005
"""Chance that a scan like those learnt from is flagged: for doubt, for the rule's disagreement, for a large share."""
FEWEST_DOUBTS = 10
"""Fewer validation scans, which chose the weights too, set no limit for doubt: it flagged one right scan in seven."""
LEAST_DOUBT = 1e-3
"""So that a logit is finite."""


@dataclass(frozen=True)
class Observed:
    """A training or validation scan, as flags are learnt from it.

    masked: `measures` of the mask that is asked about, the true one of a training scan and the predicted one of a
    validation scan; share: of the head, that the true mask fills. All None where no head is found.
    """

    appearance: dict[str, float]
    lesion: bool
    true_ml: float | None
    portrait: Portrait | None = None
    masked: dict[str, float] | None = None
    share: float | None = None


def learn_trust(model: Path, cases: Path, validation: list[CaseSlices], training: list[str]) -> dict:
    """What `findings` and `calibrated` need, for `model.json`; a few scans at a time in memory.

    temperature. volume_interval: cube_root_ml (the most that cube roots of volumes are off), level, patients, wide
    (share of the scans above 5 mL whose interval would be wider than the volume); left out where no voxel size is
    known. uncertainty: the most that is nothing unusual, of a `mask` and of an `empty` one, None where that alone is
    unusual. seen: lowest and highest of `appearance`, training and validation scans. heads: see `_heads`.
    """
    network, facts = load_model(model)
    records = {c["case"]: c for c in json.loads((cases / "cases.json").read_text())["cases"]}
    with ThreadPoolExecutor(cpus()) as pool:
        observed = list(pool.map(lambda name: _observed(cases, records[name]), training))
    errors: dict[str, float] = {}
    voxels, doubtful = [], []
    for case in validation:
        record, slices = records[case.case], np.load(case.image, mmap_mode="r")
        probability = native_probability(network, facts, slices, case.order, case.placement)
        truth = read(cases / record["files"]["mask"])[0] > 0
        mask = lesion_mask(probability, facts, record["voxel_mm"])
        if record["voxel_mm"]:
            found, true = (np.cbrt(m.sum() * np.prod(record["voxel_mm"]) / 1000) for m in (mask, truth))
            errors[case.patient] = max(errors.get(case.patient, 0.0), float(abs(found - true)))
        voxels.append([histogram(probability[truth == lesion]) for lesion in (False, True)])
        doubtful.append([histogram(probability[mask == inside]) for inside in (True, False)])
        observed.append(_observed(cases, record, mask))
    temperature = fitted_temperature(*np.sum(voxels, axis=0))
    learnt = {
        "temperature": temperature,
        "uncertainty": _unsure(doubtful, temperature, observed),
        "seen": _seen(observed),
        "heads": _heads(observed),
    }
    if errors:
        off, level = attained(list(errors.values()), VOLUME_PERCENT)
        learnt["volume_interval"] = {"cube_root_ml": off, "level": level, "patients": len(errors)}
        learnt["volume_interval"]["wide"] = _wide(observed, learnt["volume_interval"])
    logging.info("temperature %.2f%s", temperature, _interval_in_words(learnt))
    return learnt


def attained(values: list[float], percent: int) -> tuple[float | None, float | None]:
    """The value that a further one of their kind does not exceed with this probability, and the probability.

    Split conformal: of n values the k-th smallest, k = percent of n + 1 rounded up. Where n is too small for that the
    largest, which holds with n / (n + 1). Of none (None, None).
    """
    n = len(values)
    if not n:
        return None, None
    k = -(-percent * (n + 1) // 100)
    return sorted(values)[min(k, n) - 1], percent / 100 if k <= n else n / (n + 1)


def _observed(cases: Path, record: dict, mask: np.ndarray | None = None) -> Observed:
    """`mask` is the predicted one; the true one is taken where there is none."""
    volume, truth = read(cases / record["files"]["dwi"])[0], read(cases / record["files"]["mask"])[0] > 0
    voxel_mm = record["voxel_mm"]
    seen, head = appearance(volume, voxel_mm), find_head(volume, voxel_mm)
    true_ml = float(truth.sum() * np.prod(voxel_mm) / 1000) if voxel_mm else None
    if not head.found:
        return Observed(seen, bool(truth.any()), true_ml)
    masked = measures(truth if mask is None else mask, volume, voxel_mm, head)
    share = float(truth.sum() / head.mask.sum())
    return Observed(seen, bool(truth.any()), true_ml, portrait(volume, voxel_mm, head), masked, share)


def _seen(observed: list[Observed]) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for scan in observed:
        for name, value in scan.appearance.items():
            low, high = found.get(name, (value, value))
            found[name] = [min(low, value), max(high, value)]
    return found


def _unsure(doubtful: list, temperature: float, observed: list[Observed]) -> dict[str, float | None]:
    """The doubt in a mask and in an empty one that is unusual, bounded on the scale of its logit.

    None where no prediction was such a one and no true mask either; 1, which is never exceeded, where too few were.
    """
    values = {"mask": [], "empty": []}
    for inside, outside in doubtful:
        doubt = np.clip(uncertainty(inside, outside, temperature), LEAST_DOUBT, 1 - LEAST_DOUBT)
        values["mask" if inside.any() else "empty"].append(float(logit(doubt)))
    known = {"mask": any(scan.lesion for scan in observed), "empty": not all(scan.lesion for scan in observed)}
    limits = {}
    for kind, logits in values.items():
        bound = prediction_bound(logits, DOUBTED) if len(logits) >= FEWEST_DOUBTS else None
        limits[kind] = float(expit(bound)) if bound is not None else 1.0 if logits or known[kind] else None
    return limits


def _share_limit(shares: list[float]) -> float | None:
    """Cube root of the share of a head beyond which it is unusual; no training scan is."""
    bound = prediction_bound(np.cbrt(shares), LARGER)
    return None if bound is None else max(bound, float(np.cbrt(max(shares))))


def _heads(observed: list[Observed]) -> dict:
    """What is usual of heads and of the lesions in them.

    not_found: share of the scans in which no head is found. average: see `learn_average`. limits: see `implausible`;
    None where fewer than two scans have a head.
    """
    heads = [scan for scan in observed if scan.portrait]
    shares = [scan.share for scan in heads]
    roots = {
        "share_root": _share_limit(shares),
        "unconfirmed_root": prediction_bound([unconfirmed_root(scan.masked) for scan in heads], DISAGREED),
        "overlooked_root": prediction_bound([overlooked_root(scan.masked) for scan in heads], DISAGREED),
    }
    return {
        "not_found": 1 - len(heads) / len(observed),
        "average": learn_average([scan.portrait for scan in heads]),
        "limits": {"most_share": max(shares), **roots} if len(heads) > 1 else None,
    }


def _wide(observed: list[Observed], learnt: dict) -> float:
    """Share of the scans with more than 5 mL of lesion whose interval would be wider than the volume."""
    volumes = [scan.true_ml for scan in observed if (scan.true_ml or 0) > WIDE_ABOVE_ML]
    wide = 0
    for ml in volumes:
        low, high, _ = volume_interval(ml, learnt)
        wide += high - low > ml
    return wide / max(len(volumes), 1)


def _interval_in_words(learnt: dict) -> str:
    if "volume_interval" not in learnt:
        return "; no voxel size is known, so no volume interval either"
    how = learnt["volume_interval"]
    said = f"; cube roots of volumes within {how['cube_root_ml']:.2f} (mL) for {how['level']:.0%} of patients"
    if how["wide"] > SELDOM:
        said += (
            f"; above {WIDE_ABOVE_ML:g} mL the interval is wider than the volume for {how['wide']:.0%} of scans, so no "
            "scan is flagged for that"
        )
    return said
