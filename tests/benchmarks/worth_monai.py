"""MONAI's AttentionUnet with the recipe that its tutorials teach, out of MONAI's own parts.

It sees what our network sees: the DWI, or the DWI and the ADC map as two channels.

Pixels of 1.5 mm, z-score over the voxels that are not zero, crops of slices half of them around lesion, flips,
rotation, scale, noise, Dice plus cross-entropy, AdamW at a rate that falls along a cosine, the weights with the best
Dice of the validation patients; each slice predicted in sliding windows, the probability brought home to the scan.
"""

import copy
import json
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from monai.data import CacheDataset, DataLoader
from monai.inferers import SliceInferer
from monai.losses import DiceCELoss
from monai.metrics import DiceMetric
from monai.networks.nets import AttentionUnet
from monai.transforms import (
    Compose,
    CropForegroundd,
    EnsureChannelFirstd,
    EnsureTyped,
    FgBgToIndicesd,
    Invertd,
    LoadImaged,
    NormalizeIntensityd,
    Orientationd,
    RandAffined,
    RandCropByPosNegLabeld,
    RandFlipd,
    RandGaussianNoised,
    RandScaleIntensityd,
    SelectItemsd,
    Spacingd,
    SpatialPadd,
    SqueezeDimd,
    Transform,
)
from monai.utils import set_determinism

from components.artifacts.cases import Case
from components.core.machine import cpus
from components.core.settings import Settings
from components.evaluate.metrics import case_metrics
from components.model.grid import CHANNELS
from components.scans.volumes import read
from tests.benchmarks.worth_cost import Cost, at_start
from tests.benchmarks.worth_scans import labelled

SPACING_MM = (1.5, 1.5, -1)
"""-1 leaves the slices as thick as they are."""
LEARNING_RATE, WEIGHT_DECAY = 1e-3, 1e-5
CROPS, VALIDATIONS = 4, 6
"""Crops of a patient at a time; validations in a training, the last one at its end."""
LEVELS = (1, 2, 4, 8, 16)
BOTH = ("image", "label")


def train(data: Path, model: Path, settings: Settings, seconds: float, seed: int) -> dict:
    """Train for so many seconds at the width, on crops as wide as the grid and in batches as large as `settings` say.

    Writes `weights.pt` and `facts.json` into `model`. Returns `seconds`, without reading and caching the scans,
    `prepared_seconds` of that, `epochs` (passes over the patients) and what `Cost` measures.
    """
    at_start()
    torch.set_num_threads(cpus())
    side, start = settings.image_size, time.perf_counter()
    channels = CHANNELS[settings.inputs]
    training, validation = (_cached(data, subset, side, channels) for subset in ("train", "val"))
    loader = DataLoader(training, batch_size=max(1, settings.batch_size // CROPS), shuffle=True)
    prepared = time.perf_counter() - start

    epochs = _epochs_within(seconds, settings.base_channels, len(channels), loader, validation, side)
    set_determinism(seed)
    learner = Learner(settings.base_channels, len(channels), epochs * len(loader))
    validated = {round(epochs * (n + 1) / VALIDATIONS) for n in range(VALIDATIONS)}
    best, weights, start = -1.0, {}, time.perf_counter()
    with Cost() as cost:
        for epoch in range(1, epochs + 1):
            learner.learn(cost.batches(loader, _size))
            if epoch in validated and (dice := _validated(learner.network, validation, side)) > best:
                best, weights = dice, copy.deepcopy(learner.network.state_dict())
    model.mkdir(parents=True, exist_ok=True)
    torch.save(weights, model / "weights.pt")
    (model / "facts.json").write_text(json.dumps({"side": side, "width": settings.base_channels, "channels": channels}))
    took = time.perf_counter() - start
    return {"seconds": took, "prepared_seconds": prepared, "epochs": epochs, **cost.as_dict()}


def measure(model: Path, cases: Path) -> list[dict]:
    """Return the metrics of each labelled scan, in its own space."""
    facts = json.loads((model / "facts.json").read_text())
    torch.set_num_threads(cpus())
    network = _network(facts["width"], len(facts["channels"])).to(_where()).eval()
    network.load_state_dict(torch.load(model / "weights.pt", weights_only=True))
    prepare = Compose([*_placed(("image",), facts["side"]), _normalized()])
    home = Invertd("probability", prepare, "image", nearest_interp=False)
    results = []
    for record in labelled(cases):
        scan = prepare({"image": _images(cases, record, facts["channels"])})
        scan["probability"] = _probability(network, scan["image"], facts["side"])
        predicted = np.asarray(home(scan)["probability"][0]) >= 0.5
        truth = read(cases / record.files["mask"])[0] > 0
        results.append({"patient": record.patient, **case_metrics(predicted, truth, record.voxel_mm)})
    return results


class Learner:
    """The network with its loss and its optimiser, whose rate falls to 0 over so many steps."""

    def __init__(self, width: int, channels: int, steps: int):
        self.where = _where()
        self.mixed = self.where.type == "cuda"
        self.network = _network(width, channels).to(self.where)
        self.loss = DiceCELoss(sigmoid=True)
        self.optimizer = torch.optim.AdamW(self.network.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, steps)
        self.scaler = torch.amp.GradScaler(self.where.type, enabled=self.mixed)

    def learn(self, batches: Iterable[dict]) -> None:
        self.network.train()
        for batch in batches:
            images, lesions = (batch[name].to(self.where) for name in BOTH)
            self.optimizer.zero_grad()
            with torch.autocast(self.where.type, enabled=self.mixed):
                value = self.loss(self.network(images), lesions)
            self.scaler.scale(value).backward()
            self.scaler.step(self.optimizer)
            self.scaler.update()
            self.schedule.step()


def _epochs_within(
    seconds: float, width: int, channels: int, loader: DataLoader, validation: CacheDataset, side: int
) -> int:
    """How many passes over the patients fit beside the validations; measured on a network that is then left."""
    learner, marks = Learner(width, channels, 2 * len(loader)), []
    for step in (learner.learn, learner.learn, lambda _: _validated(learner.network, validation, side)):
        marks.append(time.perf_counter())
        step(loader)
    epoch, validating = marks[2] - marks[1], time.perf_counter() - marks[2]
    return max(1, int((seconds - VALIDATIONS * validating) / epoch))


def _placed(keys: tuple[str, ...], side: int) -> list[Transform]:
    modes = {"image": "bilinear", "label": "nearest"}
    return [
        LoadImaged(keys),
        EnsureChannelFirstd(keys),
        Orientationd(keys, "RAS", labels=None),
        Spacingd(keys, SPACING_MM, mode=[modes[key] for key in keys]),
        CropForegroundd(keys, "image", allow_smaller=True),
        SpatialPadd(keys, (side, side, -1)),
    ]


def _normalized() -> Transform:
    return NormalizeIntensityd("image", nonzero=True, channel_wise=True)


def _images(cases: Path, record: Case, channels: Sequence[str]) -> list[Path]:
    return [cases / record.files[channel] for channel in channels]


def _cached(data: Path, subset: str, side: int, channels: Sequence[str]) -> CacheDataset:
    """Random crops of the scans to train on, the whole scans to validate on."""
    names = set(json.loads((data / "split.json").read_text())["cases"][subset])
    files = [
        {"image": _images(data / "cases", record, channels), "label": data / "cases" / record.files["mask"]}
        for record in labelled(data / "cases")
        if record.case in names
    ]
    steps = [
        *_placed(BOTH, side),
        FgBgToIndicesd("label", image_key="image"),
        _normalized(),
        EnsureTyped(BOTH, track_meta=False),
    ]
    return CacheDataset(files, Compose(steps + _augmented(side) * (subset == "train")), progress=False)


def _augmented(side: int) -> list[Transform]:
    places = {"fg_indices_key": "label_fg_indices", "bg_indices_key": "label_bg_indices"}
    return [
        RandCropByPosNegLabeld(BOTH, "label", (side, side, 1), pos=1, neg=1, num_samples=CROPS, **places),
        SelectItemsd(BOTH),
        SqueezeDimd(BOTH, dim=-1),
        RandFlipd(BOTH, prob=0.5, spatial_axis=0),
        RandFlipd(BOTH, prob=0.5, spatial_axis=1),
        RandAffined(BOTH, prob=0.5, rotate_range=0.26, scale_range=0.15, mode=("bilinear", "nearest"),
                    padding_mode="zeros"),
        RandScaleIntensityd("image", factors=0.1, prob=0.5),
        RandGaussianNoised("image", prob=0.15, std=0.1),
    ]  # fmt: skip


def _network(width: int, channels: int) -> AttentionUnet:
    return AttentionUnet(2, channels, 1, [width * level for level in LEVELS], [2] * (len(LEVELS) - 1))


@torch.inference_mode()
def _probability(network: AttentionUnet, image: torch.Tensor, side: int) -> torch.Tensor:
    """Lesion probability (1, X, Y, S) of a scan (1, X, Y, S)."""
    slide = SliceInferer(roi_size=(side, side), sw_batch_size=16, spatial_dim=2, mode="gaussian")
    return torch.sigmoid(slide(image[None].to(_where()), network))[0].cpu()


def _validated(network: AttentionUnet, validation: CacheDataset, side: int) -> float:
    """Mean Dice of the validation scans that have a lesion, at their spacing."""
    network.eval()
    metric = DiceMetric()
    for scan in validation:
        metric((_probability(network, scan["image"], side) >= 0.5)[None], scan["label"][None])
    return float(metric.aggregate())


def _size(batch: dict) -> tuple[int, int]:
    return len(batch["image"]), batch["image"][0, 0].numel()


def _where() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
