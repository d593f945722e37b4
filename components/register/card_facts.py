"""What fills the model card: the artifacts of one training and its evaluation, and the limits that follow from them."""

import json
import statistics
from collections import Counter
from itertools import pairwise
from pathlib import Path

from components.artifacts.headline import LOOKED_AT
from components.artifacts.split_file import SUBSETS
from components.core.settings import Settings
from components.core.storage import file_sha256
from components.register.card import (
    Calibration,
    Card,
    LesionFree,
    Measured,
    OverPatients,
    Review,
    Statement,
    Stratum,
    Volume,
    checked,
)  # fmt: skip
from components.register.card_text import METRICS
from components.registry.tracking import MODEL_NAME, evaluation_digest

WORST = 5
FEW, TOO_FEW = 30, 10
"""Test patients: below these the numbers are called rough, or nothing at all."""
THIN = 5
"""Patients in a stratum: fewer say nothing of it."""


def make_card(statement: Statement, model: Path, evaluation: Path, packages: dict[str, str]) -> Card:
    """The card of one training and evaluation, from their artifacts; the same every time.

    Raises:
        StepError: a required field is empty.
    """
    facts, history = (json.loads((model / name).read_text()) for name in ("model.json", "history.json"))
    listed, measured, pictures, comparison = (
        json.loads((evaluation / f"{name}.json").read_text())
        for name in ("cases", "test_metrics", "pictures", "comparison")
    )
    lineage, digest = facts["lineage"], evaluation_digest(model, evaluation)
    values = {
        **statement.model_dump(),
        "name": MODEL_NAME,
        "version": f"training {facts['training_digest'][:12]}, evaluation {digest[:12]}",
        "network_data_format": _formats(facts.get("inputs", "dwi")),
        "data": _data(listed),
        "subsets": {subset: _subset(listed["cases"], subset) for subset in SUBSETS},
        "training": _training(facts, history),
        "threshold": facts.get("threshold"),
        "eval_metrics": _metrics(measured["summary"]),
        "test_patients": measured["summary"].get("test_patients"),
        "strata": {
            name: {row: _declared(Stratum, of) for row, of in rows.items()}
            for name, rows in (measured.get("strata") or {}).items()
            if rows
        },
        "lesion_free": _declared(LesionFree, measured.get("lesion_free")),
        "calibration": _declared(Calibration, measured.get("calibration")),
        "volume": _declared(Volume, measured.get("volume")),
        "review": _declared(Review, measured.get("review")),
        "failures": _failures(measured["cases"], pictures),
        "comparison": {name: comparison[name] for name in ("champion", "reason")}
        | {"differences": comparison.get("differences", {})},
        "versions": {
            "image_tag": lineage.get("image_tag"),
            "git_commit": None if lineage.get("git_commit") == "unknown" else lineage.get("git_commit"),
            "packages": packages,
            "data_version": lineage.get("data_version"),
            "cases_sha256": file_sha256(evaluation / "cases.json"),
            "split_digest": lineage.get("split_digest"),
            "training_digest": facts["training_digest"],
            "evaluation_digest": digest,
            "weights_sha256": file_sha256(model / "best_model.pth"),
        },
    }
    known = checked(values, Measured)
    return checked(values | {"limits": limits(known)})


def limits(card: Measured) -> list[str]:
    """What the card's own numbers cannot say, in words."""
    data, test = card.data, card.test_patients
    said = []
    if data.synthetic:
        said.append("The scans are synthetic: no number here says anything about a patient.")
    if test < TOO_FEW:
        said.append(f"{_count(test, 'test patient')}: too few to conclude anything from.")
    elif test < FEW:
        said.append(f"{_count(test, 'test patient')}: the intervals are wide, and rare failures may not have been met.")
    said.append(LOOKED_AT)
    said.append("The test patients come from the same data set as those that were learnt from: another hospital, "
                "scanner or protocol can be much worse, and has not been tried.")  # fmt: skip
    for what, known in (("site", data.sites), ("scanner", data.scanners)):
        if not known:
            said.append(f"No {what} is known: how it does from one to another cannot be said.")
        elif len(known) == 1:
            said.append(f"All patients with a known {what} are of one.")
    for name, rows in card.strata.items():
        thin = [f"{row} ({of.patients})" for row, of in rows.items() if of.patients < THIN]
        if thin:
            said.append(f"Fewer than {THIN} test patients by {name}, too few to say anything of: {', '.join(thin)}.")
    if not card.lesion_free.scans:
        said.append("No test scan is free of lesions: false alarms on healthy brains have not been measured.")
    if data.lesion_ml is None:
        said.append("The files hold no voxel size: nothing is known in mL.")
    if data.unused_scans:
        said.append(f"{_count(data.unused_scans, 'labelled scan')} had no ADC map, and no b0 to compute it from: "
                    "nothing was learnt from them, nor tested on them.")  # fmt: skip
    if data.refused:
        total = data.scans + data.unused_scans + data.unlabelled_scans + len(data.refused)
        said.append(f"{len(data.refused)} of {total} cases were refused: what they share has not been tested.")
    volume, review, comparison = card.volume, card.review, card.comparison
    if volume.interval_level is None:
        said.append("A scan's volume has no interval: the validation patients were too few to learn it from.")
    elif volume.interval_coverage is not None and volume.interval_coverage < volume.interval_level:
        said.append(f"The {_percent(volume.interval_level)} volume intervals held only "
                    f"{_percent(volume.interval_coverage)} of the true volumes.")  # fmt: skip
    before, after = card.calibration.ece_before, card.calibration.ece_after
    if before is not None and after is not None and after > before:
        said.append("The calibration learnt on validation made the test probabilities worse, not better.")
    if missed := review.failures - review.failures_flagged:
        said.append(f"{missed} of {_count(review.failures, 'failure')} "
                    f"{'was' if missed == 1 else 'were'} not marked for review.")  # fmt: skip
    settings = card.training.settings
    if settings.get("normalization") == "slice" and not settings.get("pixel_mm"):
        said.append("Scans are prepared as in the user's own code (preset baseline), to be compared with: the whole "
                    "plane is resized to the grid, and each slice is z-scored with the air in it. So air that is added "
                    "around a head, or cut off, changes what the model sees and says.")  # fmt: skip
    if card.training.best_epoch == card.training.epochs:
        said.append("The last epoch was the best: a longer training may do better.")
    if comparison.champion is None:
        said.append("There was no champion to be compared with.")
    if not card.versions.git_commit:
        said.append("The code came from no git checkout: its image tag, a digest of it, is all that names it.")
    elif card.versions.git_commit.endswith("-dirty"):
        said.append("The code had changes that no commit holds: its image tag, a digest of it, is what names it.")
    if not card.contact.strip():
        said.append("Nobody is named whom to ask about this model (contact in components/register/card.yaml).")
    return said


def _formats(inputs: str) -> dict:
    """In MONAI's words; "*" is any size."""
    image = {"type": "image", "modality": "MR", "num_channels": 1, "spatial_shape": ["*", "*", "*"], "value_range": []}
    scan = image | {"format": "magnitude", "dtype": "float32", "is_patch_data": False}
    dwi = "DWI (trace, b about 1000 s/mm²) of a whole head as NIfTI, in any unit; axial, at least 3 slices"
    adc = "ADC map of the same scan, in 1e-3 mm²/s or another usual unit, which is found by looking"
    given = {"scan": scan | {"channel_def": {"0": dwi}}}
    if inputs == "dwi+adc":
        given["adc"] = scan | {"channel_def": {"0": adc}}
    mask = image | {"format": "segmentation", "dtype": "uint8", "value_range": [0.0, 1.0], "is_patch_data": False}
    return {
        "inputs": given,
        "outputs": {"mask": mask | {"channel_def": {"0": "1 is lesion, 0 all else; shape and affine are the scan's"}}},
    }


def _data(listed: dict) -> dict:
    cases = listed["cases"]
    labelled = [c for c in cases if c["labelled"]]
    used = [c for c in labelled if c["subset"]]
    volumes = sorted(c["lesion_ml"] for c in used if c["lesion_voxels"] and c["lesion_ml"] is not None)
    spread = None
    if volumes:
        quarters = statistics.quantiles(volumes, n=4, method="inclusive") if len(volumes) > 1 else 3 * volumes
        names = ("first_quartile", "median", "third_quartile")
        spread = {"scans": len(volumes), "smallest": volumes[0], **dict(zip(names, quarters, strict=True)),
                  "largest": volumes[-1]}  # fmt: skip
    return {
        "data_source": listed["data_uri"],
        "data_version": listed["data_version"],
        "layout": listed["layout"],
        "synthetic": listed["synthetic"],
        "patients": len({c["patient"] for c in used}),
        "scans": len(used),
        "lesion_free_scans": sum(not c["lesion_voxels"] for c in used),
        "unused_scans": len(labelled) - len(used),
        "unlabelled_scans": len(cases) - len(labelled),
        "lesion_ml": spread,
        **listed["seen"],
        **{f"{what}s": _patients_by(used, what) for what in ("site", "scanner")},
        "refused": listed["refused"],
    }


def _patients_by(cases: list[dict], what: str) -> dict[str, int]:
    return dict(sorted(Counter(name for _, name in {(c["patient"], c[what]) for c in cases if c[what]}).items()))


def _subset(cases: list[dict], subset: str) -> dict:
    mine = [c for c in cases if c["subset"] == subset]
    volumes = [c["lesion_ml"] for c in mine if c["lesion_voxels"] and c["lesion_ml"] is not None]
    return {
        "patients": len({c["patient"] for c in mine}),
        "scans": len(mine),
        "lesion_free_scans": sum(not c["lesion_voxels"] for c in mine),
        "lesion_ml_median": statistics.median(volumes) if volumes else None,
    }


def _training(facts: dict, history: list[dict]) -> dict:
    params = facts["params"]
    times = [row["time"] for row in history]
    between = [after - before for before, after in pairwise(times)]
    processes, device = params.get("processes", 1), params.get("device")
    return {
        "settings": {name: params[name] for name in Settings.model_fields if name in params},
        "hardware": params.get("devices") or (f"{processes} x {device}" if processes > 1 else device),
        "model_parameters": params.get("model_params"),
        "epochs": len(history),
        "best_epoch": facts.get("best_epoch"),
        # between a kill and the going on nothing was trained: the median knows no such pause
        "seconds": facts.get("training_seconds", statistics.median(between) * len(times) if between else None),
    }


def _metrics(summary: dict) -> dict:
    names = [name for name in METRICS if f"{name}_mean" in summary]
    return {name: {end: summary.get(f"{name}_{end}") for end in OverPatients.model_fields} for name in names}


def _declared(model: type, found: dict | None) -> dict | None:
    """Of what evaluate found, the fields that the card has."""
    return found and {name: found.get(name) for name in model.model_fields}


def _failures(cases: list[dict], pictures: dict[str, str]) -> list[dict]:
    worst = sorted(cases, key=lambda c: (c["dice"], c["case"]))[:WORST]
    names = ("case", "dice", "lesion_f1", "truth_ml", "predicted_ml", "lesions", "lesions_found", "false_lesions")
    return [
        {name: case[name] for name in names}
        | {
            "needs_review": case.get("needs_review"),
            "pictures": [f"test_predictions/{name}" for name, shown in pictures.items() if shown == case["case"]],
        }
        for case in worst
    ]


def _count(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
