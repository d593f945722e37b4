"""Training slices: read from memory maps, stacked in 2.5D, augmented, in an order that a seed decides."""

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from components.core.step import StepError
from components.model.placement import Placement
from components.train import data_workers
from components.train.augment import Augmentation

MOST_WORKERS = 8


@dataclass(frozen=True)
class CaseSlices:
    """One case on the model grid: paths of its arrays and what `index.json` says of it. native_ml: of a voxel, mL."""

    image: Path
    mask: Path
    order: np.ndarray
    lesion_pixels: np.ndarray
    placement: Placement
    native_ml: float
    patient: str
    case: str

    @property
    def pixel_ml(self) -> float:
        """Volume of a pixel of the model grid, mL."""
        return self.native_ml * self.placement.voxels_per_pixel


def read_index(slices: Path, names: list[str]) -> list[CaseSlices]:
    """The named cases of a `slices` artifact, in the given order."""
    entries = {c["case"]: c for c in json.loads((slices / "index.json").read_text())["cases"]}
    return [
        CaseSlices(
            slices / e["image"],
            slices / e["mask"],
            np.asarray(e["neighbours"]),
            np.asarray(e["lesion_pixels"]),
            Placement.from_dict(e["placement"]),
            e["voxel_ml"],
            e["patient"],
            e["case"],
        )
        for e in (entries[name] for name in names)
    ]


class StackDataset(Dataset):
    """Item (row, seed) is one augmented slice: stack (H, W, 3 or 6) float32 and lesion (H, W) uint8."""

    def __init__(self, cases: list[CaseSlices], augment: Augmentation):
        self.cases, self.augment = cases, augment
        self.rows = [(c, s) for c, case in enumerate(cases) for s in range(len(case.order))]
        self.lesion_pixels = np.array([cases[c].lesion_pixels[s] for c, s in self.rows])
        self.has_lesion = self.lesion_pixels > 0
        self.patients = np.array([cases[c].patient for c, _ in self.rows])

    @property
    def side(self) -> int:
        """Pixels along a side of the model's grid."""
        return np.load(self.cases[0].mask, mmap_mode="r").shape[-1]

    @property
    def channels(self) -> int:
        """Slices that the network sees at a time."""
        return self.cases[0].order.shape[1]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, item: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        row, seed = item
        c, s = self.rows[row]
        case = self.cases[c]
        image = np.load(case.image, mmap_mode="r")
        stack_CHW = torch.from_numpy(np.asarray(image[case.order[s]])).float()
        stack_HWC = stack_CHW.permute(1, 2, 0).contiguous().numpy()
        lesion_HW = np.array(np.load(case.mask, mmap_mode="r")[s])
        # Not set_random_seed: that gives every transform the same draws, so what is flipped would be rotated too.
        self.augment.set_random_state(np.random.default_rng(seed), random.Random(seed))  # noqa: S311 - no secret
        out = self.augment(image=stack_HWC, mask=lesion_HW)
        return out["image"], out["mask"]


class EpochBatches(Sampler[list[tuple[int, int]]]):
    """Batches of (row, seed) for one epoch: as many slices with lesion as there are, `lesion_free_ratio` times without.

    Every slice with lesion is among them once. With `patients`, whose slice each row is, patients are drawn before
    slices: each gives as many, but for one, however many slices a scan is cut into, and so some slices come more often.

    Depends on the seed and the epoch alone, so a resumed run sees what the killed one would have seen: it passes over
    the `done` first batches. Of each batch it yields the share of one of `ranks` processes, which may be empty in the
    last one.

    Raises:
        StepError: no slice has a lesion.
    """

    def __init__(
        self, has_lesion: np.ndarray, batch_size: int, lesion_free_ratio: float, seed: int, rank=0, ranks=1,
        patients: np.ndarray | None = None,
    ):  # fmt: skip
        self.rank, self.ranks, self.patients = rank, ranks, patients
        self.with_lesion, self.without = np.flatnonzero(has_lesion), np.flatnonzero(~has_lesion)
        if not len(self.with_lesion):
            raise StepError("no training slice has a lesion left on the model's grid: it is too coarse for these. "
                            "Raise image_size.")  # fmt: skip
        self.free = min(len(self.without), round(len(self.with_lesion) * lesion_free_ratio))
        self.batch_size, self.seed, self.epoch, self.done = batch_size, seed, 0, 0

    @property
    def slices(self) -> int:
        """Slices in an epoch."""
        return len(self.with_lesion) + self.free

    @property
    def per_epoch(self) -> int:
        """Batches in an epoch, with those that are passed over."""
        return -(-self.slices // self.batch_size)

    def __len__(self) -> int:
        return self.per_epoch - self.done

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        rng = np.random.default_rng([self.seed, self.epoch])
        if self.patients is None:
            rows = np.concatenate([self.with_lesion, rng.choice(self.without, self.free, replace=False)])
        else:
            drawn = ((self.with_lesion, len(self.with_lesion)), (self.without, self.free))
            rows = np.concatenate([_evenly(rows, self.patients[rows], count, rng) for rows, count in drawn])
        items = [
            (int(r), int(s)) for r, s in zip(rng.permutation(rows), rng.integers(2**31, size=len(rows)), strict=True)
        ]
        for start in range(self.done * self.batch_size, len(items), self.batch_size):
            yield items[start : start + self.batch_size][self.rank :: self.ranks]

    def lesion_share(self, lesion_pixels: np.ndarray, side: int) -> float:
        """Expected share of lesion in the pixels of an epoch; `lesion_pixels` are those of each row."""
        pixels = lesion_pixels[self.with_lesion]
        if self.patients is None:
            mean = pixels.mean()
        else:
            of = self.patients[self.with_lesion]
            mean = np.mean([pixels[of == patient].mean() for patient in np.unique(of)])
        return float(mean * len(self.with_lesion) / (self.slices * side**2))


def _evenly(rows: np.ndarray, patients: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """So many of the rows, the same number of each patient but for one; none again before all of the patient's came."""
    groups = [rows[patients == patient] for patient in np.unique(patients)]
    if not groups:
        return rows
    least, more = divmod(count, len(groups))
    numbers = least + (rng.permutation(len(groups)) < more)
    drawn = []
    for group, number in zip(groups, numbers, strict=True):
        rounds = np.tile(group, (-(-number // len(group)), 1))
        drawn.append(rng.permuted(rounds, axis=1).ravel()[:number])
    return np.concatenate(drawn)


def loader(dataset: StackDataset, batches: EpochBatches, device: torch.device, cpus: int) -> DataLoader:
    """Batches (B, H, W, 3) and (B, H, W); worker processes where the CPU does not train as well."""
    on_gpu = device.type == "cuda"
    batch_bytes = batches.batch_size * dataset.side**2 * (4 * dataset.channels + 1)
    number = data_workers.with_room(min(MOST_WORKERS, cpus - 1), batch_bytes) if on_gpu else 0
    return DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=number,
        persistent_workers=number > 0,
        pin_memory=on_gpu,
        prefetch_factor=data_workers.PREFETCHED if number else None,
        timeout=data_workers.LOOK_AFTER if number else 0,
        worker_init_fn=data_workers.begin,
        # Of a fork that ends torch tells at once; of another process only after `timeout`. From Python 3.14 on the
        # default is another.
        multiprocessing_context="fork" if number else None,
        collate_fn=partial(_collate, dataset.side, dataset.channels),
    )


def _collate(side: int, channels: int, items: list[tuple[np.ndarray, np.ndarray]]) -> tuple[torch.Tensor, torch.Tensor]:
    if not items:
        return torch.empty(0, side, side, channels), torch.empty(0, side, side, dtype=torch.uint8)
    images, masks = zip(*items, strict=True)
    return torch.from_numpy(np.stack(images)), torch.from_numpy(np.stack(masks))
