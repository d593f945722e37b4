"""`make mlflow`: show a link that logs a browser in to the MLflow of a target."""

import contextlib
import os
import sys
import threading
from pathlib import Path

from pipelines.mlflow_link import show
from pipelines.target import target
from pipelines.target_name import CLUSTER


def show_for_target(place: str, state: Path) -> None:
    """Print the link of the MLflow of `place`, a target. If a port is forwarded for it, keep that open until Ctrl-C."""
    forwarded = place == CLUSTER and not os.environ.get("MLFLOW_TRACKING_URI")
    with target(place).tracking(state) as uri:
        if not show(uri, place):
            print(f"  MLflow at {uri} gives no link: it was not started by us, or refuses our login")
        elif forwarded and sys.stdout.isatty():
            print("  the connection is open until Ctrl-C", flush=True)
            with contextlib.suppress(KeyboardInterrupt):
                threading.Event().wait()
