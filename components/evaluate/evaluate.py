"""Evaluate a trained model on the held-out test patients: whole scans, each in its own space."""

import logging
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
from torch import nn

from components.artifacts.cases import Case, Cases
from components.artifacts.evaluation import (
    FOLDS,
    MASKS,
    OVERLAYS,
    OverlayCases,
    ParentComparison,
    ScanResult,
    TestMetrics,
)
from components.artifacts.headline import against_rule, in_words
from components.artifacts.split_file import Split, subset_names
from components.artifacts.trained_model import TrainedModel
from components.core.step import progress
from components.core.storage import scratch
from components.evaluate.agreement import (
    agreement_summary,
    calibration_errors,
    failed_scans,
    review_counts,
    volume_agreement,
)
from components.evaluate.calibration_error import reliability
from components.evaluate.case_pictures import PREDICTION, TRUTH, choose_samples, draw_failure, draw_sample
from components.evaluate.champion_comparison import compare_with_champion
from components.evaluate.metrics import case_metrics, slice_dices, summary
from components.evaluate.parent_comparison import compare_with_parent
from components.evaluate.report import Pictures, write_page
from components.evaluate.subgroups import lesion_free, subgroups
from components.evaluate.threshold_rule_score import measure_rule, rule_summary
from components.model.calibration import COUNTED, calibrated
from components.model.device import device
from components.model.gpu_advice import device_name
from components.model.grid import CHANNELS
from components.model.inference import load_model, predict_volume
from components.model.lesions import lesion_mask
from components.model.uncertainty import assess
from components.registry.evaluation_signature import authenticate
from components.registry.run_records import (
    evaluation_digest,
    record_comparison,
    record_evaluation,
    record_inputs,
    record_page,
    record_training,
)
from components.registry.scan_digests import scan_digests
from components.registry.tracking import Run
from components.scans.head import find_head
from components.scans.viewer.page import Mask, Viewer, Volumes
from components.scans.volumes import read, write

FAILURES_DRAWN = 12


def evaluate(
    cases: Path, split: Path, data_report: Path, model: Path, evaluation: Path, page: Path
) -> dict[str, float]:
    """Measure the model on the test scans, compare it with the champion, draw the page, and log to MLflow.

    The folder `evaluation` gets `test_metrics.json`, `comparison.json`, `cases.json` (digests of the scans),
    `split.json`, `pictures.json`, the predicted masks, pictures of slices, and an authentication code of them all. With
    folds, each patient is predicted by the network that held out the patient's fold, and the folder `folds` gets the
    results of each fold.

    Returns:
        The summary: metric name to value.

    Raises:
        StepError: an artifact is missing or invalid, a case is in another subset than its patient, a network was not
            trained without its fold, or MLflow does not answer.
    """
    start = time.perf_counter()
    listed, subsets = Cases.read(cases), Split.read(split)
    subsets.require_own_cases(listed.patient_of)
    for folder in (OVERLAYS, MASKS):
        (evaluation / folder).mkdir(parents=True, exist_ok=True)
    scan_digests(listed, subsets).write(evaluation)
    shutil.copy(split, evaluation / Split.FILE)

    network, trained = load_model(model)
    logging.info("evaluating on %s", device_name(device()))
    tests = held_out_tests(network, trained, subsets, listed)
    tested = [case for test in tests for case in test.cases]
    by_name = {case.case: case for case in tested}
    with Viewer() as viewer, tempfile.TemporaryDirectory(dir=scratch()) as shades:
        by_test = [
            measure_scans(test.network, test.trained, cases, test.cases, evaluation / MASKS, Path(shades))
            for test in tests
        ]
        measured = [scan for scans in by_test for scan in scans]
        results = [scan.result for scan in measured]

        def measure(network: nn.Module, champion: TrainedModel, patients: set[str]) -> list[ScanResult]:
            chosen = [case for case in tested if case.patient in patients]
            return _results(network, champion, cases, chosen)

        images: dict[str, set[str]] = {patient: set() for names in subsets.patients.values() for patient in names}
        all_cases = listed.by_name
        for names in subsets.cases.values():
            for case in (all_cases[name] for name in names):
                images[case.patient].add(case.voxel_sha256)
        comparison = compare_with_champion(
            results, subsets.patients, measure, listed.synthetic, model, images, listed.data_uri
        )
        comparison.write(evaluation)
        if forgotten := compare_with_parent(network, trained, cases, subsets, _results):
            forgotten.write(evaluation / ParentComparison.FILE)
        rule = measure_rule(cases, tested)
        results = [result.model_copy(update=fields) for result, fields in zip(results, rule, strict=True)]
        reliability_sum = np.sum([scan.reliability for scan in measured], axis=0)
        metrics = collect_metrics(results, reliability_sum, trained, listed.synthetic)
        metrics.write(evaluation)
        of_folds = collect_folds(tests, by_test, results, listed.synthetic) if trained.networks else {}
        for fold, found in of_folds.items():
            (evaluation / FOLDS).mkdir(exist_ok=True)
            found.write(evaluation / FOLDS / f"{fold}.json")
        pictures = draw_pictures(results, by_name, cases, evaluation)
        add_scans(viewer, results, by_name, cases, evaluation, Path(shades))
        write_page(metrics, trained, comparison, pictures, viewer, page, of_folds)

    run = Run.open(trained.training_digest, evaluation_digest(model, evaluation))
    record_inputs(run, listed, subsets, split, data_report)
    record_training(run, model)
    record_page(run, page)
    record_evaluation(run, model, evaluation)
    record_comparison(run, evaluation)
    authenticate(run, model, evaluation)
    run.log_seconds("evaluate", time.perf_counter() - start)
    numbers = metrics.summary
    logging.info("%s", against_rule(numbers))
    logging.info(
        "%d test patients: Dice %s, lesion F1 %.3f, threshold %.2f; per slice Dice %.3f",
        numbers["test_patients"], in_words(numbers, "test_dice"), numbers["test_lesion_f1_mean"], trained.threshold,
        numbers["test_slice_dice_mean"],
    )  # fmt: skip
    return numbers


def _results(network: nn.Module, trained: TrainedModel, folder: Path, cases: Sequence[Case]) -> list[ScanResult]:
    return [scan.result for scan in measure_scans(network, trained, folder, cases)]


@dataclass(frozen=True)
class HeldOutTest:
    """A network, and the cases that it is tested on: it neither learnt from their patients nor was tuned on them."""

    network: nn.Module
    trained: TrainedModel
    cases: list[Case]


def held_out_tests(network: nn.Module, trained: TrainedModel, split: Split, cases: Cases) -> list[HeldOutTest]:
    """Return one test: the model on the test set. Of an ensemble, one for each network, on the fold that it held out.

    Raises:
        StepError: a network was not trained without its fold of this split.
    """
    by_name, networks = cases.by_name, trained.networks
    if not isinstance(network, nn.ModuleList):
        return [HeldOutTest(network, trained, [by_name[name] for name in split.cases["test"]])]
    split.require_held_out([one.decides.get("split") for one in networks])
    pairs = zip(network, networks, subset_names(len(networks)), strict=True)
    return [HeldOutTest(one, of_one, [by_name[name] for name in split.cases[fold]]) for one, of_one, fold in pairs]


@dataclass(frozen=True)
class MeasuredScan:
    """A test scan's result, and the `reliability` (2, 15, 3) of its probabilities before and after calibration."""

    result: ScanResult
    reliability: np.ndarray


def measure_scans(
    network: nn.Module,
    trained: TrainedModel,
    folder: Path,
    cases: Sequence[Case],
    masks: Path | None = None,
    shades: Path | None = None,
) -> list[MeasuredScan]:
    """Predict and measure each case. `folder` holds the volumes.

    The predicted masks are written to `masks`, and the calibrated probabilities, times 255, to `shades`.
    """
    measured = []
    for case in progress(cases, what="evaluated"):
        volume, geometry = read(folder / case.files["dwi"])
        truth = read(folder / case.files["mask"])[0] > 0
        has_adc = "adc" in CHANNELS[trained.inputs] and "adc" in case.files
        adc = read(folder / case.files["adc"])[0] if has_adc else None
        head = find_head(volume, case.voxel_mm)
        probability = predict_volume(network, trained, volume, case.slice_numbers, adc, case.voxel_mm, head)
        predicted = lesion_mask(probability, trained, case.voxel_mm)
        if masks:
            write(masks / _mask_name(case), predicted.astype(np.uint8), geometry.space)
        if shades:
            levels = np.round(255 * calibrated(probability, trained)).astype(np.uint8)
            write(shades / _mask_name(case), levels, geometry.space)
        assessment = assess(probability, predicted, volume, case.voxel_mm, trained, head)
        counted = probability >= COUNTED
        probabilities = (probability[counted], calibrated(probability[counted], trained))
        slice_dice, slice_iou = slice_dices(predicted, truth)
        result = ScanResult(
            case=case.case,
            patient=case.patient,
            site=case.site,
            scanner=case.scanner,
            **case_metrics(predicted, truth, case.voxel_mm),
            predicted_ml_low=assessment.lesion_ml_low,
            predicted_ml_high=assessment.lesion_ml_high,
            needs_review=assessment.review,
            slice_dice=slice_dice.tolist(),
            slice_iou=slice_iou.tolist(),
            slice_has_lesion=_slices_with_voxels(truth),
            slice_has_prediction=_slices_with_voxels(predicted),
        )
        measured.append(MeasuredScan(result, np.stack([reliability(p, truth[counted]) for p in probabilities])))
    return measured


def collect_metrics(
    results: Sequence[ScanResult], reliability: np.ndarray, trained: TrainedModel, synthetic: bool
) -> TestMetrics:
    """Summarise the results of all test scans; `reliability` (2, 15, 3) is their sum."""
    before, after = reliability
    calibration = calibration_errors(before, after, mean_temperature(trained))
    volume = volume_agreement(results, trained.volume_interval.level if trained.volume_interval else None)
    review = review_counts(results)
    folds = {"test_folds": len(trained.networks)} if trained.networks else {}
    return TestMetrics(
        summary=summary(results) | folds | rule_summary(results) | agreement_summary(calibration, volume, review),
        threshold=trained.threshold,
        synthetic=synthetic,
        strata=subgroups(results),
        lesion_free=lesion_free(results),
        calibration=calibration,
        volume=volume,
        review=review,
        cases=list(results),
    )


def collect_folds(
    tests: Sequence[HeldOutTest],
    measured: Sequence[Sequence[MeasuredScan]],
    results: Sequence[ScanResult],
    synthetic: bool,
) -> dict[str, TestMetrics]:
    """Return fold to the metrics of its network; `results` are those of all folds, in the order of `measured`."""
    found, done = {}, 0
    for fold, test, scans in zip(subset_names(len(tests)), tests, measured, strict=True):
        own = results[done : done + len(scans)]
        done += len(scans)
        reliability_sum = np.sum([scan.reliability for scan in scans], axis=0)
        found[fold] = collect_metrics(own, reliability_sum, test.trained, synthetic)
    return found


def mean_temperature(trained: TrainedModel) -> float | None:
    """Return the temperature of a network; of an ensemble, the mean of its networks', each of which has its own."""
    known = [one.temperature for one in trained.networks or [trained] if one.temperature is not None]
    return float(np.mean(known)) if known else None


def draw_pictures(results: Sequence[ScanResult], cases: dict[str, Case], folder: Path, evaluation: Path) -> Pictures:
    """Draw test slices into `evaluation`, list them in `pictures.json`, and return them with the worst failures."""
    overlays = {}
    for number, sample in enumerate(choose_samples(results), start=1):
        path = evaluation / OVERLAYS / f"{number:02d}_{sample.kind}.png"
        draw_sample(sample, *_load(cases[sample.case], folder, evaluation, sample.slice), path)
        overlays[path] = sample.case
    OverlayCases(cases={path.name: case for path, case in overlays.items()}).write(evaluation)
    worst = [scan.case for scan in failed_scans(results)[:FAILURES_DRAWN]]
    return Pictures(list(overlays), {name: draw_failure(*_load(cases[name], folder, evaluation)) for name in worst})


def add_scans(
    viewer: Viewer, results: Sequence[ScanResult], cases: dict[str, Case], folder: Path, evaluation: Path, shades: Path
) -> None:
    """Add the scans with truth, prediction and probability to the viewer, the lowest Dice first."""

    def load(case: Case) -> Volumes:
        image, truth, predicted = _load(case, folder, evaluation)
        levels = np.asarray(nib.nifti1.load(shades / _mask_name(case)).dataobj)
        masks = [Mask("truth", truth, TRUTH), Mask("prediction", predicted, PREDICTION)]
        return Volumes(image, masks, levels / np.float32(255))

    for result in sorted(results, key=lambda result: result.dice):
        case = cases[result.case]
        viewer.add(case.case, f"Dice {result.dice:.2f}", case.voxel_mm, partial(load, case))


def _load(
    case: Case, folder: Path, evaluation: Path, slices: int | slice = slice(None)
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return scan, truth and prediction."""
    files = (folder / case.files["dwi"], folder / case.files["mask"], evaluation / MASKS / _mask_name(case))
    image, truth, predicted = (np.asarray(nib.nifti1.load(file).dataobj[:, :, slices]) for file in files)
    return image, truth > 0, predicted > 0


def _mask_name(case: Case) -> str:
    return case.files["dwi"].replace("_dwi.nii.gz", ".nii.gz")


def _slices_with_voxels(mask: np.ndarray) -> list[bool]:
    """Return for each slice of a mask (X, Y, S) whether it has a voxel."""
    return [bool(mask[:, :, s].any()) for s in range(mask.shape[2])]
