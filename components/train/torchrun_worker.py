"""One of several training processes, as torchrun starts it: python -m components.train.torchrun_worker ARGUMENTS."""

import json
import sys
from pathlib import Path

from components.core.settings import Settings, checked
from components.core.step import step
from components.train import ranks
from components.train.train import train


def arguments(paths: list[Path], settings: Settings) -> str:
    """What `main` understands, as JSON: the paths and settings of `train`."""
    return json.dumps([[str(path) for path in paths], settings.model_dump(include=settings.model_fields_set)])


def main() -> None:
    paths, settings = json.loads(sys.argv[1])
    with step("train"), ranks.joined():
        train(*map(Path, paths), checked(settings))


if __name__ == "__main__":
    main()
