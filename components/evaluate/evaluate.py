"""What the model is worth on patients that it has never seen: whole scans, in their own space."""

import json
import logging
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np

from components.core.inventory import inventory
from components.core.step import progress
from components.core.tracking import (
    Run,
    evaluation_digest,
    record_comparison,
    record_evaluation,
    record_inputs,
    record_training,
)
from components.core.volumes import read, write
from components.evaluate.champion import against_champion
from components.evaluate.figures import choose_samples, draw_sample, write_page
from components.evaluate.metrics import case_metrics, slice_dices, summary
from components.unet.grid import CHANNELS
from components.unet.inference import load_model, predict_volume
from components.unet.lesions import lesion_mask


def measure(network, facts: dict, cases: Path, records: list[dict], masks: Path | None = None) -> list[dict]:
    """What the network is worth on each of the scans `records`; its masks are kept in the folder `masks`."""
    results = []
    for record in progress(records, what="evaluated"):
        volume, geometry = read(cases / record["files"]["dwi"])
        truth = read(cases / record["files"]["mask"])[0] > 0
        has_adc = "adc" in CHANNELS[facts.get("inputs", "dwi")] and "adc" in record["files"]
        adc = read(cases / record["files"]["adc"])[0] if has_adc else None
        probability = predict_volume(network, facts, volume, record["slice_numbers"], adc)
        predicted = lesion_mask(probability, facts, record["voxel_mm"])
        if masks:
            write(masks / _mask_name(record), predicted.astype(np.uint8), geometry.affine)
        slice_dice, slice_iou = slice_dices(predicted, truth)
        results.append(
            {
                "case": record["case"],
                "patient": record["patient"],
                **case_metrics(predicted, truth, record["voxel_mm"]),
                "slice_dice": slice_dice.tolist(),
                "slice_iou": slice_iou.tolist(),
                "slice_has_lesion": truth.any((0, 1)).tolist(),
                "slice_has_prediction": predicted.any((0, 1)).tolist(),
            }
        )
    return results


def evaluate(cases: Path, split: Path, data_page: Path, model: Path, evaluation: Path, page: Path) -> dict[str, float]:
    """Predict every test scan, measure, draw, and log to the pipeline run's MLflow run.

    `evaluation` gets `test_metrics.json` (summary and per case), `test_predictions/*.png`, each scan's predicted
    mask, `masks/<case>.nii.gz`, `comparison.json`: the present champion on the same scans, and for the model card
    and the lineage `cases.json` (see `inventory`), `split.json` and `pictures.json` (overlay to case).

    Returns:
        The summary: metric name to value.
    """
    for folder in ("test_predictions", "masks"):
        (evaluation / folder).mkdir(parents=True, exist_ok=True)
    listed, parts = json.loads((cases / "cases.json").read_text()), json.loads(split.read_text())
    network, facts = load_model(model)
    threshold = facts["threshold"]
    records = {c["case"]: c for c in listed["cases"]}
    tested = [records[name] for name in parts["cases"]["test"]]
    (evaluation / "cases.json").write_text(json.dumps(inventory(cases, split), indent=1))
    shutil.copy(split, evaluation / "split.json")

    results = measure(network, facts, cases, tested, evaluation / "masks")
    metrics = summary(results)
    comparison = against_champion(results, parts, lambda *champion: measure(*champion, cases, tested))

    pictures = []
    for number, sample in enumerate(choose_samples(results), start=1):
        record = records[sample.case]
        files = (
            cases / record["files"]["dwi"],
            cases / record["files"]["mask"],
            evaluation / "masks" / _mask_name(record),
        )
        image, truth, predicted = (np.asarray(nib.load(f).dataobj[:, :, sample.slice]) for f in files)
        pictures.append(evaluation / "test_predictions" / f"{number:02d}_{sample.kind}.png")
        draw_sample(sample, image, truth > 0, predicted > 0, pictures[-1])
    write_page(results, metrics, threshold, listed["synthetic"], pictures, page, comparison)
    facts_out = {
        "summary": metrics, "threshold": threshold, "threshold_chosen_on": "validation",
        "space": "native", "synthetic": listed["synthetic"], "cases": results,
    }  # fmt: skip
    (evaluation / "test_metrics.json").write_text(json.dumps(facts_out, indent=1))
    (evaluation / "comparison.json").write_text(json.dumps(comparison, indent=1))

    run = Run.open(facts["training_digest"], evaluation_digest(model, evaluation))
    record_inputs(run, cases, split, data_page)
    record_training(run, model)
    run.client.log_text(run.id, page.read_text(), "evaluation.html")
    record_evaluation(run, model, evaluation)
    record_comparison(run, evaluation)
    overlays = zip(sorted((evaluation / "test_predictions").iterdir()), choose_samples(results), strict=True)
    shown = {path.name: sample.case for path, sample in overlays}
    (evaluation / "pictures.json").write_text(json.dumps(shown, indent=1))
    logging.info(
        "%d test patients: Dice %.3f (95 %% %.3f to %.3f), lesion F1 %.3f, threshold %.2f; per slice Dice %.3f",
        metrics["test_patients"], metrics["test_dice_mean"], metrics["test_dice_ci_low"], metrics["test_dice_ci_high"],
        metrics["test_lesion_f1_mean"], threshold, metrics["test_slice_dice_mean"],
    )  # fmt: skip
    return metrics


def _mask_name(record: dict) -> str:
    return record["files"]["dwi"].replace("_dwi.nii.gz", ".nii.gz")
