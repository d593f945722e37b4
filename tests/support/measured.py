"""Small artifacts of train and evaluate, made by hand: 12 test patients, four of them lesion-free or with failures."""

import json
from pathlib import Path

from tests.support.scan_results import scan_result

STRATUM = {
    "patients": 6, "scans": 6, "dice_mean": 0.7, "dice_ci_low": 0.6, "dice_ci_high": 0.8, "lesion_f1_mean": 0.75,
    "absolute_volume_difference_ml_mean": 0.9,
}  # fmt: skip
MEANS = {
    "lesion_dice": 0.68, "dice": 0.7, "rule_dice": 0.47, "rule_lesion_dice": 0.45, "lesion_f1": 0.75,
    "lesion_f1_matched": 0.65, "absolute_volume_difference_ml": 0.9, "surface_distance_95_mm": 6.0,
}  # fmt: skip
"""Test metric to its mean over patients."""
NOTHING = {name: 0 if name in ("patients", "scans") else None for name in STRATUM}
FOUND = {
    "strata": {
        "lesion volume": {"<1 mL": NOTHING, "1-5 mL": STRATUM, "5-20 mL": STRATUM, ">20 mL": NOTHING},
        "site": {"Siriraj": STRATUM, "Zürich": STRATUM},
        "scanner": {},
    },
    "lesion_free": {"patients": 1, "scans": 1, "scans_with_false_lesion": 0, "false_positive_ml_mean": 0.0},
    "calibration": {
        "temperature": 1.7, "ece_before": 0.12, "ece_after": 0.04, "bins_before": [], "bins_after": [],
    },
    "volume": {
        "bias_ml": -0.4, "agreement_low_ml": -3.1, "agreement_high_ml": 2.3, "interval_level": 0.9,
        "interval_coverage": 0.83,
    },
    "review": {
        "scans": 12, "flagged": 3, "failures": 2, "failures_flagged": 1, "failure": "Dice below 0.5",
    },
}  # fmt: skip
"""What evaluate finds beside its summary."""


def case(number: int, dice: float = 0.7, **fields) -> dict:
    """A test scan in `test_metrics.json`."""
    known = {
        "dice": dice, "lesion_f1": dice, "lesion_f1_matched": dice - 0.1, "truth_ml": 4.0, "predicted_ml": 3.5,
        "lesions": 2, "lesions_found": 1, "surface_distance_95_mm": 4.0,
    }  # fmt: skip
    return scan_result(f"sub-{number:02d}", **(known | fields)).model_dump()


def metrics(**changes) -> dict:
    """`test_metrics.json`."""
    summary = {
        f"test_{name}_{end}": value
        for name, mean in MEANS.items()
        for end, value in (
            ("mean", mean), ("std", 0.1), ("ci_low", mean - 0.1), ("ci_high", mean + 0.1), ("median", mean + 0.05),
            ("q1", mean - 0.05), ("q3", mean + 0.08),
        )
    } | {
        "test_rule_lesion_f1_mean": 0.5, "test_rule_false_positive_ml_lesion_free_mean": 0.3,
        "test_better_than_rule": 1.0, "test_false_positive_ml_lesion_free_mean": 0.0,
        "test_lesion_free_false_alarm_rate": 0.0, "test_patients": 12, "test_patients_lesion_free": 1,
    }  # fmt: skip
    cases = [case(n, dice=0.3 + n / 20, needs_review=["darker than all it has seen"] * (n == 1)) for n in range(1, 13)]
    return {
        "summary": summary, "threshold": 0.45, "synthetic": False, "cases": cases,
        **FOUND, **changes,
    }  # fmt: skip


def listed(**changes) -> dict:
    """`cases.json` of the lineage: 20 labelled patients, 2 of them lesion-free, of two sites."""
    subsets = ["test"] * 12 + ["val"] * 3 + ["train"] * 5
    cases = [
        {
            "case": f"sub-{n:02d}", "patient": f"sub-{n:02d}", "session": None, "labelled": True, "subset": subset,
            "lesion_voxels": 0 if n in (12, 20) else 100 * n, "lesion_ml": 0.0 if n in (12, 20) else float(n),
            "site": "Siriraj" if n % 2 else "Zürich", "scanner": None, "voxel_sha256": f"{n:064x}",
            "sources": [{"key": f"sub-{n:02d}/dwi/sub-{n:02d}_dwi.nii.gz", "sha256": f"{n:064x}"}],
        }
        for n, subset in enumerate(subsets, start=1)
    ]  # fmt: skip
    return {
        "data_uri": "s3://scans/stroke", "data_version": "a" * 64, "layout": "BIDS", "synthetic": False,
        "refused": {"sub-21": "the mask is not binary: it holds 0, 2 | expected 0 and 1"}, "split_digest": "b" * 64,
        "seen": {"voxel_mm": [[1.0, 2.0], [1.0, 2.0], [5.0, 5.0]], "shape": [[128, 256], [128, 256], [20, 40]]},
        "cases": cases, **changes,
    }  # fmt: skip


def write_evaluation(folder: Path, measured: dict | None = None, cases: dict | None = None, **comparison) -> Path:
    """An `evaluation` artifact; the comparison is with no champion where nothing is given."""
    (folder / "test_predictions").mkdir(parents=True, exist_ok=True)
    (folder / "test_predictions" / "08_worst.png").write_bytes(b"a picture")
    none = {"champion": None, "model": None, "reason": "there was no champion to compare with"}
    for name, content in (
        ("test_metrics", measured or metrics()),
        ("cases", cases or listed()),
        ("comparison", none | comparison),
        ("split", {"patients": {}, "cases": {}, "digest": "b" * 64}),
        ("pictures", {"cases": {"08_worst.png": "sub-01", "01_best.png": "sub-12"}}),
    ):
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def trained(**lineage) -> dict:
    """What train adds to `model.json` that a card tells of."""
    code_and_data = {"git_commit": "c" * 40, "image_tag": "dwi-stroke-python-train:0123456789abcdef",
             "data_version": "a" * 64, "split_digest": "b" * 64}  # fmt: skip
    return {
        "best_epoch": 7, "training_digest": "d" * 64, "lineage": code_and_data | lineage,
        "params": {
            "image_size": "(96, 96)", "epochs": 20, "base_channels": 16, "learning_rate": 2e-3, "loss": "dice",
            "device": "cpu, 2 threads", "processes": 1, "model_params": 1_970_000, "data_uri": "s3://scans/stroke",
        },
    }  # fmt: skip


HISTORY = [
    {"epoch": e, "time": 1_700_000_000 + 3.0 * e,
     **dict.fromkeys(("train_loss", "train_dice", "val_loss", "val_dice", "learning_rate"), 0.1)}
    for e in range(1, 11)
]  # fmt: skip
