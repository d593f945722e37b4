"""One node of a training on several, as a TrainJob of Kubeflow Trainer starts it: python -m components.train.node ARGS.

It gets the step's inputs, runs torchrun, which Trainer tells by PET_* variables where the other nodes are, and
the first node sends the results back.
"""

import json
import logging
import os
import sys
import threading
import time

from components.core.settings import Settings, checked
from components.core.step import StepError, step
from components.core.storage import scratch
from components.train.launch import MARK, torchrun
from components.train.node_storage import Exchange

NODES_MEET_WITHIN = 2 * 3600
"""Seconds that the first node waits for the last: one may have to be bought first, and pull a large image."""
STEP_IS_GONE_AFTER = 30 * 60
"""Seconds without a sign of life from the step; a step that is retried is back by then."""


def arguments(exchange: str, processes: int, settings: Settings) -> str:
    """What `main` understands, as JSON: where the inputs are, processes on each node, the settings."""
    return json.dumps([exchange, processes, settings.model_dump(include=settings.model_fields_set)])


def main() -> None:
    name, processes, settings = json.loads(sys.argv[1])
    with step("train"):
        exchange = Exchange(name)
        threading.Thread(target=_end_with_the_step, args=[exchange], daemon=True).start()
        folder = scratch() / f"{name}-{os.environ['PET_NODE_RANK']}"
        results = [folder / "model", folder / "curves"]
        paths = [*exchange.fetch(folder / "in"), *results]
        logging.info("the inputs are here; the nodes meet at %s", os.environ.get("PET_MASTER_ADDR"))
        torchrun(processes, paths, checked(settings), [f"--rdzv-conf=timeout={NODES_MEET_WITHIN}"])
        if os.environ["PET_NODE_RANK"] == "0":
            exchange.give(*results)


def _end_with_the_step(exchange: Exchange) -> None:
    """End this node where nobody watches any more: a step that is stopped may have no time to clean up."""
    last, since = b"", time.monotonic()
    while time.monotonic() - since < STEP_IS_GONE_AFTER:
        time.sleep(STEP_IS_GONE_AFTER / 30)
        try:
            sign = exchange.sign_of_life()
        except StepError:  # object storage may be away for a while
            continue
        if sign != last:
            last, since = sign, time.monotonic()
    print(f"{MARK}the train step is gone: nobody would take the model", flush=True)
    os._exit(1)


if __name__ == "__main__":
    main()
