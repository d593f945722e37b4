"""What people call a pipeline run: the name that the terminal and Kubeflow show, not KFP's id of it.

KFP tells a run's name only as an input, and an input decides what comes from cache. So the fingerprint step, which is
never cached and comes first, writes the name down in object storage, and the steps after it read it there.
"""

import os
import re

from components.core.step import StepError
from components.core.storage import Storage, work_bucket

KFPS_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
PATIENCE_SECONDS = 10


def write_name(name: str) -> None:
    """Keep the name of this pipeline run (KFP_RUN_ID) as `s3://<S3_BUCKET>/pipeline-runs/<id>`."""
    if kfp_run := os.environ.get("KFP_RUN_ID"):
        _storage().put(kfp_run, name.encode())


def read_name() -> str:
    """The name of this pipeline run. Of a local run the id is the name; so it is of one whose name cannot be read."""
    kfp_run = os.environ.get("KFP_RUN_ID", "")
    if not KFPS_ID.fullmatch(kfp_run):
        return kfp_run
    storage = _storage()
    storage.patience = PATIENCE_SECONDS
    try:
        return storage.get(kfp_run).decode() if storage.find(kfp_run) else kfp_run
    except StepError:  # a name is no reason to end a step
        return kfp_run


def page() -> str:
    """The page of this pipeline run in Kubeflow's UI (KFP_HOST); "" where its address is not known."""
    host, kfp_run = os.environ.get("KFP_HOST", "").rstrip("/"), os.environ.get("KFP_RUN_ID")
    return f"{host}/#/runs/details/{kfp_run}" if host and kfp_run else ""


def _storage() -> Storage:
    return Storage(f"s3://{work_bucket()}/pipeline-runs")
