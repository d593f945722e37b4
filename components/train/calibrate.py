"""Calibrate a trained model: temperature, volume intervals, and the limits beyond which a prediction is flagged.

Temperature, intervals and usual doubt are learnt from the validation patients. The same patients chose the weights and
the threshold before, so all of it is somewhat optimistic; evaluate reports how it holds on the test patients.
"""

import logging
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.special import expit, logit
from torch import nn

from components.artifacts.cases import Case
from components.artifacts.trained_model import HeadLimits, TrainedModel, UsualHeads, VolumeInterval
from components.core.machine import cpus
from components.core.usual_range import prediction_bound
from components.model.average_head import Portrait, portrait
from components.model.calibration import histogram
from components.model.inference import native_probability
from components.model.lesions import lesion_mask
from components.model.out_of_range import appearance
from components.model.plausibility import measures, overlooked_root, unconfirmed_root
from components.model.uncertainty import SELDOM, WIDE_ABOVE_ML, uncertainty, volume_interval
from components.scans.head import find_head
from components.scans.volumes import read
from components.train.data import GridCase
from components.train.learn_average_head import learn_average
from components.train.learn_temperature import fitted_temperature

VOLUME_PERCENT = 90
"""Percent of validation patients whose volume lies in its interval."""
DOUBT_FLAGGED, DISAGREEMENT_FLAGGED, SHARE_FLAGGED = 0.025, 0.015, 0.005
"""Probability that a usual scan is flagged: for doubt, for disagreement with the rule, for a large lesion."""
FEWEST_DOUBTS = 10
"""With fewer validation scans there is no limit for doubt: it would flag one correct scan in seven."""
LEAST_DOUBT = 1e-3
"""Keeps the logit finite."""


@dataclass(frozen=True)
class CalibrationScan:
    """Measures of a training or validation scan. The last three are None if no head is found."""

    appearance: dict[str, float]
    has_lesion: bool
    true_ml: float | None
    portrait: Portrait | None = None
    mask_measures: dict[str, float] | None = None
    """`measures` of the true mask of a training scan, or the predicted mask of a validation scan."""
    lesion_share: float | None = None
    """Share of the head that the true mask fills."""


def calibrate(
    network: nn.Module,
    trained: TrainedModel,
    folder: Path,
    cases: Mapping[str, Case],
    validation: list[GridCase],
    training: list[Case],
) -> TrainedModel:
    """Return the model with temperature, volume interval, and usual ranges of doubt, scans and heads.

    Only a few scans are in memory at a time.

    Args:
        network: The trained network.
        trained: The model with its threshold.
        folder: The scans of `cases`, in native space.
        cases: Name to case.
        validation: The validation cases on the model grid.
        training: The training cases.
    """
    with ThreadPoolExecutor(cpus()) as pool:
        scans = list(pool.map(lambda case: _measure(folder, case), training))
    errors: dict[str, float] = {}
    voxels, doubt_histograms = [], []
    for grid_case in validation:
        case, slices = cases[grid_case.case], np.load(grid_case.image, mmap_mode="r")
        probability = native_probability(network, trained, slices, grid_case.order, grid_case.placement)
        truth = read(folder / case.files["mask"])[0] > 0
        mask = lesion_mask(probability, trained, case.voxel_mm)
        if case.voxel_mm:
            found, true = (np.cbrt(m.sum() * np.prod(case.voxel_mm) / 1000) for m in (mask, truth))
            errors[case.patient] = max(errors.get(case.patient, 0.0), float(abs(found - true)))
        voxels.append([histogram(probability[truth == lesion]) for lesion in (False, True)])
        doubt_histograms.append((histogram(probability[mask]), histogram(probability[~mask])))
        scans.append(_measure(folder, case, mask))
    background, lesion = np.sum(voxels, axis=0)
    temperature = fitted_temperature(background, lesion)
    interval = _interval(list(errors.values()), scans)
    logging.info("temperature %.2f%s", temperature, _interval_text(interval))
    return trained.model_copy(
        update={
            "temperature": temperature,
            "volume_interval": interval,
            "uncertainty": _usual_doubt(doubt_histograms, temperature, scans),
            "seen": _ranges(scans),
            "heads": _usual_heads(scans),
        }
    )


def conformal_bound(values: list[float], percent: int) -> tuple[float, float]:
    """Return the value that a further one does not exceed with this probability, and the probability reached.

    Split conformal: the k-th smallest of n values, k = percent of n + 1 rounded up. If n is too small for that, the
    largest, which holds with probability n / (n + 1).
    """
    n = len(values)
    k = -(-percent * (n + 1) // 100)
    return sorted(values)[min(k, n) - 1], percent / 100 if k <= n else n / (n + 1)


def _interval(errors: list[float], scans: list[CalibrationScan]) -> VolumeInterval | None:
    """Return the interval from errors of cube roots of volumes, one per patient; None without voxel sizes."""
    if not errors:
        return None
    bound, level = conformal_bound(errors, VOLUME_PERCENT)
    interval = VolumeInterval(cube_root_ml=bound, level=level, patients=len(errors))
    return interval.model_copy(update={"wide": _wide_share(scans, interval)})


def _measure(folder: Path, case: Case, predicted: np.ndarray | None = None) -> CalibrationScan:
    """Measure a scan with its predicted mask; with its true mask if there is no predicted one."""
    volume, truth = read(folder / case.files["dwi"])[0], read(folder / case.files["mask"])[0] > 0
    voxel_mm = case.voxel_mm
    measured, head = appearance(volume, voxel_mm), find_head(volume, voxel_mm)
    true_ml = float(truth.sum() * np.prod(voxel_mm) / 1000) if voxel_mm else None
    if not head.found:
        return CalibrationScan(measured, bool(truth.any()), true_ml)
    mask_measures = measures(truth if predicted is None else predicted, volume, voxel_mm, head)
    share = float(truth.sum() / head.mask.sum())
    return CalibrationScan(measured, bool(truth.any()), true_ml, portrait(volume, voxel_mm, head), mask_measures, share)


def _ranges(scans: list[CalibrationScan]) -> dict[str, tuple[float, float]]:
    """Return the lowest and highest value of each measure of appearance."""
    ranges: dict[str, tuple[float, float]] = {}
    for scan in scans:
        for name, value in scan.appearance.items():
            low, high = ranges.get(name, (value, value))
            ranges[name] = min(low, value), max(high, value)
    return ranges


def _usual_doubt(
    histograms: list[tuple[np.ndarray, np.ndarray]], temperature: float, scans: list[CalibrationScan]
) -> dict[str, float | None]:
    """Return the largest usual doubt in a `mask` and in an `empty` mask, bounded on the scale of its logit.

    None if there was no such predicted and no such true mask; 1, which no doubt exceeds, if there were too few.
    """
    logits: dict[str, list[float]] = {"mask": [], "empty": []}
    for inside, outside in histograms:
        doubt = np.clip(uncertainty(inside, outside, temperature), LEAST_DOUBT, 1 - LEAST_DOUBT)
        logits["mask" if inside.any() else "empty"].append(float(logit(doubt)))
    true = {"mask": any(scan.has_lesion for scan in scans), "empty": not all(scan.has_lesion for scan in scans)}
    limits: dict[str, float | None] = {}
    for kind, values in logits.items():
        bound = prediction_bound(values, DOUBT_FLAGGED) if len(values) >= FEWEST_DOUBTS else None
        limits[kind] = float(expit(bound)) if bound is not None else 1.0 if values or true[kind] else None
    return limits


def _share_limit(shares: list[float]) -> float | None:
    """Return the cube root of the largest usual share of a head; it is at least that of each training scan."""
    bound = prediction_bound(np.cbrt(shares).tolist(), SHARE_FLAGGED)
    return None if bound is None else max(bound, float(np.cbrt(max(shares))))


def _usual_heads(scans: list[CalibrationScan]) -> UsualHeads:
    """Return what is usual of heads and of the lesions in them."""
    portraits = [scan.portrait for scan in scans if scan.portrait is not None]
    shares = [scan.lesion_share for scan in scans if scan.lesion_share is not None]
    masks = [scan.mask_measures for scan in scans if scan.mask_measures is not None]
    limits = None
    if len(portraits) > 1:
        limits = HeadLimits(
            most_share=max(shares),
            share_root=_share_limit(shares),
            unconfirmed_root=prediction_bound([unconfirmed_root(mask) for mask in masks], DISAGREEMENT_FLAGGED),
            overlooked_root=prediction_bound([overlooked_root(mask) for mask in masks], DISAGREEMENT_FLAGGED),
        )
    return UsualHeads(not_found=1 - len(portraits) / len(scans), average=learn_average(portraits), limits=limits)


def _wide_share(scans: list[CalibrationScan], interval: VolumeInterval) -> float:
    """Return the share of the scans with more than 5 mL of lesion whose interval is wider than the volume."""
    volumes = [scan.true_ml for scan in scans if (scan.true_ml or 0) > WIDE_ABOVE_ML]
    wide = 0
    for ml in volumes:
        low, high, _ = volume_interval(ml, interval)
        wide += low is not None and high is not None and ml is not None and high - low > ml
    return wide / max(len(volumes), 1)


def _interval_text(interval: VolumeInterval | None) -> str:
    if interval is None:
        return "; no volume interval, because no validation scan has a voxel size"
    text = f"; cube roots of volumes within {interval.cube_root_ml:.2f} (mL) for {interval.level:.0%} of patients"
    if interval.wide > SELDOM:
        text += (
            f"; above {WIDE_ABOVE_ML:g} mL the interval is wider than the volume for {interval.wide:.0%} of scans, so "
            "no scan is flagged for that"
        )
    return text
