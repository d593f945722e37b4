"""Training slices: read from memory maps, stacked in 2.5D, augmented, in an order that depends on the seed."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from components.artifacts.slices import Slices
from components.core.errors import StepError
from components.model.placement import Placement
from components.train import data_workers
from components.train.augment import Augmentation

MOST_WORKERS = 8


@dataclass(frozen=True)
class GridCase:
    """One case on the model grid."""

    image: Path
    """Array (slices, size, size), float16; the slices of the ADC follow those of the DWI."""
    mask: Path
    """Array (slices, size, size), uint8."""
    order: np.ndarray
    """Rows of `image` that the network sees for each slice, int (slices, 3 or 6)."""
    lesion_pixels: np.ndarray
    """Number for each slice."""
    placement: Placement
    native_ml: float
    """Volume of a voxel of the scan, mL."""
    patient: str
    case: str

    @property
    def pixel_ml(self) -> float:
        """Volume of a pixel of the model grid, mL."""
        return self.native_ml * self.placement.voxels_per_pixel


def grid_cases(folder: Path, slices: Slices, names: list[str]) -> list[GridCase]:
    """Return the named cases of a folder that preprocess wrote, in the given order.

    Raises:
        StepError: preprocess wrote no case of this name.
    """
    by_name = {case.case: case for case in slices.cases}
    if missing := [name for name in names if name not in by_name]:
        raise StepError(f"the split names the case {missing[0]}, and {folder / Slices.FILE} does not have it. "
                        "Run preprocess and split again on the same cases.")  # fmt: skip
    return [
        GridCase(
            folder / case.image,
            folder / case.mask,
            np.asarray(case.neighbours),
            np.asarray(case.lesion_pixels),
            Placement(**case.placement.model_dump()),
            case.voxel_ml,
            case.patient,
            case.case,
        )
        for case in (by_name[name] for name in names)
    ]


class StackDataset(Dataset):
    """Item (row, seed) is one augmented slice: stack (H, W, 3 or 6) float32 and lesion (H, W) uint8."""

    def __init__(self, cases: list[GridCase], augment: Augmentation):
        self.cases, self.augment = cases, augment
        self.rows = [(c, s) for c, case in enumerate(cases) for s in range(len(case.order))]
        self.lesion_pixels = np.array([cases[c].lesion_pixels[s] for c, s in self.rows])
        self.has_lesion = self.lesion_pixels > 0
        self.patients = np.array([cases[c].patient for c, _ in self.rows])

    @property
    def side(self) -> int:
        """Pixels along a side of the model grid."""
        return np.load(self.cases[0].mask, mmap_mode="r").shape[-1]

    @property
    def channels(self) -> int:
        """Channels of the network's input."""
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
        # Not set_random_seed: it gives all transforms the same draws, so each flipped slice would be rotated too.
        self.augment.set_random_state(np.random.default_rng(seed), random.Random(seed))  # noqa: S311 - no secret
        out = self.augment(image=stack_HWC, mask=lesion_HW)
        return out["image"], out["mask"]


class EpochBatches(Sampler[list[tuple[int, int]]]):
    """Batches of (row, seed) for one epoch: all slices with lesion, and `lesion_free_ratio` times as many without.

    With `patients` (the patient of each row), patients are drawn before slices: each patient gives the same number of
    slices (or one more), so some slices are drawn more often than others.

    The batches depend on the seed and the epoch only, so a resumed training gets the same ones. It skips the first
    `done` batches. Of each batch, process `rank` of `ranks` gets its share, which may be empty in the last batch.

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
            raise StepError("no training slice has a lesion on the model grid: the grid is too coarse for these "
                            "lesions. Raise image_size.")  # fmt: skip
        self.free = min(len(self.without), round(len(self.with_lesion) * lesion_free_ratio))
        self.batch_size, self.seed, self.epoch, self.done = batch_size, seed, 0, 0

    @property
    def slices(self) -> int:
        """Slices in an epoch."""
        return len(self.with_lesion) + self.free

    @property
    def per_epoch(self) -> int:
        """Batches in an epoch, including skipped ones."""
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
        """Return the expected share of lesion in the pixels of an epoch; `lesion_pixels` counts those of each row."""
        pixels = lesion_pixels[self.with_lesion]
        if self.patients is None:
            mean = pixels.mean()
        else:
            of = self.patients[self.with_lesion]
            mean = np.mean([pixels[of == patient].mean() for patient in np.unique(of)])
        return float(mean * len(self.with_lesion) / (self.slices * side**2))


def _evenly(rows: np.ndarray, patients: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Draw `count` rows, the same number (or one more) per patient; a row again only after all rows of its patient."""
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
    """Return a loader of batches (B, H, W, 3 or 6) and (B, H, W); it uses worker processes when a GPU trains."""
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
        # torch reports the end of a forked worker at once, of others only after `timeout`. Python 3.14 has another
        # default.
        multiprocessing_context="fork" if number else None,
        collate_fn=partial(_collate, dataset.side, dataset.channels),
    )


def _collate(side: int, channels: int, items: list[tuple[np.ndarray, np.ndarray]]) -> tuple[torch.Tensor, torch.Tensor]:
    if not items:
        return torch.empty(0, side, side, channels), torch.empty(0, side, side, dtype=torch.uint8)
    images, masks = zip(*items, strict=True)
    return torch.from_numpy(np.stack(images)), torch.from_numpy(np.stack(masks))
