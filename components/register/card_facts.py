"""Fill the model card from the artifacts of a training and its evaluation, and derive its limits."""

import statistics
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from components.artifacts.evaluation import (
    OVERLAYS,
    Comparison,
    OverlayCases,
    ParentComparison,
    ScanDigest,
    ScanDigests,
    ScanResult,
    TestMetrics,
    read_folds,
)
from components.artifacts.headline import LOOKED_AT, out_of_fold
from components.artifacts.metric_labels import METRIC_LABELS
from components.artifacts.split_file import subset_names
from components.artifacts.trained_model import WEIGHTS, TrainedModel, read_history
from components.core.settings import Settings
from components.core.storage import file_sha256
from components.register.card import (
    Card,
    CardWithoutLimits,
    Failure,
    LesionVolumes,
    PatientMetric,
    Statement,
    validate,
)
from components.registry.run_records import evaluation_digest
from components.registry.tracking import MODEL_NAME

FOLD_METRICS = ("dice_mean", "dice_ci_low", "dice_ci_high", "lesion_f1_mean", "absolute_volume_difference_ml_mean")
WORST = 5
"""Number of failures on the card."""
FEW, TOO_FEW = 30, 10
"""Below these numbers of test patients a limit warns of wide intervals, or of no conclusion."""
MOST_NAMED = 5
"""Sites or scanners in the first lines of the card."""
SMALL_SUBGROUP = 5
"""Below this number of patients a limit names the subgroup."""


def make_card(statement: Statement, model: Path, evaluation: Path, packages: dict[str, str]) -> Card:
    """Return the card of a training and its evaluation. The same artifacts always give the same card.

    Raises:
        StepError: an artifact is missing or invalid, or a field of the card is empty.
    """
    trained, history = TrainedModel.read(model), read_history(model)
    scans, metrics = ScanDigests.read(evaluation), TestMetrics.read(evaluation)
    comparison, overlays = Comparison.read(evaluation), OverlayCases.read(evaluation)
    lineage, digest = trained.lineage, evaluation_digest(model, evaluation)
    values = {
        **statement.model_dump(),
        "name": MODEL_NAME,
        "version": f"training {trained.training_digest[:12]}, evaluation {digest[:12]}",
        "network_data_format": _formats(trained.inputs),
        "data": _data(scans),
        "subsets": {subset: _subset(scans.cases, subset) for subset in subset_names(len(trained.networks) or 1)},
        "training": _training(trained, history),
        "threshold": trained.threshold,
        "eval_metrics": _metrics(metrics.summary),
        "test_patients": metrics.summary.get("test_patients"),
        "folds": _folds(trained, read_folds(evaluation)),
        "strata": {name: groups for name, groups in metrics.strata.items() if groups},
        "lesion_free": metrics.lesion_free,
        "calibration": metrics.calibration.model_dump(include={"temperature", "ece_before", "ece_after"}),
        "volume": metrics.volume,
        "review": metrics.review,
        "failures": _failures(metrics.cases, overlays.cases),
        "comparison": comparison.model_dump(include={"champion", "reason", "differences"}),
        "parent": _parent(evaluation),
        "versions": {
            "image_tag": lineage.get("image_tag"),
            "git_commit": None if lineage.get("git_commit") == "unknown" else lineage.get("git_commit"),
            "packages": packages,
            "data_version": lineage.get("data_version"),
            "cases_sha256": file_sha256(evaluation / ScanDigests.FILE),
            "split_digest": lineage.get("split_digest"),
            "training_digest": trained.training_digest,
            "evaluation_digest": digest,
            "weights_sha256": file_sha256(model / WEIGHTS),
        },
    }
    found = limits(validate(values, CardWithoutLimits)) + limits_of_doubt(trained)
    derived = {"limits": found, "holds_for": holds_for(scans, metrics)}
    return validate(values | derived, Card)


def holds_for(scans: ScanDigests, metrics: TestMetrics) -> str:
    """Return a sentence about the patients for whom the test results hold."""
    measured = {scan.case for scan in metrics.cases}
    tested = [case for case in scans.cases if case.case in measured]
    patients = {case.patient for case in tested}
    with_lesion = {case.patient for case in tested if case.lesion_voxels}
    volumes = _volumes(tested)
    lesions = "lesions of unknown volume"
    if volumes:
        lesions = f"lesions of {volumes[0]:.2g} to {volumes[-1]:.3g} mL (median {statistics.median(volumes):.2g})"
    kind = "synthetic patient" if scans.synthetic else "patient"
    free = len(patients - with_lesion)
    return (
        f"These numbers hold for patients like the {_count(len(patients), kind)} of the test: {lesions}, {free} "
        f"without a lesion; {_named(tested, 'site')}; {_named(tested, 'scanner')}."
    )


def _named(cases: Sequence[ScanDigest], field: str) -> str:
    """Return the sites or scanners of these cases with their patients, the largest first."""
    counted = sorted(_patients_by(cases, field).items(), key=lambda item: (-item[1], item[0]))
    if not counted:
        return f"{field} unknown"
    named = ", ".join(f"{name} ({patients})" for name, patients in counted[:MOST_NAMED])
    more = f" and {len(counted) - MOST_NAMED} more" if len(counted) > MOST_NAMED else ""
    unknown = len({case.patient for case in cases}) - len({case.patient for case in cases if getattr(case, field)})
    return f"{field} {named}{more}" + (f", unknown ({unknown})" if unknown else "")


def limits(card: CardWithoutLimits) -> list[str]:
    """Return sentences about what the card's numbers do not show."""
    data, test = card.data, card.test_patients
    out = []
    if data.synthetic:
        out.append("The scans are synthetic: no number here is valid for patients.")
    if card.folds:
        out.append(out_of_fold(len(card.folds)))
        out.append("The threshold of the ensemble is the mean of its networks'. Its volume intervals and the limits of "
                   "its review are the widest of theirs. None of them was tested on the ensemble.")  # fmt: skip
    if test < TOO_FEW:
        out.append(f"{_count(test, 'test patient')}: too few for a conclusion.")
    elif test < FEW:
        out.append(f"{_count(test, 'test patient')}: the intervals are wide, and rare failures may be missing.")
    out.append(LOOKED_AT)
    out.append("The test patients come from the same data set as the training patients: results at another hospital, "
               "scanner or protocol can be much worse, and have not been measured.")  # fmt: skip
    for kind, patients in (("site", data.sites), ("scanner", data.scanners)):
        if not patients:
            out.append(f"No {kind} is known: differences between {kind}s have not been measured.")
        elif len(patients) == 1:
            out.append(f"All patients with a known {kind} are from one {kind}.")
    for kind, subgroups in card.strata.items():
        small = [f"{name} ({group.patients})" for name, group in subgroups.items() if group.patients < SMALL_SUBGROUP]
        if small:
            out.append(
                f"By {kind}, fewer than {SMALL_SUBGROUP} test patients, too few for a result: {', '.join(small)}."
            )
    if not card.lesion_free.scans:
        out.append("No test scan is free of lesions: false alarms on healthy brains have not been measured.")
    if data.lesion_ml is None:
        out.append("The files have no voxel size: volumes in mL are unknown.")
    if data.unused_scans:
        out.append(f"{_count(data.unused_scans, 'labelled scan')} had no ADC map, and no b0 to compute it from: "
                   "they were used neither for training nor for the test.")  # fmt: skip
    if data.refused:
        total = data.scans + data.unused_scans + data.unlabelled_scans + len(data.refused)
        out.append(f"{len(data.refused)} of {total} cases were refused: the model was not tested on cases like them.")
    volume, review, comparison = card.volume, card.review, card.comparison
    if volume.interval_level is None:
        out.append("A scan's volume has no interval: there were too few validation patients to learn it.")
    elif volume.interval_coverage is not None and volume.interval_coverage < volume.interval_level:
        out.append(f"The {_percent(volume.interval_level)} volume intervals contained only "
                   f"{_percent(volume.interval_coverage)} of the true volumes.")  # fmt: skip
    before, after = card.calibration.ece_before, card.calibration.ece_after
    if before is not None and after is not None and after > before:
        out.append("The calibration from the validation patients made the test probabilities worse, not better.")
    if missed := review.failures - review.failures_flagged:
        out.append(f"{missed} of {_count(review.failures, 'failure')} "
                   f"{'was' if missed == 1 else 'were'} not flagged for review.")  # fmt: skip
    settings = card.training.settings
    if settings.get("normalization") == "slice" and not settings.get("pixel_mm"):
        out.append("Scans are prepared as in the user's own code (preset baseline), for comparison with it: the whole "
                   "plane is resized to the grid, and each slice is z-scored with the air in it. So the result changes "
                   "if air around the head is added or cut off.")  # fmt: skip
    if card.training.best_epoch == card.training.epochs:
        out.append("The last epoch was the best: a longer training may give a better model.")
    if parent := card.parent:
        out.append(
            f"It started from the weights of {parent.address}, and what that model learnt counts as learnt here too."
        )
        if parent.unknown:
            out.append(
                f"The training scans of {', '.join(parent.unknown)} are unknown: test patients may be among them."
            )
        if not parent.patients:
            out.append(f"What it has forgotten of its parent was not measured: {parent.reason}.")
    if comparison.champion is None:
        out.append("There was no champion for a comparison.")
    if not card.versions.git_commit:
        out.append("The code was not in a git checkout: only its image tag, a digest of the code, identifies it.")
    elif card.versions.git_commit.endswith("-dirty"):
        out.append("The code had changes that are in no commit: its image tag, a digest of the code, identifies it.")
    if not card.contact.strip():
        out.append("The card names no contact for this model (contact in components/register/card.yaml).")
    return out


def limits_of_doubt(trained: TrainedModel) -> list[str]:
    """Return a sentence if an ensemble never flags scans by its doubt, and a network of it, as it was tested, does."""

    def flags(model: TrainedModel, kind: str) -> bool:
        if model.uncertainty is None or model.temperature is None:
            return False
        most = model.uncertainty[kind]
        return most is None or most < 1

    kinds = {"with": "mask", "without": "empty"}
    never = [
        how
        for how, kind in kinds.items()
        if not flags(trained, kind) and any(flags(network, kind) for network in trained.networks)
    ]
    if not never:
        return []
    scans = "scans" if len(never) == len(kinds) else f"scans {never[0]} a predicted lesion"
    return [f"In use, {scans} are not flagged by doubt; for some test patients they could be."]


def _formats(inputs: str) -> dict:
    """Return inputs and outputs in MONAI's format; "*" is any size."""
    image = {"type": "image", "modality": "MR", "num_channels": 1, "spatial_shape": ["*", "*", "*"], "value_range": []}
    scan = image | {"format": "magnitude", "dtype": "float32", "is_patch_data": False}
    dwi = "DWI (trace, b about 1000 s/mm²) of a whole head as NIfTI, in any unit; axial, at least 3 slices"
    adc = "ADC map of the same scan, in 1e-3 mm²/s or another usual unit, which is detected"
    inputs_format = {"scan": scan | {"channel_def": {"0": dwi}}}
    if inputs == "dwi+adc":
        inputs_format["adc"] = scan | {"channel_def": {"0": adc}}
    mask = image | {"format": "segmentation", "dtype": "uint8", "value_range": [0.0, 1.0], "is_patch_data": False}
    return {
        "inputs": inputs_format,
        "outputs": {
            "mask": mask
            | {"channel_def": {"0": "1 is lesion, 0 is background; shape and affine are those of the scan"}}
        },
    }


def _data(scans: ScanDigests) -> dict[str, Any]:
    labelled = [c for c in scans.cases if c.labelled]
    used = [c for c in labelled if c.subset]
    return {
        "data_source": scans.data_uri,
        "data_version": scans.data_version,
        "layout": scans.layout,
        "synthetic": scans.synthetic,
        "patients": len({c.patient for c in used}),
        "scans": len(used),
        "lesion_free_scans": sum(not c.lesion_voxels for c in used),
        "unused_scans": len(labelled) - len(used),
        "unlabelled_scans": len(scans.cases) - len(labelled),
        "lesion_ml": _lesion_volumes(used),
        "voxel_mm": scans.seen.voxel_mm and [list(axis) for axis in scans.seen.voxel_mm],
        "shape": [list(axis) for axis in scans.seen.shape],
        "sites": _patients_by(used, "site"),
        "scanners": _patients_by(used, "scanner"),
        "refused": scans.refused,
    }


def _parent(evaluation: Path) -> dict[str, Any] | None:
    """Return the facts of the parent; None for a training from random weights."""
    if not (evaluation / ParentComparison.FILE).exists():
        return None
    comparison = ParentComparison.read(evaluation)
    address, _, digest = comparison.parent.rpartition("#")
    facts = comparison.model_dump(include={"unknown", "reason", "differences"})
    patients = max(map(len, comparison.pairs.values()), default=0)
    return {"address": address, "weights_sha256": digest, "patients": patients, **facts}


def _volumes(cases: Sequence[ScanDigest]) -> list[float]:
    return sorted(c.lesion_ml for c in cases if c.lesion_voxels and c.lesion_ml is not None)


def _lesion_volumes(cases: Sequence[ScanDigest]) -> LesionVolumes | None:
    volumes = _volumes(cases)
    if not volumes:
        return None
    quarters = statistics.quantiles(volumes, n=4, method="inclusive") if len(volumes) > 1 else 3 * volumes
    return LesionVolumes(
        scans=len(volumes),
        smallest=volumes[0],
        first_quartile=quarters[0],
        median=quarters[1],
        third_quartile=quarters[2],
        largest=volumes[-1],
    )


def _patients_by(cases: Sequence[ScanDigest], field: str) -> dict[str, int]:
    """Count the patients of each site or scanner."""
    pairs = {(c.patient, name) for c in cases if (name := getattr(c, field))}
    return dict(sorted(Counter(name for _, name in pairs).items()))


def _subset(cases: Sequence[ScanDigest], subset: str) -> dict[str, Any]:
    own = [c for c in cases if c.subset == subset]
    volumes = _volumes(own)
    return {
        "patients": len({c.patient for c in own}),
        "scans": len(own),
        "lesion_free_scans": sum(not c.lesion_voxels for c in own),
        "lesion_ml_median": statistics.median(volumes) if volumes else None,
    }


def _folds(trained: TrainedModel, measured: dict[str, TestMetrics]) -> dict[str, dict[str, Any]]:
    found = {}
    for (fold, metrics), network in zip(measured.items(), trained.networks, strict=True):
        summary = metrics.summary
        found[fold] = {
            "patients": summary["test_patients"],
            **{name: summary.get(f"test_{name}") for name in FOLD_METRICS},
            "threshold": network.threshold,
            "training_digest": network.training_digest,
            "weights_sha256": network.weights_sha256,
        }
    return found


def _training(trained: TrainedModel, history: list[dict[str, float]]) -> dict[str, Any]:
    params, seconds = trained.params, trained.training_seconds
    processes, device = params.get("processes", 1), params.get("device")
    if seconds is None:  # the median epoch, because a pause between a kill and the restart was no training
        between = [after["time"] - before["time"] for before, after in pairwise(history)]
        seconds = statistics.median(between) * len(history) if between else None
    return {
        "settings": {name: params[name] for name in Settings.model_fields if name in params},
        "hardware": params.get("devices") or (f"{processes} x {device}" if processes > 1 else device),
        "model_parameters": params.get("model_params"),
        "epochs": len(history) if not trained.networks else max(round(row["epoch"]) for row in history),
        "best_epoch": trained.best_epoch,
        "seconds": seconds,
    }


def _metrics(summary: dict[str, float]) -> dict[str, dict[str, float | None]]:
    names = [name for metric in (*METRIC_LABELS, "rule_dice") if f"{(name := f'test_{metric}')}_median" in summary]
    return {name: {end: summary.get(f"{name}_{end}") for end in PatientMetric.model_fields} for name in names}


def _failures(scans: Sequence[ScanResult], overlays: dict[str, str]) -> list[dict[str, Any]]:
    worst = sorted(scans, key=lambda scan: (scan.dice, scan.case))[:WORST]
    fields = Failure.model_fields.keys() - {"pictures"}
    return [
        scan.model_dump(include=fields)
        | {"pictures": [f"{OVERLAYS}/{name}" for name, case in overlays.items() if case == scan.case]}
        for scan in worst
    ]


def _count(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
