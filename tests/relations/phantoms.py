"""Simple heads with a lesion, and a network that has learnt them in seconds."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from scipy import ndimage

from components.artifacts.slices import Slices
from components.ingest.discover import discover
from components.ingest.ingest import check
from components.model.losses import LOSSES
from components.model.network import AttentionUNet
from components.preprocess.preprocess import preprocess
from components.train.data import grid_cases
from tests.relations.changes import Scan

SHAPE = (96, 112, 12)
LAS_2X2X5_MM = nib.affines.from_matvec(np.diag([-2.0, 2.0, 5.0]), [95, -111, -27])
GRID = {"image_size": 64, "pixel_mm": 3.2, "normalization": "head"}
BASE_CHANNELS, BATCH, STEPS, LEARNING_RATE = 4, 12, 60, 6e-3


def phantom(seed: int) -> tuple[Scan, np.ndarray, np.ndarray]:
    """A scan of a head of about 150 x 190 mm with ventricles and noise, in a unit of its own; the lesion, the head."""
    rng = np.random.default_rng(seed)
    at = np.stack(np.meshgrid(*[np.arange(n) - (n - 1) / 2 for n in SHAPE], indexing="ij"), axis=-1)
    mm = at * np.abs(np.diag(LAS_2X2X5_MM)[:3]) - rng.uniform(-8, 8, 3) * (1, 1, 0)
    turn = rng.uniform(-0.15, 0.15)
    x, y, z = mm[..., 0] + turn * mm[..., 1], mm[..., 1] - turn * mm[..., 0], mm[..., 2]
    size = rng.uniform(0.9, 1.08)
    head = (x / 72) ** 2 + (y / 92) ** 2 + (z / 60) ** 2 < size**2
    ventricles = (((np.abs(x) - 10) / 6) ** 2 + (y / 28) ** 2 + (z / 15) ** 2 < 1) & head
    angle, far = rng.uniform(0, 2 * np.pi), rng.uniform(25, 50)
    centre = far * np.cos(angle), 1.2 * far * np.sin(angle), rng.uniform(-12, 12)
    radius = rng.uniform(9, 17)
    lesion = head & ((x - centre[0]) ** 2 + (y - centre[1]) ** 2 + (z - centre[2]) ** 2 < radius**2)
    texture = ndimage.gaussian_filter(rng.normal(size=SHAPE), (4, 4, 1))
    tissue = head * (1 + 0.12 * texture / texture.std() - 0.6 * ventricles + rng.uniform(1.0, 1.6) * lesion)
    blurred = ndimage.gaussian_filter(tissue, (0.8, 0.8, 0))
    noise = rng.normal(0, 0.03, (2, *SHAPE))
    voxels = 10 ** rng.uniform(1, 3) * np.hypot(blurred + noise[0], noise[1])
    return Scan(f"phantom-{seed}", voxels.astype(np.float32), LAS_2X2X5_MM), lesion, head


def train(folder: Path, write_case, phantoms: int) -> Path:
    """Write the weights folder of a network that learnt so many phantoms."""
    scans, cases, slices, weights = (folder / name for name in ("scans", "cases", "slices", "weights"))
    for seed in range(phantoms):
        scan, lesion, _ = phantom(seed)
        write_case(scans, f"sub-{seed}", affine=scan.affine, dwi=scan.voxels, mask=lesion.astype(np.uint8))
    found = discover(path.relative_to(scans).as_posix() for path in scans.rglob("*.nii.gz"))
    validated = check(found, scans, cases)
    validated.write(cases)
    preprocess(cases, slices, **GRID)
    network = learnt(slices, [case.case for case in validated.cases])
    weights.mkdir()
    torch.save(network.state_dict(), weights / "best_model.pth")
    grid = Slices.read(slices).model_dump(exclude={"cases"})
    network_facts = {"base_channels": BASE_CHANNELS, "precision": "float32", "threshold": 0.5, "tta": True}
    (weights / "model.json").write_text(json.dumps(grid | network_facts))
    return weights


def learnt(slices: Path, names: list[str]) -> AttentionUNet:
    """A small network after `STEPS` steps on the slices, turned and mirrored at random."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    stacks, masks = [], []
    for case in grid_cases(slices, Slices.read(slices), names):
        stacks.append(torch.from_numpy(np.load(case.image)[case.order]).float())
        masks.append(torch.from_numpy(np.load(case.mask)).float())
    x_NCHW, y_N1HW = torch.cat(stacks), torch.cat(masks)[:, None]
    with_lesion = y_N1HW.flatten(1).any(1).double() + 0.5
    network = AttentionUNet(BASE_CHANNELS).train()
    optimiser = torch.optim.Adam(network.parameters(), LEARNING_RATE)
    for _ in range(STEPS):
        rows = torch.multinomial(with_lesion, BATCH)
        x_BCHW, y_B1HW = x_NCHW[rows], y_N1HW[rows]
        if rng.random() < 0.5:
            x_BCHW, y_B1HW = x_BCHW.flip(-1), y_B1HW.flip(-1)
        loss = LOSSES["dice+bce"](network(x_BCHW), y_B1HW)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return network.eval()
