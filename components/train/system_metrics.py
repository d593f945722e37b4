"""Log the load of the machine (CPU, memory, disk, network) to MLflow while training runs, if a switch asks for it."""

import contextlib
import logging
import os
from collections.abc import Iterator

from components.registry.tracking import Run

SWITCH = "MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING"
"""MLflow's own variable. It is off by default."""


@contextlib.contextmanager
def log_system_metrics(run: Run | None) -> Iterator[None]:
    """Log the load every ten seconds, after what an interrupted try logged. No error of MLflow ends the training."""
    if run is None or os.environ.get(SWITCH, "").lower() not in ("true", "1"):
        yield
        return
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    try:
        monitor = SystemMetricsMonitor(run.id, resume_logging=True)
    except Exception as error:
        logging.warning("the load of the machine is not logged: %s", str(error)[:200])
        yield
        return
    monitor.start()
    try:
        yield
    finally:
        monitor.finish()
