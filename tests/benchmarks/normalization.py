"""Z-score per slice or per volume? The same network on the same demo patients, paired by seed (of split and weights).

Not among the default benchmarks: it trains twice per seed. It is why `normalization` is "volume" by default.
"""

import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from components.core.machine import cpus
from components.ingest.discover import discover
from components.ingest.ingest import check
from components.preprocess.preprocess import preprocess
from components.split.split import split
from components.train.augment import light
from components.train.data import EpochBatches, StackDataset, loader, read_index
from components.train.score import validate
from components.train.train import _epoch
from components.unet.network import AttentionUNet
from pipelines import presets
from pipelines.demo.scans import write_demo_scans

SEEDS, EPOCHS = int(os.environ.get("SEEDS", 3)), 14


def measure() -> Iterator[dict]:
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        scans, cases = root / "scans", root / "cases"
        write_demo_scans(scans)
        facts = check(discover(p.relative_to(scans).as_posix() for p in scans.rglob("*") if p.is_file()), scans, cases)
        (cases / "cases.json").write_text(json.dumps(facts))
        for seed in range(1, SEEDS + 1):
            best = {name: _best_val_dice(cases, root / f"{name}{seed}", name, seed) for name in ("slice", "volume")}
            yield {
                "what": f"best validation Dice in {EPOCHS} epochs on the demo scans, seed {seed}",
                **{name: round(value, 3) for name, value in best.items()},
                "difference": round(best["volume"] - best["slice"], 3),
            }


def _best_val_dice(cases: Path, folder: Path, normalization: str, seed: int) -> float:
    settings = presets.load("demo")
    preprocess(cases, folder, settings.image_size, normalization)
    ratios = (settings.train_ratio, settings.val_ratio, settings.test_ratio)
    split(cases, folder / "split.json", folder / "split.html", ratios, seed)
    parts = json.loads((folder / "split.json").read_text())["cases"]
    torch.set_num_threads(cpus())
    torch.manual_seed(seed)
    network = AttentionUNet(settings.base_channels).to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(network.parameters(), lr=settings.learning_rate, weight_decay=1e-5, fused=True)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    dataset = StackDataset(read_index(folder, parts["train"]), light(0.3, 0.25, 0.2))
    batches = EpochBatches(dataset.has_lesion, settings.batch_size, settings.lesion_free_ratio, seed)
    data, validation = loader(dataset, batches, torch.device("cpu"), cpus()), read_index(folder, parts["val"])
    scores = []
    for batches.epoch in range(1, EPOCHS + 1):
        _epoch(network, data, optimizer, scaler, "dice", "bfloat16", torch.channels_last, batches.epoch)
        scores.append(np.mean([dice for _, dice in validate(network, validation, "dice", "bfloat16")]))
    return max(scores)
