"""What a scan looks like, in numbers, to hold synthetic scans against real ones.

    .venv/bin/python -m tests.support.scan_appearance [scans=24] [real scans=../shared/data/real-scans/isles-layout]

Everything is measured in the head without its outermost millimetres, where it says nothing else.
"""

import sys
from pathlib import Path

import numpy as np
from scipy import ndimage

from components.scans.head import Head, find_head
from components.scans.volumes import read

REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "real-scans" / "isles-layout"
BORDER_MM = 6.0
NEAR_LESION_MM = 6.0
"""What is compared with a lesion, or called healthy, lies at least so far from it."""
SCALES_MM = (1.0, 2.0, 4.0, 8.0)


def appearance(
    dwi: np.ndarray, voxel_mm: tuple[float, float, float], mask: np.ndarray | None = None
) -> dict[str, float]:
    """Return a scan's (X, Y, S) measures by name; those of a lesion where it has one.

    Lengths in mm, volumes in mL, intensities over the median of the head; `detail 1-2 mm` is the spread of what a
    Gaussian of 1 mm shows and one of 2 mm does not. Shares are of the head's voxels.
    """
    dwi = np.asarray(dwi, np.float32)
    head, lesion = find_head(dwi, voxel_mm), np.zeros(dwi.shape, bool) if mask is None else mask > 0
    sampling = [1 / (NEAR_LESION_MM / v) for v in voxel_mm]
    near = ndimage.distance_transform_edt(~lesion, sampling) <= 1 if lesion.any() else lesion
    values, core = dwi[head.mask], head.without_border(BORDER_MM)
    median = float(np.median(values))
    healthy = dwi[core & ~near] / median
    measures = {
        "pixel": voxel_mm[0],
        "field": max(dwi.shape[:2]) * voxel_mm[0],
        "slice": voxel_mm[2],
        "slices": dwi.shape[2],
        "head length": _side(head, 1) * voxel_mm[1],
        "head width": _side(head, 0) * voxel_mm[0],
        "head volume": float(head.mask.sum() * np.prod(voxel_mm) / 1000),
        "brightest 1 %": float(np.percentile(values, 99) / median),
        "brightest 0.1 %": float(np.percentile(values, 99.9) / median),
        "darkest 1 %": float(np.percentile(values, 1) / median),
        "darkest 10 %": float(np.percentile(values, 10) / median),
        "spread": float(values.std() / median),
        "quartiles": float(np.diff(np.percentile(healthy, (25, 75)))[0]),
        "healthy 99 %": float(np.percentile(healthy, 99)),
        "fluid share": float((healthy < 0.6).mean()),
        "middle dark share": _middle(dwi / median, head, voxel_mm),
        "noise": _noise(dwi, core & ~near) / median,
        "air": _air(dwi, head) / median,
        "empty": float((dwi == 0).mean()),
    }
    blurred = [ndimage.gaussian_filter(dwi, (mm / voxel_mm[0], mm / voxel_mm[1], 0)) / median for mm in SCALES_MM]
    for low, high, a, b in zip(SCALES_MM, SCALES_MM[1:], blurred, blurred[1:], strict=False):
        measures[f"detail {low:g}-{high:g} mm"] = float((a - b)[core & ~near].std())
    measures["rim"] = _rim(blurred[0], head)
    if lesion.any():
        measures |= {
            "lesion ml": float(lesion.sum() * np.prod(voxel_mm) / 1000),
            "lesion over brain": float(np.median(dwi[lesion]) / np.median(dwi[core & ~near])),
            "lesion spread": float(dwi[lesion].std() / np.median(dwi[lesion])),
            "lesion parts": float(ndimage.label(lesion, np.ones((3, 3, 3)))[1]),
        }
    return {name: float(value) for name, value in measures.items()}


def _side(head: Head, axis: int) -> float:
    low, high = head.edges(axis)
    return high - low


def _noise(dwi: np.ndarray, where: np.ndarray) -> float:
    """The standard deviation of what differs from pixel to pixel: second differences, robustly."""
    inside = where[:-2] & where[1:-1] & where[2:]
    return float(np.median(np.abs(dwi[:-2] - 2 * dwi[1:-1] + dwi[2:])[inside]) / 0.6745 / np.sqrt(6))


def _air(dwi: np.ndarray, head: Head) -> float:
    """The median of what lies outside the head, where the file shows anything there."""
    outside = dwi[~ndimage.binary_dilation(head.mask, iterations=8)]
    return float(np.median(outside)) if outside.size else 0.0


def _middle(relative: np.ndarray, head: Head, voxel_mm: tuple[float, float, float]) -> float:
    """The dark share of the middle of the head: the ventricles, mostly."""
    low, high = zip(*(head.edges(axis) for axis in range(3)), strict=True)
    at = np.ogrid[tuple(map(slice, relative.shape))]
    middle = [(a - (first + last) / 2) / (0.25 * (last - first)) for a, first, last in zip(at, low, high, strict=True)]
    inside = sum(m**2 for m in middle) < 1
    return float((relative[inside] < 0.6).mean())


def _rim(smooth: np.ndarray, head: Head) -> float:
    """The outermost pixels of the head over its median: how sharp its edge is."""
    rim = head.mask & ~ndimage.binary_erosion(head.mask, np.ones((3, 3, 1)))
    return float(np.median(smooth[rim]))


def of_real_scans(folder: Path = REAL) -> dict[str, dict[str, float]]:
    """Name to measures of each real scan in ISLES'22 layout; empty where the folder is absent."""
    found = {}
    for path in sorted(folder.glob("sub-*/*/dwi/*_dwi.nii.gz")):
        dwi, geometry = read(path)
        masks = list(folder.glob(f"derivatives/{path.parts[-4]}/*/*_msk.nii.gz"))
        mask = read(masks[0])[0] > 0.5 if masks else None
        found[path.parts[-4]] = appearance(dwi, geometry.voxel_mm, mask)
    return found


def of_synthetic_scans(scans) -> list[dict[str, float]]:
    return [appearance(scan.dwi, scan.voxel_mm, scan.mask) for scan in scans]


def table(real: dict[str, dict[str, float]], synthetic: list[dict[str, float]]) -> str:
    """The range of each measure, of real scans and of synthetic ones."""
    names = {name: None for measures in (*real.values(), *synthetic) for name in measures}
    lines = ["| measure | real: lowest, median, highest | synthetic: 5 %, median, 95 % |", "|---|---|---|"]
    for name in names:
        columns = [[m[name] for m in group if name in m] for group in (real.values(), synthetic)]
        shown = [np.percentile(v, p) if v else [] for v, p in zip(columns, ((0, 50, 100), (5, 50, 95)), strict=True)]
        lines.append(f"| {name} | " + " | ".join(", ".join(f"{v:.3g}" for v in values) for values in shown) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    from pipelines.demo.synthesis import make_scan

    count = int(sys.argv[1]) if len(sys.argv) > 1 else 24
    real = Path(sys.argv[2]) if len(sys.argv) > 2 else REAL
    print(table(of_real_scans(real), of_synthetic_scans(make_scan(1, i) for i in range(count))))
