"""Write the comparison as an HTML page: the table, the differences by patient, the seeds, the cost."""

import io
from typing import Any

from components.core.html_page import embedded, render
from components.core.pyplot import plt
from pipelines.experiments.compare import BASELINE, METRICS, LeftOut, notes
from pipelines.experiments.comparison_table import cells, label, seconds

BODY = """
<p>{% if base != "baseline" %}The preset {{ base }} is <b>baseline</b> here. {% endif %}Every other preset changes
<b>baseline</b>. All are measured on the same held-out
patients: whole scans, native space.</p>
<div class="note">{% for note in notes %}{{ note }}<br>{% endfor %}</div>
{% if left_out %}<h2>Left out</h2><ul class="bad">{% for run in left_out %}
<li>{{ run.preset }}, seed {{ run.seed }}: {{ run.reason }}</li>{% endfor %}</ul>{% endif %}
{% for metric, rows in tables %}<h2>{{ metric }}</h2>
<table><tr><th>preset</th><th>mean</th><th>from seed to seed</th><th>minus baseline (95 % interval)</th><th></th></tr>
{% for name, mean, spread, difference, verdict in rows %}<tr><td>{{ name }}</td><td class="n">{{ mean }}</td>
<td>{{ spread }}</td><td class="n">{{ difference }}</td><td>{{ verdict }}</td></tr>{% endfor %}</table>{% endfor %}
{% if forest %}<h2>Differences from baseline</h2>
<p>A small dot is a patient (mean over seeds), the large one their mean, the line its interval (missing for five
patients or fewer).</p>
<img class="full" src="{{ forest }}" alt="differences from baseline, each patient and the mean with its interval">
{% endif %}
<h2>From seed to seed</h2><p>A dot is a seed: the mean over the test patients. The bar is the mean over the seeds.</p>
<img class="full" src="{{ seeds }}" alt="the mean of each seed">
<h2>Cost</h2><p>Seconds, mean over seeds. A step from the cache counts with the time of its own run, weights from a
finished training with the time of that training.</p>
<table><tr><th>preset</th><th>training</th><th>whole run</th></tr>{% for name, training, run in cost %}
<tr><td>{{ name }}</td><td class="n">{{ training }}</td><td class="n">{{ run }}</td></tr>{% endfor %}</table>
{% if bars %}<img class="full" src="{{ bars }}" alt="cost in seconds">{% endif %}
<h2>Runs</h2><table><tr><th>preset</th><th>seed</th><th>MLflow run</th></tr>{% for name, seed, run in runs %}
<tr><td>{{ name }}</td><td>{{ seed }}</td><td>{{ run }}</td></tr>{% endfor %}</table>
"""
MEAN, PATIENT, REST = "#0f766e", "#8aa4c8", "#cbd5e1"


def page(comparison: dict, left_out: list[LeftOut], base: str) -> str:
    """Return self-contained HTML. `base` is the preset that is called baseline."""
    presets = comparison["presets"]
    shown = [metric for metric in METRICS if metric in presets[BASELINE]["metrics"]]
    tables = [(label(m), [(name, *cells(p["metrics"].get(m))) for name, p in presets.items()]) for m in shown]
    cost = [(name, seconds(p["training_seconds"]), seconds(p["run_seconds"])) for name, p in presets.items()]
    runs = [(name, seed, run) for name, p in presets.items() for seed, run in p["runs"].items()]
    return render(
        BODY, title="Experiments", synthetic=comparison["synthetic"], base=base, notes=notes(comparison),
        left_out=left_out, tables=tables, cost=cost, runs=runs,
        forest=_forest(presets, shown), seeds=_seeds(presets, shown), bars=_bars(presets),
    )  # fmt: skip


def _forest(presets: dict, shown: list[str]) -> str:
    """Return a plot with a panel per metric and a line per preset; "" if nothing was compared."""
    names = [name for name in presets if any(m.get("difference") for m in presets[name]["metrics"].values())]
    if not names:
        return ""
    figure, panels = _panels(shown, names)
    for axis, metric in zip(panels, shown, strict=True):
        axis.axvline(0, color="#64748b", linewidth=1)
        for at, name in enumerate(names):
            if found := presets[name]["metrics"].get(metric, {}).get("difference"):
                dots = list(found["patients"].values())
                axis.plot(dots, [at + 0.22] * len(dots), "o", color=PATIENT, markersize=4, alpha=0.7)
                if found["ci_low"] is not None:
                    axis.plot([found["ci_low"], found["ci_high"]], [at, at], color=MEAN, linewidth=2)
                axis.plot(found["mean"], at, "o", color=MEAN, markersize=8)
        axis.set_xlabel("minus baseline")
    return _png(figure)


def _seeds(presets: dict, shown: list[str]) -> str:
    names = list(presets)
    figure, panels = _panels(shown, names)
    for axis, metric in zip(panels, shown, strict=True):
        for at, name in enumerate(names):
            if found := presets[name]["metrics"].get(metric):
                values = list(found["seeds"].values())
                axis.plot(values, [at] * len(values), "o", color=PATIENT, markersize=7)
                axis.plot(found["mean"], at, "|", color=MEAN, markersize=18, markeredgewidth=3)
    return _png(figure)


def _bars(presets: dict) -> str:
    names = [name for name in presets if None not in (presets[name]["run_seconds"], presets[name]["training_seconds"])]
    if not names:
        return ""
    figure, (axis,) = _panels(["cost"], names)
    training, whole = ([presets[name][what] for name in names] for what in ("training_seconds", "run_seconds"))
    axis.barh(names, training, color=MEAN, label="training", height=0.6)
    rest = [max(0.0, w - t) for w, t in zip(whole, training, strict=True)]
    axis.barh(names, rest, left=training, color=REST, label="the other steps", height=0.6)
    axis.set(xlabel="seconds", title="")
    axis.legend(frameon=False, loc="lower right", bbox_to_anchor=(1, 1), ncols=2)
    return _png(figure)


def _panels(shown: list[str], names: list[str]) -> tuple[Any, Any]:
    size = (13 if len(shown) > 1 else 9, 1.3 + 0.5 * len(names))
    figure, panels = plt.subplots(1, len(shown), figsize=size, layout="constrained", sharey=True, squeeze=False)
    for axis, metric in zip(panels[0], shown, strict=True):
        axis.set(title=label(metric) if metric in METRICS else "", ylim=(len(names) - 0.4, -0.6))
        axis.set_yticks(range(len(names)), names)
        axis.locator_params(axis="x", nbins=6)
        axis.grid(axis="x", color="#e2e8f0")
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    return figure, panels[0]


def _png(figure: Any) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=90)
    plt.close(figure)
    return embedded(buffer.getvalue())
