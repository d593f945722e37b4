"""The whole pipeline's wall time against calling the same step functions in one process; within 1.15 is wanted."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from mlflow import MlflowClient

from components.registry.tracking import MODEL_NAME
from pipelines.demo.scans import write_demo_scans
from pipelines.image_tags import ROOT
from tests.support.checkout import Checkout

IN_ONE_PROCESS = """
import sys, tempfile
from pathlib import Path
from components.evaluate.evaluate import evaluate
from components.fingerprint.fingerprint import fingerprint
from components.ingest.ingest import ingest
from components.preprocess.preprocess import preprocess
from components.register.register import register
from components.split.split import split
from components.train.train import train
from components.train.training_inputs import TrainingPaths
from pipelines import presets

settings = presets.load("demo", "aug_hflip_prob=0.31")
with tempfile.TemporaryDirectory() as folder:
    cases, slices, parts, page, model, evaluation, out = (
        Path(folder, name) for name in ("cases", "slices", "split", "page", "model", "evaluation", "out")
    )
    ingest(sys.argv[1], fingerprint(sys.argv[1]), cases, page)
    preprocess(cases, slices, settings.image_size, settings.normalization)
    split(cases, parts, out, (settings.train_ratio, settings.val_ratio, settings.test_ratio), settings.random_seed)
    train(TrainingPaths(cases, slices, parts, page, model, out), settings)
    evaluate(cases, parts, page, model, evaluation, out)
    register(model, evaluation)
"""


def measure() -> Iterator[dict]:
    with tempfile.TemporaryDirectory() as temporary, Checkout(Path(temporary) / "checkout") as checkout:
        write_demo_scans(checkout.state / "demo-scans")
        checkout.python("up")
        # one split and as many slices for both; another setting, so that none goes on from the other's checkpoint
        start = time.perf_counter()
        checkout.python("run", "--preset", "demo", "--set", "aug_hflip_prob=0.3")
        pipeline = time.perf_counter() - start
        uri, services = checkout.last_run()["data_uri"], checkout.services()
        # without a champion both have the same to do: the second would be measured against the first
        os.environ.update(services)
        MlflowClient().delete_registered_model_alias(MODEL_NAME, "champion")
        start = time.perf_counter()
        subprocess.run(
            [sys.executable, "-c", IN_ONE_PROCESS, uri],
            env={**os.environ, **services, "PYTHONPATH": str(ROOT), "KFP_RUN_ID": "one-process"},
            check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        alone = time.perf_counter() - start
    yield {
        "what": "the demo pipeline's wall time to its step functions in one process",
        "ratio": round(pipeline / alone, 3),
        "wanted": "<= 1.15",
        "pipeline_seconds": round(pipeline, 1),
        "one_process_seconds": round(alone, 1),
    }
