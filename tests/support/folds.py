"""A small cross-validation on disk: scans, their folds, and an untrained network for each fold."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from components.artifacts.cases import Case, Cases
from components.artifacts.split_file import Split
from components.artifacts.trained_model import TENSORS, WEIGHTS, TrainedModel, VolumeInterval, digest_of
from components.core.storage import file_sha256
from components.model.network import AttentionUNet
from components.scans.volumes import write
from components.train.write_model import write_weights
from tests.support.artifacts import make_case, make_cases, make_split

PATIENTS = {"fold-1": ["A", "B"], "fold-2": ["C", "D"], "fold-3": ["E", "F"]}
THRESHOLDS, TEMPERATURES = (0.4, 0.5, 0.6), (0.5, 1.0, 2.0)
SHAPE, VOXEL_MM = (32, 32, 4), (6.0, 6.0, 5.0)


def split_into_folds(patients: dict[str, list[str]] = PATIENTS) -> Split:
    """Return the split of these patients, with one case each."""
    shares = dict.fromkeys(patients, 1 / len(patients))
    return make_split(patients, ratios_asked=shares, ratios_reached=shares)


def write_cases(folder: Path, names: list[str]) -> Cases:
    """Write a scan with a bright disc, and its mask, for each name; the last has no lesion."""
    folder.mkdir(parents=True, exist_ok=True)
    x, y = np.mgrid[-16:16, -16:16]
    made: list[Case] = []
    for number, name in enumerate(names):
        lesion = np.repeat(((x - 4) ** 2 + y**2 < 16 + 4 * number)[:, :, None], SHAPE[2], axis=2)
        lesion &= number < len(names) - 1
        head = ((x**2 + y**2) < 200)[:, :, None]
        scan = head * np.random.default_rng(number).normal(100, 5, SHAPE) + 80 * lesion
        case = make_case(name, shape=SHAPE, voxel_mm=VOXEL_MM, lesion_voxels=int(lesion.sum()))
        write(folder / case.files["dwi"], scan.astype(np.float32), np.diag([*VOXEL_MM, 1.0]))
        write(folder / case.files["mask"], lesion.astype(np.uint8), np.diag([*VOXEL_MM, 1.0]))
        made.append(case)
    cases = make_cases(made)
    cases.write(folder)
    return cases


def write_networks(folder: Path, split: Split, **facts: Any) -> list[Path]:
    """Write the model folder of an untrained network for each fold; each has its own threshold and temperature."""
    folders = []
    for fold in range(1, split.folds + 1):
        torch.manual_seed(fold)
        network, one = AttentionUNet(4), folder / f"network-{fold}"
        torch.nn.init.constant_(network.head.bias, 0.2 * fold - 0.4)
        one.mkdir(parents=True, exist_ok=True)
        write_weights(network.state_dict(), one)
        decides = {"data": "1", "split": split.of_fold(fold).digest, "code": "c", "settings": {"epochs": 2}}
        values = {
            "image_size": 32, "normalization": "volume", "base_channels": 4, "precision": "float32",
            "threshold": THRESHOLDS[fold - 1], "temperature": TEMPERATURES[fold - 1], "best_epoch": fold,
            "best_val_dice": 0.1 * fold, "training_seconds": 10.0 * fold, "decides": decides,
            "training_digest": digest_of(decides), "lineage": {"split_digest": split.of_fold(fold).digest},
            "params": {"epochs": 2, "train_patients": 10 + fold, "train_ratio": 0.6, "device": f"cpu {fold}"},
            "volume_interval": VolumeInterval(cube_root_ml=0.5 + fold / 10, level=1 - fold / 10, patients=fold),
            "uncertainty": {"mask": 0.1 * fold, "empty": None}, "seen": {"slices": (10.0 - fold, 20.0 + fold)},
            "weights_sha256": file_sha256(one / WEIGHTS), "tensors_sha256": file_sha256(one / TENSORS),
        }  # fmt: skip
        TrainedModel(**values | facts).write(one)
        (one / "history.json").write_text(json.dumps([{"epoch": 1.0, "val_dice": 0.1 * fold}]))
        folders.append(one)
    return folders
