"""One of two training processes, which share a sum until the second one ends as told: python -m ... '["how"]'."""

import json
import os
import signal
import sys
import time

import torch

from components.core.errors import StepError
from components.core.step import step
from components.train import ranks


def main() -> None:
    how = json.loads(sys.argv[1])[0]
    with step("train"), ranks.joined():
        for turn in range(3000):
            ranks.total(torch.ones(3))
            if turn == 10 and ranks.rank() == 1:
                if how == "says why":
                    raise StepError("the loss is no number")
                if how.isdecimal():
                    os._exit(int(how))
                os.kill(os.getpid(), getattr(signal, how))
            time.sleep(0.01)


if __name__ == "__main__":
    main()
