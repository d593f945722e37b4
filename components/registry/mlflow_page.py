"""What people see on MLflow's pages: the note of the experiment, its columns, the source of a run."""

import json
import os

NOTE = "mlflow.note.content"
"""Tag with the description of a run or an experiment, as Markdown."""
KIND = "mlflow.experimentKind"
"""Tag of an experiment: MLflow lists it as model training, not as GenAI."""
VIEW = "dwi-stroke"
VIEW_TAG = f"mlflow.sharedViewState.{VIEW}"
"""Our columns, as a tag of the experiment. MLflow has no default columns, but it keeps views that a link can name."""
COLUMNS = (
    "attributes.`Dataset`", "attributes.`Models`", "attributes.`Version`", "metrics.`test_lesion_dice_mean`",
    "metrics.`test_lesion_f1_mean`", "metrics.`test_lesion_free_false_alarm_rate`", "metrics.`test_patients`",
    "metrics.`training_seconds`", "params.`epochs`", "params.`image_size`", "params.`loss`", "tags.`decision`",
)  # fmt: skip
EXPERIMENT_NOTE = """Segmentation of ischemic stroke lesions on diffusion MRI. Research use only.

A run is one pipeline run. Under its artifacts, `evaluation.html` answers the questions about a model, and
`data_report.html` shows the scans. Its datasets are the scans of each subset: the same digest means the same scans.
The model's versions are in the registry, each with its model card."""


def experiment_tags(present: dict[str, str]) -> dict[str, str]:
    """Return the tags that an experiment with the tags `present` lacks. A person may change its note and its kind."""
    wanted = {
        NOTE: EXPERIMENT_NOTE, KIND: "custom_model_development", **present,
        VIEW_TAG: json.dumps({"selectedColumns": COLUMNS}),
    }  # fmt: skip
    return {name: value for name, value in wanted.items() if present.get(name) != value}


def view_address(uri: str, experiment_id: str) -> str:
    """Return the address of the experiment's runs with our columns."""
    view = f"viewStateShareKey={VIEW}&workflowType=machine_learning"
    return f"{uri.rstrip('/')}/#/experiments/{experiment_id}/runs?{view}"


def source_tags() -> dict[str, str]:
    """Return the tags that fill the columns Source and Version."""
    commit = {"mlflow.source.git.commit": os.environ["GIT_COMMIT"]} if os.environ.get("GIT_COMMIT") else {}
    return {"mlflow.source.name": "dwi-stroke pipeline", "mlflow.source.type": "PROJECT"} | commit
