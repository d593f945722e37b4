"""What the experiments say: each preset against baseline, paired by patient, averaged over seeds."""

from dataclasses import dataclass

import numpy as np

from components.core.intervals import paired_interval
from components.evaluate.metrics import means_by_patient
from components.register.policy import MEASURES
from pipelines.experiments.run_results import Outcome

METRICS = ("dice", "lesion_f1", "absolute_volume_difference_ml")
BASELINE = "baseline"
SAME = "no evidence of a difference"
Means = dict[str, float]
"""Patient to the value of a metric."""


@dataclass(frozen=True)
class Unlike:
    """A run that cannot be compared with baseline, or did not come to an end, and why."""

    preset: str
    seed: int
    reason: str


def compare(outcomes: list[Outcome], minimum_patients: int) -> tuple[dict, list[Unlike]]:
    """The comparison as JSON holds it, and the runs that it leaves out. The first of `outcomes` is baseline's.

    Returns:
        test_patients, minimum_patients, synthetic, data_version, split_digest, and `presets`: name to seeds, runs (seed
        to MLflow run), scans (test scans that baseline has too), precision (one for each number format they used),
        training_seconds, run_seconds (means over seeds, None where unknown) and metrics. A metric has mean, seeds (seed
        to mean over patients), patients (patient to mean over seeds) and, but for baseline, difference: preset minus
        baseline over the patients and seeds that both have; None where they share none.
    """
    first = outcomes[0]
    reasons = {id(run): why_unlike(run, first) for run in outcomes}
    unlike = [Unlike(run.preset, run.seed, why) for run in outcomes if (why := reasons[id(run)])]
    runs: dict[str, dict[int, Outcome]] = {}
    for run in outcomes:
        if not reasons[id(run)]:
            runs.setdefault(run.preset, {})[run.seed] = run
    presets = {}
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
            found = {
                "mean": float(np.mean(list(patients.values()))),
                "seeds": {str(seed): float(np.mean([v[p] for p in patients])) for seed, v in values.items()},
                "patients": patients,
            }
            if name != BASELINE:
                better = MEASURES[metric][2]
                sides = (_by_seed(side, metric, both) for side in (of_seed, runs[BASELINE]))
                found["difference"] = difference(*sides, better, minimum_patients)
            presets[name]["metrics"][metric] = found
    comparison = {
        "test_patients": len(first.patients["test"]), "minimum_patients": minimum_patients,
        "synthetic": any(run.synthetic for run in outcomes), "data_version": first.data_version,
        "split_digest": first.split_digest, "presets": presets,
    }  # fmt: skip
    return comparison, unlike


def why_unlike(run: Outcome, baseline: Outcome) -> str:
    """Why the two cannot be compared; "" where they can, be it on the test patients that both have."""
    if run.data_version != baseline.data_version:
        return f"its data are others (version {run.data_version[:12]}, baseline's {baseline.data_version[:12]})"
    if run.split_digest == baseline.split_digest:
        return ""
    for tested, whose, learner, who in ((baseline, "baseline's", run, "it"), (run, "its own", baseline, "baseline")):
        test = set(tested.patients["test"])
        if seen := test & {*learner.patients["train"], *learner.patients["val"]}:
            return f"its test patients are others: {who} was trained or tuned on {len(seen)} of {whose} {len(test)}"
    if not set(run.patients["test"]) & set(baseline.patients["test"]):
        return "it has no test patient in common with baseline"
    return ""


def over_seeds(values: dict[int, Means]) -> Means:
    """Each patient's mean over the seeds, of the patients whom every seed has."""
    everywhere = set.intersection(*(set(v) for v in values.values())) if values else set()
    return {patient: float(np.mean([v[patient] for v in values.values()])) for patient in sorted(everywhere)}


def difference(preset: dict[int, Means], baseline: dict[int, Means], better: int, minimum: int) -> dict | None:
    """Preset minus baseline: mean, ci_low, ci_high (95 %, sign flips of patients), patients, seeds, verdict.

    `better` is 1 where more is better, -1 where less is. None where they have no seed or no patient in common;
    the ends are None of too few patients for an interval.
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
    """What a difference with this interval says, in words; nothing is called better on too few patients."""
    if low is not None and low <= 0 <= high:
        return SAME
    if low is None or patients < minimum:
        return f"too few patients to tell ({patients} of {minimum})"
    return "better" if (low > 0) == (better > 0) else "worse"


def notes(comparison: dict) -> list[str]:
    """What has to be known to read the numbers, in sentences."""
    count, least, presets = (comparison[name] for name in ("test_patients", "minimum_patients", "presets"))
    out = [f"{_many(count, 'test patient')}; an interval of the difference is about patients (sign flips, 95 %)."]
    if count < least:
        out.append(
            f"So few can decide nothing: the promotion policy asks for {least}. Of five or fewer there is no interval."
        )
    seeds = presets[BASELINE]["seeds"]
    if len(seeds) == 1:
        out.append("One seed: how much another seed alone would change is not known.")
    else:
        out.append(
            f"{len(seeds)} seeds: a difference that is no larger than the range from seed to seed may be chance, "
            "whatever its interval says."
        )
    differences = [m["difference"] for p in presets.values() for m in p["metrics"].values() if m.get("difference")]
    if len(presets) > 2:
        out.append(
            f"{len(differences)} intervals at 95 %: of so many, about {len(differences) / 20:.1f} leave out 0 by "
            "chance where nothing differs."
        )
    if len(ways := {way for preset in presets.values() for way in preset["precision"]}) > 1:
        out.append(
            f"Not all computed alike ({', '.join(sorted(ways))}: auto takes the fastest of the moment), which may be a "
            'part of a difference. With SET="precision=float32" all compute alike.'
        )
    for name, preset in presets.items():
        compared = preset["metrics"].get("dice", {}).get("difference")
        if name != BASELINE and compared is None:
            out.append(f"{name}: no difference, for want of a seed or a patient that baseline has too.")
        elif compared and (preset["scans"], len(compared["patients"])) != (presets[BASELINE]["scans"], count):
            out.append(
                f"{name}: on the {_many(preset['scans'], 'scan')} of {len(compared['patients'])} of "
                f"{_many(count, 'test patient')} that both have."
            )
        if compared and compared["seeds"] != seeds:
            shared = ", ".join(map(str, compared["seeds"]))
            out.append(f"{name}: the difference is over the seeds that both have, {shared}.")
    return out


def _by_seed(runs: dict[int, Outcome], metric: str, scans: set[str] | None = None) -> dict[int, Means]:
    """Of all scans, or of these alone: a patient's mean is to be of the same scans on both sides."""
    found = {
        seed: means_by_patient((c["patient"], c[metric]) for c in run.cases if scans is None or c["case"] in scans)
        for seed, run in sorted(runs.items())
    }
    return {seed: means for seed, means in found.items() if means}


def _scans(runs: dict[int, Outcome]) -> set[str]:
    """The test scans that every one of these runs has."""
    return set.intersection(*({case["case"] for case in run.cases} for run in runs.values()))


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"
