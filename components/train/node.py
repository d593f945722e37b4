"""One node of a training on several nodes. A TrainJob starts it: python -m components.train.node ARGUMENTS.

The node downloads the step's inputs and runs torchrun. Kubeflow Trainer sets PET_* variables, by which torchrun finds
the other nodes. The first node uploads the results.
"""

import json
import logging
import os
import sys
import threading
import time

from components.core.errors import StepError
from components.core.settings import Settings, checked
from components.core.step import step
from components.core.storage import scratch
from components.train.failure_cause import MARK
from components.train.node_storage import NodeStorage
from components.train.torchrun import torchrun

START_TIMEOUT = 2 * 3600
"""Seconds that the first node waits for the last one: the cluster may have to add a machine and pull a large image."""
STEP_TIMEOUT = 30 * 60
"""Seconds without a heartbeat of the train step until a node ends. A step that is retried is back by then."""


def arguments(storage: str, processes: int, settings: Settings) -> str:
    """Return the command-line argument of `main` as JSON: name of the node storage, processes per node, settings."""
    return json.dumps([storage, processes, settings.model_dump(include=settings.model_fields_set)])


def main() -> None:
    """Train as one node, with the command line of `arguments`."""
    name, processes, settings = json.loads(sys.argv[1])
    with step("train"):
        storage, rank = NodeStorage(name), os.environ["PET_NODE_RANK"]
        threading.Thread(target=_end_without_step, args=[storage], daemon=True).start()
        paths = storage.download_inputs(scratch() / f"{name}-{rank}")
        logging.info("the inputs are downloaded; waiting for the nodes at %s", os.environ.get("PET_MASTER_ADDR"))
        torchrun(processes, paths, checked(settings), [f"--rdzv-conf=timeout={START_TIMEOUT}"])
        if rank == "0":
            storage.upload_results(paths)


def _end_without_step(storage: NodeStorage) -> None:
    """End this process if the train step is gone: a step that is stopped may have no time to remove its TrainJob."""
    last, since = b"", time.monotonic()
    while time.monotonic() - since < STEP_TIMEOUT:
        time.sleep(STEP_TIMEOUT / 30)
        try:
            heartbeat = storage.heartbeat()
        except StepError:  # object storage may be unavailable for a while
            continue
        if heartbeat != last:
            last, since = heartbeat, time.monotonic()
    print(f"{MARK}the train step has ended: nothing would read the model", flush=True)
    os._exit(1)


if __name__ == "__main__":
    main()
