"""One of several training processes. torchrun starts it: python -m components.train.torchrun_worker ARGUMENTS."""

import json
import sys

from components.core.settings import Settings, checked
from components.core.step import step
from components.train import ranks
from components.train.train import train
from components.train.training_inputs import TrainingPaths


def arguments(paths: TrainingPaths, settings: Settings) -> str:
    """Return the command-line argument of `main`: paths and settings as JSON."""
    return json.dumps([paths.as_list(), settings.model_dump(include=settings.model_fields_set)])


def main() -> None:
    """Train with the paths and settings of the command line."""
    paths, settings = json.loads(sys.argv[1])
    with step("train"), ranks.joined():
        train(TrainingPaths.from_list(paths), checked(settings))


if __name__ == "__main__":
    main()
