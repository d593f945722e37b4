"""Compare each preset with baseline: paired by patient, averaged over seeds."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from components.artifacts.metric_labels import METRIC_LABELS
from components.artifacts.split_file import patients_learnt, patients_tested
from components.core.intervals import paired_interval
from components.evaluate.metrics import means_by_patient
from pipelines.experiments.run_results import RunResult

METRICS = ("dice", "lesion_f1", "absolute_volume_difference_ml")
BASELINE = "baseline"
SAME = "no evidence of a difference"
Means = dict[str, float]
"""Patient to the value of a metric."""


@dataclass(frozen=True)
class LeftOut:
    """A run that failed or cannot be compared with baseline, and the reason."""

    preset: str
    seed: int
    reason: str


def compare(results: list[RunResult], minimum_patients: int) -> tuple[dict, list[LeftOut]]:
    """Return the comparison, ready for JSON, and the runs that it leaves out. The first result must be baseline's.

    Returns:
        test_patients, minimum_patients, synthetic, data_version, split_digest, and `presets`: name to seeds, runs (seed
        to MLflow run), scans (number of test scans that baseline has too), precision (the number formats in use),
        training_seconds, run_seconds (means over seeds, None if unknown) and metrics. A metric has mean, seeds (seed
        to mean over patients), patients (patient to mean over seeds) and, except for baseline, difference: preset minus
        baseline over the patients and seeds that both have; None if they share none.
    """
    first = results[0]
    reasons = {id(run): why_not_comparable(run, first) for run in results}
    left_out = [LeftOut(run.preset, run.seed, reason) for run in results if (reason := reasons[id(run)])]
    runs: dict[str, dict[int, RunResult]] = {}
    for run in results:
        if not reasons[id(run)]:
            runs.setdefault(run.preset, {})[run.seed] = run
    presets: dict[str, dict[str, Any]] = {}
    for name, of_seed in runs.items():
        presets[name] = {
            "seeds": sorted(of_seed),
            "runs": {str(seed): run.mlflow_run_id for seed, run in sorted(of_seed.items())},
            "precision": sorted({run.precision for run in of_seed.values()}),
            "training_seconds": _mean([run.training_seconds for run in of_seed.values()]),
            "run_seconds": _mean([run.run_seconds for run in of_seed.values()]),
            "metrics": {},
        }
        presets[name]["scans"] = len(both := _scans(of_seed) & _scans(runs[BASELINE]))
        for metric in METRICS:
            values = _by_seed(of_seed, metric)
            if not (patients := over_seeds(values)):
                continue
            found: dict[str, Any] = {
                "mean": float(np.mean(list(patients.values()))),
                "seeds": {str(seed): float(np.mean([v[p] for p in patients])) for seed, v in values.items()},
                "patients": patients,
            }
            if name != BASELINE:
                preset, baseline = (_by_seed(side, metric, both) for side in (of_seed, runs[BASELINE]))
                better = METRIC_LABELS[metric].better
                found["difference"] = difference(preset, baseline, better, minimum_patients)
            presets[name]["metrics"][metric] = found
    comparison = {
        "test_patients": len(patients_tested(first.patients)), "minimum_patients": minimum_patients,
        "synthetic": any(run.synthetic for run in results), "data_version": first.data_version,
        "split_digest": first.split_digest, "presets": presets,
    }  # fmt: skip
    return comparison, left_out


def why_not_comparable(run: RunResult, baseline: RunResult) -> str:
    """Return why the two runs cannot be compared; "" if they can, at least on the test patients that both have."""
    if run.data_version != baseline.data_version:
        return f"it has other data (version {run.data_version[:12]}, baseline's {baseline.data_version[:12]})"
    if run.split_digest == baseline.split_digest:
        return ""
    for tested, whose, learner, who in ((baseline, "baseline's", run, "it"), (run, "its own", baseline, "baseline")):
        test = patients_tested(tested.patients)
        if seen := test & patients_learnt(learner.patients):
            return f"it has other test patients: {who} was trained or tuned on {len(seen)} of {whose} {len(test)}"
    if not patients_tested(run.patients) & patients_tested(baseline.patients):
        return "it has no test patient in common with baseline"
    return ""


def over_seeds(values: dict[int, Means]) -> Means:
    """Return each patient's mean over the seeds, for the patients that every seed has."""
    everywhere = set.intersection(*(set(v) for v in values.values())) if values else set()
    return {patient: float(np.mean([v[patient] for v in values.values()])) for patient in sorted(everywhere)}


def difference(preset: dict[int, Means], baseline: dict[int, Means], better: int, minimum: int) -> dict | None:
    """Return preset minus baseline: mean, ci_low, ci_high (95 %, sign flips of patients), patients, seeds, verdict.

    `better` is 1 if more is better, -1 if less is. None if they have no seed or no patient in common. ci_low and
    ci_high are None if there are too few patients for an interval.
    """
    seeds = sorted(preset.keys() & baseline.keys())
    new, old = (over_seeds({seed: side[seed] for seed in seeds}) for side in (preset, baseline))
    patients = {patient: new[patient] - old[patient] for patient in new if patient in old}
    if not patients:
        return None
    low, high = paired_interval(list(patients.values())) or (None, None)
    return {
        "mean": float(np.mean(list(patients.values()))), "ci_low": low, "ci_high": high, "patients": patients,
        "seeds": seeds, "verdict": verdict(low, high, len(patients), better, minimum),
    }  # fmt: skip


def verdict(low: float | None, high: float | None, patients: int, better: int, minimum: int) -> str:
    """Return in words what a difference with this interval shows; too few patients never show that one is better."""
    if low is not None and high is not None and low <= 0 <= high:
        return SAME
    if low is None or patients < minimum:
        return f"too few patients to tell ({patients} of {minimum})"
    return "better" if (low > 0) == (better > 0) else "worse"


def notes(comparison: dict) -> list[str]:
    """Return sentences that a reader of the numbers needs."""
    count, least, presets = (comparison[name] for name in ("test_patients", "minimum_patients", "presets"))
    out = [f"{_many(count, 'test patient')}; the interval of a difference is over patients (sign flips, 95 %)."]
    if count < least:
        out.append(
            f"These are too few to decide: the promotion policy asks for {least}. Five or fewer give no interval."
        )
    seeds = presets[BASELINE]["seeds"]
    if len(seeds) == 1:
        out.append("One seed: nobody knows how much another seed alone would change.")
    else:
        out.append(
            f"{len(seeds)} seeds: a difference that is not larger than the range from seed to seed may be chance, "
            "even if its interval leaves out 0."
        )
    differences = [m["difference"] for p in presets.values() for m in p["metrics"].values() if m.get("difference")]
    if len(presets) > 2:
        out.append(
            f"{len(differences)} intervals at 95 %: about {len(differences) / 20:.1f} of them leave out 0 by "
            "chance even if nothing differs."
        )
    if len(ways := {way for preset in presets.values() for way in preset["precision"]}) > 1:
        out.append(
            f"The runs used different number formats ({', '.join(sorted(ways))}; auto takes the fastest), which can be "
            'part of a difference. With SET="precision=float32" all runs use the same one.'
        )
    for name, preset in presets.items():
        compared = preset["metrics"].get("dice", {}).get("difference")
        if name != BASELINE and compared is None:
            out.append(f"{name}: no difference, because baseline has none of its seeds or patients.")
        elif compared and (preset["scans"], len(compared["patients"])) != (presets[BASELINE]["scans"], count):
            out.append(
                f"{name}: on the {_many(preset['scans'], 'scan')} of {len(compared['patients'])} of "
                f"{_many(count, 'test patient')} that both have."
            )
        if compared and compared["seeds"] != seeds:
            shared = ", ".join(map(str, compared["seeds"]))
            out.append(f"{name}: the difference is over the seeds that both have, {shared}.")
    return out


def _by_seed(runs: dict[int, RunResult], metric: str, scans: set[str] | None = None) -> dict[int, Means]:
    """Return each seed's means per patient, over all scans or over `scans` alone."""
    found = {
        seed: means_by_patient((c["patient"], c[metric]) for c in run.cases if scans is None or c["case"] in scans)
        for seed, run in sorted(runs.items())
    }
    return {seed: means for seed, means in found.items() if means}


def _scans(runs: dict[int, RunResult]) -> set[str]:
    """Return the test scans that all of these runs have."""
    return set.intersection(*({case["case"] for case in run.cases} for run in runs.values()))


def _mean(values: list[float | None]) -> float | None:
    numbers = [value for value in values if value is not None]
    return float(np.mean(numbers)) if numbers else None


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"
