"""Training images/s against a plain loop in the style of the user's baseline; at least 1.8 is wanted.

The plain loop: float32, contiguous tensors, all slices in RAM, Adam as it comes, the same network, the
same augmentation, the same batches. Both see 384 x 384 slices; the width is small so that it runs here.
"""

import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from components.artifacts.slices import CaseSlices, GridPlacement, Slices
from components.core.machine import cpus
from components.core.settings import Settings, checked
from components.model.device import device
from components.model.losses import dice_loss
from components.model.network import AttentionUNet
from components.model.placement import Placement
from components.train.augment import light
from components.train.autotune import choose
from components.train.data import EpochBatches, StackDataset, grid_cases, loader
from components.train.learn import _epoch
from components.train.learner import Learner
from components.train.progress import Progress

SIDE, WIDTH, BATCH, SLICES, ROUNDS = 384, 8, 8, 32, 3
SETTINGS = Settings()


class InRam(Dataset):
    """Every stack as a float32 array, loaded beforehand."""

    def __init__(self, source: StackDataset):
        quiet = StackDataset(source.cases, light(0, 0, 0))
        self.items = [quiet[row, 0] for row in range(len(quiet))]
        self.augment = light(SETTINGS.aug_hflip_prob, SETTINGS.aug_rotate_prob, SETTINGS.aug_brightness_prob)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, row: int):
        out = self.augment(image=self.items[row][0], mask=self.items[row][1])
        return torch.from_numpy(out["image"].transpose(2, 0, 1).copy()), torch.from_numpy(out["mask"][None]).float()


def measure() -> Iterator[dict]:
    torch.set_num_threads(cpus())
    where = device()
    with tempfile.TemporaryDirectory() as folder:
        dataset = _dataset(Path(folder))
        batches = EpochBatches(dataset.has_lesion, BATCH, 1.0, 0)
        precision, memory_format = choose(where, WIDTH, "auto", "auto")
        settings = checked({"base_channels": WIDTH, "epochs": ROUNDS + 1, "loss": "dice", "ema_decay": 0})
        ours = Learner(settings, dataset.channels, where, precision, memory_format, batches.per_epoch, 0.01)
        data = loader(dataset, batches, where, cpus())
        plain = AttentionUNet(WIDTH).to(where)
        adam = torch.optim.Adam(plain.parameters(), lr=1e-4, weight_decay=1e-5)
        plain_data = DataLoader(InRam(dataset), BATCH, shuffle=True)
        seconds = {"ours": [], "plain": []}
        for epoch in range(ROUNDS + 1):
            batches.epoch = epoch
            progress = Progress(where, {})
            start = time.perf_counter()
            _epoch(ours, data, progress)
            middle = time.perf_counter()
            _plain_epoch(plain, plain_data, adam, where)
            if epoch:
                seconds["ours"].append(middle - start)
                seconds["plain"].append(time.perf_counter() - middle)
    ratios = [p / o for p, o in zip(seconds["plain"], seconds["ours"], strict=True)]
    yield {
        "what": f"training images/s, width {WIDTH}, {SIDE}², ours ({precision}, {memory_format}) to plain float32",
        "ratio": round(statistics.median(ratios), 2),
        "wanted": ">= 1.8",
        "spread": [round(min(ratios), 2), round(max(ratios), 2)],
        "ours_images_per_s": round(SLICES / statistics.median(seconds["ours"]), 2),
        "plain_images_per_s": round(SLICES / statistics.median(seconds["plain"]), 2),
    }


def _plain_epoch(network, data, optimizer, where) -> None:
    network.train()
    for x_BCHW, y_B1HW in data:
        optimizer.zero_grad()
        loss = dice_loss(network(x_BCHW.to(where)), y_B1HW.to(where))
        loss.backward()
        optimizer.step()
        loss.item()


def _dataset(folder: Path) -> StackDataset:
    rng = np.random.default_rng(0)
    mask = np.zeros((SLICES, SIDE, SIDE), np.uint8)
    mask[: SLICES // 2, 100:140, 100:140] = 1
    np.save(folder / "a.image.npy", rng.normal(0, 1, mask.shape).astype(np.float16))
    np.save(folder / "a.mask.npy", mask)
    order = np.arange(SLICES)
    neighbours = np.stack([np.maximum(order - 1, 0), order, np.minimum(order + 1, SLICES - 1)], 1)
    case = CaseSlices(
        case="a", patient="a", image="a.image.npy", mask="a.mask.npy", neighbours=neighbours.tolist(),
        lesion_pixels=mask.sum((1, 2)).tolist(), voxel_ml=0.001,
        placement=GridPlacement(**Placement((SIDE, SIDE, SLICES), SIDE).as_dict()),
    )  # fmt: skip
    augment = light(SETTINGS.aug_hflip_prob, SETTINGS.aug_rotate_prob, SETTINGS.aug_brightness_prob)
    return StackDataset(grid_cases(folder, Slices.model_construct(cases=[case]), ["a"]), augment)
