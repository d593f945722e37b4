"""Read presets, which are named sets of settings, and the settings that the command line adds."""

import difflib
from pathlib import Path
from typing import Any

import yaml

from components.core.errors import StepError
from components.core.settings import MOST_SHOWN, Settings, checked
from components.core.text import shown

FOLDER = Path(__file__).parent / "presets"


def names() -> list[str]:
    """Return the names of all presets."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load(preset: str, assignments: str = "") -> Settings:
    """Return the settings of a preset, with `assignments` ("epochs=5 base_channels=16") on top.

    A preset for an improvement changes `baseline`. "demo+n4" applies it to `demo` instead; more can follow with "+".

    Raises:
        StepError: a preset or a key is unknown, or a value is impossible. The message names the nearest valid one.
    """
    values: dict[str, Any] = {}
    for name in preset.split("+"):
        own = _read(name)
        base = own.pop("over", None)
        values = (values or (_read(base) if base else {})) | own
    for assignment in assignments.split():
        key, separator, value = assignment.partition("=")
        if not separator or not key:
            raise StepError(
                f"SET takes key=value, not '{shown(assignment, MOST_SHOWN)}'. "
                'Example: SET="epochs=5 base_channels=16".'
            )
        values[key] = value
    return checked(values)


def _read(name: str) -> dict[str, Any]:
    if name not in names():
        near = difflib.get_close_matches(name, names(), n=1, cutoff=0.1) or ["demo"]
        raise StepError(
            f"unknown preset '{shown(name, MOST_SHOWN)}': did you mean '{near[0]}'? Presets: {', '.join(names())}."
        )
    return yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8")) or {}
