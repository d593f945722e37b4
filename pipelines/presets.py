"""Named sets of settings, and what the command line adds to them."""

import difflib
from pathlib import Path
from typing import Any

import yaml

from components.core.settings import MOST_SHOWN, Settings, checked
from components.core.step import StepError
from components.core.text import shown

FOLDER = Path(__file__).parent / "presets"
MOST_BYTES = 2**14
A_PRESET = 'A preset is lines of "key: value", as in pipelines/presets/demo.yaml'


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
        if below == name:
            raise StepError(f"preset '{name}' lies over itself. Give another preset after 'over:', or none.")
        values = (values or (_read(below) if below else {})) | own
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
    return _parsed(FOLDER / f"{name}.yaml")


def _parsed(path: Path) -> dict[str, Any]:
    """One "key: value" a line, values single words and numbers; of YAML no more than that.

    Raises:
        StepError: it is something else.
    """
    with path.open("rb") as file:
        blob = file.read(MOST_BYTES + 1)
    if len(blob) > MOST_BYTES:
        raise StepError(f"{path} is too large for a preset: at most {MOST_BYTES} bytes.")
    try:
        node = yaml.compose(blob.decode(), Loader=_Plain)
        if node is None:
            return {}
        if not isinstance(node, yaml.MappingNode):
            raise StepError(f"{path} is no preset. {A_PRESET}")
        values: dict[str, Any] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise StepError(f"{path}, line {key.start_mark.line + 1}: a key is a word. {A_PRESET}")
            if not isinstance(value, yaml.ScalarNode):
                raise StepError(f"{path}, line {value.start_mark.line + 1}: a value is one word or number. {A_PRESET}")
            if key.value in values:
                raise StepError(f"{path}, line {key.start_mark.line + 1}: {key.value} is there twice. Keep one.")
            values[key.value] = _scalar(value)
        return values
    except UnicodeDecodeError:
        raise StepError(f"{path} is not UTF-8 text. {A_PRESET}") from None
    except RecursionError:
        raise StepError(f"{path} is nested too deep for a preset. {A_PRESET}") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise StepError(f"{path}, line {line}: {error.problem or error.context}. {A_PRESET}") from None
    except yaml.YAMLError:
        raise StepError(f"{path} holds a character that YAML does not allow. {A_PRESET}") from None


class _Plain(yaml.SafeLoader):
    """Refuses what a preset has no use for: anchors, which can unfold to gigabytes; tags, which can build objects."""

    def fetch_flow_collection_start(self, token_class):
        """Brackets in brackets take the square of their number in time."""
        raise yaml.MarkedYAMLError(problem="a value is one word or number, no [ or {", problem_mark=self.get_mark())

    def compose_node(self, parent, index):
        event = self.peek_event()
        if getattr(event, "anchor", None):
            raise yaml.MarkedYAMLError(problem="a preset has no anchors (&, *)", problem_mark=event.start_mark)
        if getattr(event, "tag", None):
            raise yaml.MarkedYAMLError(problem="a preset has no tags (!)", problem_mark=event.start_mark)
        return super().compose_node(parent, index)


def _scalar(node: yaml.ScalarNode) -> Any:
    """Switches as such; everything else as it is written, for Settings to read."""
    if node.tag == "tag:yaml.org,2002:bool":
        return yaml.SafeLoader.bool_values[node.value.lower()]
    return None if node.tag == "tag:yaml.org,2002:null" else node.value
