"""Named sets of settings, and what the command line adds to them."""

import difflib
from pathlib import Path

import yaml

from components.core.settings import Settings, checked
from components.core.step import StepError

FOLDER = Path(__file__).parent / "presets"


def names() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load(preset: str, assignments: str = "") -> Settings:
    """The settings of a preset with `assignments` ("epochs=5 base_channels=16") laid over it.

    Raises:
        StepError: an unknown preset or key, or an impossible value, with the nearest valid one.
    """
    if preset not in names():
        near = difflib.get_close_matches(preset, names(), n=1, cutoff=0) or names()
        raise StepError(f"unknown preset '{preset}': did you mean '{near[0]}'? Presets: {', '.join(names())}.")
    values = yaml.safe_load((FOLDER / f"{preset}.yaml").read_text()) or {}
    for assignment in assignments.split():
        key, separator, value = assignment.partition("=")
        if not separator:
            raise StepError(f"SET takes key=value, not '{assignment}'. Example: SET=\"epochs=5 base_channels=16\".")
        values[key] = value
    return checked(values)
