"""What the model is worth on patients that it has never seen: whole scans, in their own space."""

import json
import logging
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np

from components.artifacts.cases import Cases
from components.artifacts.headline import against_rule, in_words
from components.artifacts.split_file import Split
from components.core.step import progress
from components.evaluate.agreement import calibration, failed, review, scalars, volume_agreement
from components.evaluate.case_pictures import choose_samples, draw_failure, draw_sample
from components.evaluate.champion_comparison import against_champion
from components.evaluate.metrics import case_metrics, slice_dices, summary
from components.evaluate.report import Pictures, write_page
from components.evaluate.subgroups import lesion_free, strata
from components.evaluate.threshold_rule_score import measure_rule, yardstick
from components.model.calibration import COUNTED, calibrated, reliability
from components.model.device import device, named
from components.model.grid import CHANNELS
from components.model.inference import load_model, predict_volume
from components.model.lesions import lesion_mask
from components.model.uncertainty import findings
from components.registry.evaluation_signature import authenticate
from components.registry.scan_digests import scan_digests
from components.registry.tracking import (
    Run,
    evaluation_digest,
    record_comparison,
    record_evaluation,
    record_inputs,
    record_page,
    record_training,
)
from components.scans.head import find_head
from components.scans.volumes import read, write

FAILURES_DRAWN = 12


def measure(network, facts: dict, cases: Path, records: list[dict], masks: Path | None = None) -> list[dict]:
    """What the network is worth on each of the scans `records`; its masks are kept in the folder `masks`.

    `reliability` of each (2, 15, 3): of its probabilities, and of the calibrated ones, over the same voxels.
    """
    results = []
    for record in progress(records, what="evaluated"):
        volume, geometry = read(cases / record["files"]["dwi"])
        truth = read(cases / record["files"]["mask"])[0] > 0
        has_adc = "adc" in CHANNELS[facts.get("inputs", "dwi")] and "adc" in record["files"]
        adc = read(cases / record["files"]["adc"])[0] if has_adc else None
        head = find_head(volume, record["voxel_mm"])
        probability = predict_volume(network, facts, volume, record["slice_numbers"], adc, record["voxel_mm"], head)
        predicted = lesion_mask(probability, facts, record["voxel_mm"])
        if masks:
            write(masks / _mask_name(record), predicted.astype(np.uint8), geometry.space)
        found = findings(probability, predicted, volume, record["voxel_mm"], facts, head)
        counted = probability >= COUNTED
        both = (probability[counted], calibrated(probability[counted], facts))
        slice_dice, slice_iou = slice_dices(predicted, truth)
        results.append(
            {
                "case": record["case"],
                "patient": record["patient"],
                "site": record.get("site"),
                "scanner": record.get("scanner"),
                **case_metrics(predicted, truth, record["voxel_mm"]),
                "predicted_ml_low": found.lesion_ml_low,
                "predicted_ml_high": found.lesion_ml_high,
                "needs_review": found.review,
                "slice_dice": slice_dice.tolist(),
                "slice_iou": slice_iou.tolist(),
                "slice_has_lesion": truth.any((0, 1)).tolist(),
                "slice_has_prediction": predicted.any((0, 1)).tolist(),
                "reliability": np.stack([reliability(p, truth[counted]) for p in both]),
            }
        )
    return results


def evaluate(cases: Path, split: Path, data_page: Path, model: Path, evaluation: Path, page: Path) -> dict[str, float]:
    """Predict every test scan, measure, draw, and log to the pipeline run's MLflow run.

    `evaluation` gets `test_metrics.json` (summary and per case), `test_predictions/*.png`, each scan's predicted
    mask, `masks/<case>.nii.gz`, `comparison.json`: the present champion on the same scans, and for the model card
    and the lineage `cases.json` (see `ScanDigests`), `split.json` and `pictures.json` (overlay to case), and their
    authentication code (see `handover`).

    Returns:
        The summary: metric name to value.
    """
    for folder in ("test_predictions", "masks"):
        (evaluation / folder).mkdir(parents=True, exist_ok=True)
    listed, parts = json.loads((cases / "cases.json").read_text()), json.loads(split.read_text())
    network, facts = load_model(model)
    logging.info("evaluating on %s", named(device()))
    records = {c["case"]: c for c in listed["cases"]}
    tested = [records[name] for name in parts["cases"]["test"]]
    scan_digests(Cases.read(cases), Split.read(split)).write(evaluation)
    shutil.copy(split, evaluation / "split.json")

    results = measure(network, facts, cases, tested, evaluation / "masks")
    comparison = against_champion(
        results, parts, lambda *champion: measure(*champion, cases, tested), listed["synthetic"], model
    )
    results = [result | rule for result, rule in zip(results, measure_rule(cases, tested), strict=True)]
    before, after = np.sum([result.pop("reliability") for result in results], axis=0)
    trust = {
        "calibration": calibration(before, after, facts),
        "volume": volume_agreement(results, facts),
        "review": review(results),
    }
    metrics = summary(results) | yardstick(results) | scalars(**trust)
    measured = {
        "summary": metrics, "threshold": facts["threshold"],
        "space": "native", "synthetic": listed["synthetic"],
        "strata": strata(results), "lesion_free": lesion_free(results), **trust, "cases": results,
    }  # fmt: skip
    (evaluation / "test_metrics.json").write_text(json.dumps(measured, indent=1))
    (evaluation / "comparison.json").write_text(json.dumps(comparison, indent=1))

    def drawn(case: str, slices=slice(None)) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Scan, truth and prediction."""
        record = records[case]
        files = (
            *(cases / record["files"][kind] for kind in ("dwi", "mask")),
            evaluation / "masks" / _mask_name(record),
        )
        image, truth, predicted = (np.asarray(nib.load(file).dataobj[:, :, slices]) for file in files)
        return image, truth > 0, predicted > 0

    samples = []
    for number, sample in enumerate(choose_samples(results), start=1):
        samples.append(evaluation / "test_predictions" / f"{number:02d}_{sample.kind}.png")
        draw_sample(sample, *drawn(sample.case, sample.slice), samples[-1])
    worst = [case["case"] for case in failed(results)[:FAILURES_DRAWN]]
    pictures = Pictures(samples, {case: draw_failure(*drawn(case)) for case in worst})
    write_page(measured, facts, comparison, pictures, page)

    run = Run.open(facts["training_digest"], evaluation_digest(model, evaluation))
    record_inputs(run, cases, split, data_page)
    record_training(run, model)
    record_page(run, page)
    record_evaluation(run, model, evaluation)
    record_comparison(run, evaluation)
    overlays = zip(sorted((evaluation / "test_predictions").iterdir()), choose_samples(results), strict=True)
    shown = {path.name: sample.case for path, sample in overlays}
    (evaluation / "pictures.json").write_text(json.dumps(shown, indent=1))
    authenticate(run, model, evaluation)
    logging.info("%s", against_rule(metrics))
    logging.info(
        "%d test patients: Dice %s, lesion F1 %.3f, threshold %.2f; per slice Dice %.3f",
        metrics["test_patients"], in_words(metrics, "test_dice"), metrics["test_lesion_f1_mean"], facts["threshold"],
        metrics["test_slice_dice_mean"],
    )  # fmt: skip
    return metrics


def _mask_name(record: dict) -> str:
    return record["files"]["dwi"].replace("_dwi.nii.gz", ".nii.gz")
