"""Which scans a person is called to look at: deliberately wrong ones, and unseen ones as the model has learnt from.

print(flags(Path("folder of best_model.pth and model.json")))
"""

import json
import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage

from components.core.machine import cpus
from components.model.inference import load_model, predict_volume
from components.model.lesions import lesion_mask
from components.model.uncertainty import assess
from components.scans.adc import in_kept_unit
from components.scans.head import find_head
from components.scans.volumes import BadVolume, Geometry, read, require_scan
from pipelines.demo.scans import simulate_scan
from tests.evidence.page import table
from tests.relations import real

SEED, RIGHT, WRONG = 2011, 60, 24
"""Of the demo scans: none of them is one that the demo learns from. Of the first 24 every wrong input is made."""
ADDED_ML, MOVED_MM = 100.0, 60.0
REFUSED = "refused: "


@dataclass(frozen=True)
class Scan:
    """DWI, b0, ADC map (1e-3 mm²/s) and true mask, each (X, Y, S) in RAS+; None where there is none."""

    dwi: np.ndarray
    b0: np.ndarray | None
    adc: np.ndarray | None
    mask: np.ndarray | None
    voxel_mm: tuple[float, float, float]


INPUTS: dict[str, Callable[[Scan], np.ndarray | None]] = {
    "a b0 given as DWI": lambda scan: scan.b0,
    "an ADC map given as DWI": lambda scan: scan.adc,
    "upside-down (front and back swapped)": lambda scan: np.flip(scan.dwi, 1),
    "slices reversed": lambda scan: np.flip(scan.dwi, 2),
    "upside-down and slices reversed": lambda scan: np.flip(scan.dwi, (1, 2)),
    "noise without a head": lambda scan: np.random.default_rng(0).rayleigh(20, scan.dwi.shape),
    "no contrast": lambda scan: np.full_like(scan.dwi, 100),
}
"""What may be given in place of a scan, and is wrong."""


def _added(predicted: np.ndarray, head: np.ndarray, scan: Scan) -> np.ndarray:
    """100 mL more around a place that is not predicted."""
    free = np.argwhere(head & ~predicted)
    place = free[np.random.default_rng(0).integers(len(free))]
    far = ndimage.distance_transform_edt(~_only(place, head.shape), sampling=scan.voxel_mm)
    voxels = int(ADDED_ML * 1000 / np.prod(scan.voxel_mm))
    return predicted | (head & (far <= np.sort(far[head])[min(voxels, head.sum() - 1)]))


def _only(place: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[tuple(place)] = True
    return mask


OUTPUTS: dict[str, Callable[[np.ndarray, np.ndarray, Scan], np.ndarray]] = {
    "the whole head predicted": lambda predicted, head, scan: head,
    f"{ADDED_ML:g} mL of healthy head predicted too": _added,
    f"the head's outline predicted {MOVED_MM:g} mm beside it": lambda predicted, head, scan: np.roll(
        head & ~ndimage.binary_erosion(head), round(MOVED_MM / scan.voxel_mm[0]), 0
    ),
}
"""What a network may answer, and is wrong: from its own mask, the head and the scan."""


def flags(weights: Path) -> str:
    """Rates of flagged scans, right and wrong, and the same of the real scans."""
    with ProcessPoolExecutor(cpus(), multiprocessing.get_context("spawn")) as pool:
        rows = list(pool.map(partial(_demo_rows, weights), range(RIGHT)))
        of_real = list(pool.map(partial(_real_rows, weights), real.nifti_names()))
    kinds = ["right", *INPUTS, *OUTPUTS]
    right = [_rate("right", [row["right"] for row in rows])]
    wrong = [_rate(kind, [row[kind] for row in rows if kind in row]) for kind in kinds[1:]]
    every = _rate("all wrong inputs", [row[kind] for row in rows for kind in INPUTS if kind in row])
    said = [[str(n), row["true"], row["predicted"], row["right"]] for n, row in enumerate(rows) if row["right"]]
    header = ["", "scans", "flagged", "refused", "flagged or refused"]
    at_most = json.loads((weights / "model.json").read_text())["params"]
    return f"""Of the demo's champion, which learnt from {at_most["train_patients"]} patients and was validated on
{at_most["val_patients"]}; the scans are {RIGHT} others of the demo's generator (seed {SEED}), the wrong ones are made
of the first {WRONG}. Of right scans at most 10 % should be flagged, of wrong inputs at least 95 %.

{table(header, [*right, *wrong[: len(INPUTS)], every, *wrong[len(INPUTS) :]])}

Right scans that were flagged:

{table(["scan", "true, mL", "predicted, mL", "why"], said)}

Real scans, which the demo's model has not seen the like of. A cell says whether the scan was flagged.

{table(["", *(row["scan"] for row in of_real)], _columns(of_real))}"""


def _rate(kind: str, said: list[str]) -> list[str]:
    refused = sum(text.startswith(REFUSED) for text in said)
    flagged = sum(bool(text) for text in said) - refused
    return [kind, str(len(said)), str(flagged), str(refused), f"{(flagged + refused) / len(said):.0%}"]


def _columns(rows: list[dict[str, str]]) -> list[list[str]]:
    names = ["true", "predicted", "right", *INPUTS]
    shown = {"true": "true, mL", "predicted": "predicted, mL", "right": "as it is"}

    def cell(text: str | None, is_number: bool) -> str:
        if text is None or is_number:
            return text or ""
        return "refused" if text.startswith(REFUSED) else "flagged" if text else "not flagged"

    return [
        [shown.get(name, name), *(cell(row.get(name), name in ("true", "predicted")) for row in rows)] for name in names
    ]


def _demo_rows(weights: Path, index: int) -> dict[str, str]:
    return {**dict(_said(weights, _demo_scan(index), index < WRONG)), "scan": str(index)}


def _real_rows(weights: Path, name: str) -> dict[str, str]:
    return {**dict(_said(weights, _real_scan(name), with_wrong=True)), "scan": name}


def _said(weights: Path, scan: Scan, with_wrong: bool) -> Iterator[tuple[str, str]]:
    """Kind and reasons, joined; of a right scan its volumes too."""
    to_ml = np.prod(scan.voxel_mm) / 1000
    look = partial(_look, *_model(weights), scan)
    reasons, mask, head = look(scan.dwi)
    yield "right", reasons
    yield "true", "" if scan.mask is None else f"{scan.mask.sum() * to_ml:.1f}"
    yield "predicted", f"{mask.sum() * to_ml:.1f}"
    if not with_wrong:
        return
    for kind, made in INPUTS.items():
        if (volume := made(scan)) is not None:
            yield kind, look(np.ascontiguousarray(volume, dtype=np.float32))[0]
    for kind, made in OUTPUTS.items():
        yield kind, look(scan.dwi, made(mask, head, scan))[0]


def _look(network, facts: dict, scan: Scan, volume: np.ndarray, answer: np.ndarray | None = None):
    """Reasons, mask and head of a volume given as the DWI; `answer` stands for the network's mask where it is given."""
    try:
        require_scan(volume)
    except BadVolume as reason:
        return f"{REFUSED}{reason}", None, None
    head = find_head(volume, scan.voxel_mm)
    if answer is None:
        probability = predict_volume(network, facts, volume, None, scan.adc, scan.voxel_mm, head)
        mask = lesion_mask(probability, facts, scan.voxel_mm)
    else:
        probability, mask = np.where(answer, 0.99, 0.001), answer
    return "; ".join(assess(probability, mask, volume, scan.voxel_mm, facts, head).review), mask, head.mask


def _demo_scan(index: int) -> Scan:
    """The b0 is what the DWI is without diffusion weighting: S exp(b ADC), b = 1000 s/mm²."""
    scan = simulate_scan(index, SEED)
    geometry = Geometry(scan.dwi.shape, scan.affine)
    dwi, adc, mask = (geometry.canonical(volume) for volume in (scan.dwi, scan.adc_mm2_s * 1e3, scan.mask))
    return Scan(dwi.astype(np.float32), dwi * np.exp(adc), adc.astype(np.float32), mask, geometry.voxel_mm)


def _real_scan(name: str) -> Scan:
    """Its b0 is computed in the same way where no file holds it."""
    (path,) = real.NIFTI.glob(f"{name}/*/dwi/*_dwi.nii.gz")
    beside = {kind: path.with_name(path.name.replace("_dwi", f"_{kind}")) for kind in ("b0", "adc")}
    dwi, geometry = read(path)
    adc = in_kept_unit(*read(beside["adc"]), dwi, geometry)[0] if beside["adc"].exists() else None
    b0 = read(beside["b0"])[0] if beside["b0"].exists() else dwi * np.exp(adc)
    truth = real.truth(name)
    return Scan(dwi, b0, adc, None if truth is None else geometry.canonical(truth), geometry.voxel_mm)


@cache
def _model(weights: Path) -> tuple:
    torch.set_num_threads(1)
    return load_model(weights)
