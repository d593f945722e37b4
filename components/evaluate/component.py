from kfp import dsl
from kfp.dsl import HTML, Artifact, Dataset, Input, Metrics, Model, Output


@dsl.component(base_image="dwi-stroke-python", install_kfp_package=False)
def evaluate(
    cases: Input[Dataset],
    split: Input[Artifact],
    model: Input[Model],
    evaluation: Output[Artifact],
    metrics: Output[Metrics],
    page: Output[HTML],
):
    """Measure the model on the held-out patients: whole scans, in each scan's own space.

    Args:
        cases: From ingest.
        split: From split.
        model: From train.
        evaluation: test_metrics.json, the comparison with the champion, overlays, predicted masks.
        metrics: The summary.
        page: The summary, every test scan and the overlays as a page.
    """
    import json
    from pathlib import Path

    from components.artifacts.cases import REPORT
    from components.core.step import step
    from components.evaluate.evaluate import evaluate as run

    with step("evaluate"):
        data, (parts, *others) = Path(cases.path), (Path(a.path) for a in (split, model, evaluation, page))
        summary = run(data, parts, data / REPORT, *others)
        Path(metrics.path).write_text(json.dumps(summary))
        for name, value in summary.items():
            metrics.log_metric(name, value)
