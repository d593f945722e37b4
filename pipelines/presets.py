"""Named sets of settings, and what the command line adds to them."""

import difflib
from pathlib import Path
from typing import Any

import yaml

from components.core.settings import Settings, checked
from components.core.step import StepError

FOLDER = Path(__file__).parent / "presets"


def names() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load(preset: str, assignments: str = "") -> Settings:
    """The settings of a preset with `assignments` ("epochs=5 base_channels=16") laid over it.

    An improvement lies over `baseline`; "demo+n4" lays it over `demo`, and so on with every further "+".

    Raises:
        StepError: an unknown preset or key, or an impossible value, with the nearest valid one.
    """
    values: dict[str, Any] = {}
    for name in preset.split("+"):
        own = _read(name)
        below = own.pop("over", None)
        values = (values or (_read(below) if below else {})) | own
    for assignment in assignments.split():
        key, separator, value = assignment.partition("=")
        if not separator:
            raise StepError(f"SET takes key=value, not '{assignment}'. Example: SET=\"epochs=5 base_channels=16\".")
        values[key] = value
    return checked(values)


def _read(name: str) -> dict[str, Any]:
    if name not in names():
        near = difflib.get_close_matches(name, names(), n=1, cutoff=0.1) or ["demo"]
        raise StepError(f"unknown preset '{name}': did you mean '{near[0]}'? Presets: {', '.join(names())}.")
    return yaml.safe_load((FOLDER / f"{name}.yaml").read_text()) or {}
