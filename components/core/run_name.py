"""Read and write the name of a pipeline run that the terminal and Kubeflow show, which is not KFP's id.

KFP gives a step the run's name only as an input, and inputs decide which results come from the cache. So the
fingerprint step, which runs first and is never cached, writes the name to object storage; later steps read it there.
"""

import os
import re

from components.core.errors import StepError
from components.core.storage import Storage, work_bucket

KFP_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
PATIENCE_SECONDS = 10


def write_name(name: str) -> None:
    """Write the name of this pipeline run (KFP_RUN_ID) to `s3://<S3_BUCKET>/pipeline-runs/<id>`."""
    if kfp_run := os.environ.get("KFP_RUN_ID"):
        _storage().put(kfp_run, name.encode())


def read_name() -> str:
    """Return the name of this pipeline run: its id, if the run is local or the name cannot be read."""
    kfp_run = os.environ.get("KFP_RUN_ID", "")
    if not KFP_ID.fullmatch(kfp_run):
        return kfp_run
    storage = _storage()
    storage.patience = PATIENCE_SECONDS
    try:
        return storage.get(kfp_run).decode() if storage.find(kfp_run) else kfp_run
    except StepError:  # a missing name must not end a step
        return kfp_run


def page() -> str:
    """Return the page of this pipeline run in Kubeflow's UI (KFP_HOST); "" if its address is unknown."""
    host, kfp_run = os.environ.get("KFP_HOST", "").rstrip("/"), os.environ.get("KFP_RUN_ID")
    return f"{host}/#/runs/details/{kfp_run}" if host and kfp_run else ""


def _storage() -> Storage:
    return Storage(f"s3://{work_bucket()}/pipeline-runs")
