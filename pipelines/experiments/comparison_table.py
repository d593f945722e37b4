"""Write the comparison as plain text, at most 110 characters wide."""

import textwrap

from components.artifacts.metric_labels import METRIC_LABELS
from pipelines.experiments.compare import METRICS, LeftOut, notes

WIDTH = 110


def label(metric: str) -> str:
    """Return the name of a metric, its unit, and whether more or less is better."""
    metric_label = METRIC_LABELS[metric]
    return f"{metric_label.with_unit()} ({'more' if metric_label.better > 0 else 'less'} is better)"


def table(comparison: dict, left_out: list[LeftOut]) -> str:
    """Return means, ranges from seed to seed and differences from baseline, by metric and preset; and the cost."""
    presets = comparison["presets"]
    lines = ["SYNTHETIC scans: these numbers say nothing about patients.", ""] if comparison["synthetic"] else []
    for metric in METRICS:
        if not any(metric in preset["metrics"] for preset in presets.values()):
            lines += [f"{label(metric)}: unknown, the scans have no voxel size", ""]
            continue
        lines += [label(metric), _row("", "mean", "seed to seed", "minus baseline (95 % interval)", "")]
        lines += [_row(name, *cells(preset["metrics"].get(metric))) for name, preset in presets.items()] + [""]
    lines += ["Cost in seconds, mean over seeds", _row("", "training", "", "whole run", "")]
    for name, preset in presets.items():
        lines.append(_row(name, seconds(preset["training_seconds"]), "", seconds(preset["run_seconds"]), ""))
    lines += ["", *(wrapped for note in notes(comparison) for wrapped in _wrapped(note))]
    for run in left_out:
        lines += _wrapped(f"LEFT OUT {run.preset}, seed {run.seed}: {run.reason}")
    return "\n".join(lines)


def cells(found: dict | None) -> tuple[str, str, str, str]:
    """Return the cells of a row: mean, range over seeds, difference with interval, verdict."""
    if found is None:
        return ("unknown", "", "", "")
    values = found["seeds"].values()
    spread = f"{min(values):.3f} to {max(values):.3f}" if len(values) > 1 else "one seed"
    difference = found.get("difference")
    if not difference:
        return (f"{found['mean']:.3f}", spread, "", "")
    low, high = difference["ci_low"], difference["ci_high"]
    between = "(no interval)" if low is None else f"({low:+.3f} to {high:+.3f})"
    return (f"{found['mean']:.3f}", spread, f"{difference['mean']:+.3f} {between}", difference["verdict"])


def seconds(value: float | None) -> str:
    """Return a time in whole seconds, or "unknown"."""
    return "unknown" if value is None else f"{value:.0f}"


def _row(name: str, mean: str, spread: str, difference: str, verdict: str) -> str:
    return f"  {name:<17} {mean:>8}  {spread:<14}  {difference:<28} {verdict}".rstrip()


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
