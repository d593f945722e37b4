"""Outcomes made by hand, and a pipeline that is none: it leaves what a run leaves, in a moment."""

import contextlib
import json

import mlflow
import pytest

from components.core.errors import StepError
from pipelines.experiments.run_results import RunResult
from pipelines.image_tags import code
from pipelines.summary import save
from pipelines.target import Target

STEPS = {"ingest": 3.0, "preprocess": 2.0, "split": 1.0, "train": 20.0, "evaluate": 4.0}


def scan(patient: str, dice: float, f1: float = 0.5, volume: float | None = 2.0) -> dict:
    return {"case": patient, "patient": patient, "dice": dice, "lesion_f1": f1, "absolute_volume_difference_ml": volume}


@pytest.fixture
def result():
    """result("n4", 42, {"p1": 0.5}): a run with this Dice of each test patient."""

    def make(preset="baseline", seed=42, dice=None, cases=None, train=("t1",), val=("v1",), test=None, **more):
        cases = cases or [scan(patient, value) for patient, value in dice.items()]
        test = sorted({case["patient"] for case in cases}) if test is None else test
        patients = {"train": list(train), "val": list(val), "test": list(test)}
        digest = json.dumps(patients, sort_keys=True)
        facts = {
            "mlflow_run_id": f"{preset}-{seed}", "data_version": "d1", "split_digest": digest, "patients": patients,
            "cases": cases, "synthetic": True, "precision": "float32", "training_seconds": 10.0, "run_seconds": 30.0,
        }  # fmt: skip
        return RunResult(preset, seed, **{**facts, **more})

    return make


class Pipeline:
    """`run` is the public door; `calls` are the presets and seeds that went through it.

    `effect` is added to every Dice of a preset; `broken` says which (preset, seed) ends with which error.
    """

    def __init__(self, uri: str, artifacts: str):
        self.client = mlflow.MlflowClient(uri)
        self.experiment = self.client.create_experiment("dwi-stroke-segmentation", artifact_location=artifacts)
        self.uri, self.calls, self.effect, self.broken = uri, [], {}, {}
        self.data_version, self.exit_code, self.test_patients = "d1", None, lambda seed: ["p1", "p2"]
        self.number, self.code = 0, code

    def run(self, data, preset, settings, state):
        self.calls.append((preset, settings.random_seed))
        self.number += 1
        error = self.broken.get(self.calls[-1])
        summary = {
            "run_id": f"{self.number:03d}-{preset}", "target": "local", "preset": preset, "data_uri": "s3://b/scans",
            "settings": settings.model_dump(), "code": self.code(), "status": "failed",
            "steps": {name: {"state": "succeeded", "seconds": s, "cached": False} for name, s in STEPS.items()},
        }  # fmt: skip
        if error is None and not self.exit_code:
            summary |= {"status": "succeeded", "data_version": self.data_version, **self._logged(preset, settings)}
        save(summary, state)
        if error:
            raise error
        return self.exit_code

    def _logged(self, preset, settings) -> dict:
        run = self.client.create_run(self.experiment, tags={"data_version": self.data_version}).info.run_id
        test = self.test_patients(settings.random_seed)
        patients = {"train": sorted({"p1", "p2", "p3", "p4"} - set(test)), "val": ["v1"], "test": test}
        dices = [0.5 + self.effect.get(preset, 0) + at / 10 for at in range(len(test))]
        cases = [scan(patient, dice) for patient, dice in zip(test, dices, strict=True)]
        self.client.log_dict(run, {"digest": str(patients), "patients": patients}, "split.json")
        self.client.log_dict(run, {"cases": cases, "synthetic": True}, "test_metrics.json")
        self.client.log_param(run, "precision", "float32")
        self.client.log_metric(run, "training_seconds", 15.0)
        self.client.log_metric(run, "training_seconds_taken_over", 5.0)
        return {"mlflow_run_id": run}

    def target(self) -> Target:
        @contextlib.contextmanager
        def tracking(state):
            yield self.uri

        return Target("local", self.run, tracking, tracking)


@pytest.fixture
def pipeline(empty_database, tmp_path):
    path = tmp_path / "mlflow.db"
    path.write_bytes(empty_database.read_bytes())
    return Pipeline(f"sqlite:///{path}", (tmp_path / "artifacts").as_uri())


@pytest.fixture
def refused():
    return StepError("inputs=dwi+adc needs 3 labelled patients\nwith an ADC map")
