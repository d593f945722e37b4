"""`make mlflow`: show a link that logs a browser in to the MLflow of a target."""

import contextlib
import os
import sys
import threading
from pathlib import Path

from pipelines.mlflow_link import show
from pipelines.target import target
from pipelines.target_name import CLUSTER


def show_of(place: str, state: Path) -> None:
    """Print the link of the MLflow of `place`, a target; where a port is forwarded for it, until Ctrl-C."""
    forwarded = place == CLUSTER and not os.environ.get("MLFLOW_TRACKING_URI")
    with target(place).tracking(state) as uri:
        if not show(uri, place):
            print(f"  MLflow at {uri} gives no link: it is not ours, or refuses our login")
        elif forwarded and sys.stdout.isatty():
            print("  the way to it is open until Ctrl-C", flush=True)
            with contextlib.suppress(KeyboardInterrupt):
                threading.Event().wait()
