"""The figures of a comparison of models: means with intervals over patients, paired differences, speed; as markdown."""

import statistics
from collections.abc import Iterator

import numpy as np

from components.core.intervals import FEWEST, bounded_mean_interval, mean_interval, paired_interval
from components.evaluate.metrics import means_by_patient
from tests.evidence.page import machine, table

METRICS = {"dice": "Dice", "lesion_f1": "lesion-wise F1", "absolute_volume_difference_ml": "volume error, mL"}
BOUNDED = {"dice", "lesion_f1"}
SPEEDS = {
    "step_pixels_per_s": ("training step alone, pixels/s", ">= 1.5"),
    "pixels_per_s": ("training with loading, pixels/s", ">= 1.5"),
    "memory_mb": ("peak memory, MB", ""),
}
Found = dict[str, dict[str, list[list[dict]]]]
"""Test set to side to a list of scans' metrics for each seed."""


def figures(found: Found) -> Iterator[dict]:
    """Yield the mean of each metric of each side over patients, its interval, and the mean of each seed."""
    for name, sides in found.items():
        for side, runs in sides.items():
            for metric, words in METRICS.items():
                values = list(_patients(runs, metric).values())
                interval = (bounded_mean_interval if metric in BOUNDED else mean_interval)(values)
                seeds = [
                    float(np.mean(list(means_by_patient((c["patient"], c[metric]) for c in run).values())))
                    for run in runs
                ]
                yield {"what": words, "on": name, "of": side, **_mean(values, interval), "seeds": _rounded(seeds)}


def differences(found: Found, ours: str) -> Iterator[dict]:
    """Yield the mean over patients of what ours has more than each other side, with its interval."""
    for name, sides in found.items():
        for side in sides:
            if side == ours:
                continue
            for metric, words in METRICS.items():
                mine, other = (_patients(sides[who], metric) for who in (ours, side))
                values = [mine[patient] - other[patient] for patient in mine]
                of = f"{ours} minus {side}"
                yield {"what": f"{words}, paired", "on": name, "of": of, **_mean(values, paired_interval(values))}


def speeds(costs: dict[str, list[dict]], ours: str, other: str) -> Iterator[dict]:
    """Yield ours over the other's in speed and memory: the median over seeds and the spread."""
    if other not in costs:
        return
    for name, (words, wanted) in SPEEDS.items():
        mine, theirs = ([of[name] for of in costs[who]] for who in (ours, other))
        ratios = [m / t for m, t in zip(mine, theirs, strict=True)]
        yield {
            "what": f"{words}, {ours} to {other}",
            "ratio": round(statistics.median(ratios), 2),
            **({"wanted": wanted} if wanted else {}),
            "spread": [round(min(ratios), 2), round(max(ratios), 2)],
        }


def tables(rows: list[dict], costs: dict[str, list[dict]], seconds: float) -> str:
    """Return the page: a table of figures, one of differences, one of costs."""
    parts = [f"On {machine()}; {seconds:g} s a training."]
    for name in dict.fromkeys(row["on"] for row in rows if "on" in row):
        for paired in (False, True):
            body: dict[str, list[str]] = {}
            for row in rows:
                if row.get("on") == name and row["what"].endswith("paired") == paired:
                    body.setdefault(row["of"], [row["of"]]).append(_cell(row))
                    patients = row["patients"]
            title = f"{name}, {patients} patients" + (", paired differences" if paired else "")
            parts.append(f"## {title}\n\n{table(['', *METRICS.values()], list(body.values()))}")
    header = ["", "seconds", "before, s", "epochs", "images/s", *(words for words, _ in SPEEDS.values())]
    names = ["seconds", "prepared_seconds", "epochs", "images_per_s", *SPEEDS]
    body = [[who, *(f"{np.mean([run[n] for run in runs]):.4g}" for n in names)] for who, runs in costs.items()]
    ratios = [
        [row["what"], f"{row['ratio']:.2f}", " to ".join(map(str, row["spread"])), row.get("wanted", "")]
        for row in rows
        if "ratio" in row
    ]
    parts.append(f"## costs of a training, means over seeds\n\n{table(header, body)}")
    if ratios:
        parts.append(table(["", "ratio", "spread over seeds", "wanted"], ratios))
    return "\n\n".join(parts) + "\n"


def _patients(runs: list[list[dict]], metric: str) -> dict[str, float]:
    """Patient to the mean of a metric over their scans and the seeds."""
    of_seeds = [means_by_patient((c["patient"], c[metric]) for c in run) for run in runs]
    return {patient: float(np.mean([of[patient] for of in of_seeds])) for patient in of_seeds[0]}


def _mean(values: list[float], interval: tuple[float, float] | None) -> dict:
    known = {"interval": _rounded(interval)} if interval else {"interval": f"none below {FEWEST} patients"}
    return {"patients": len(values), "mean": round(float(np.mean(values)), 4), **known}


def _rounded(values) -> list[float]:
    return [round(value, 4) for value in values]


def _cell(row: dict) -> str:
    ends = row["interval"]
    return f"{row['mean']:.3f}" + (f" ({ends[0]:.3f} to {ends[1]:.3f})" if isinstance(ends, list) else "")
