"""Each component takes the settings of its step, with their types and descriptions. `make parameters` writes them."""

import ast
import os
import subprocess
import sys
import textwrap
from typing import get_args

import pytest

from components.core.settings import Settings, parameters_of
from pipelines.image_tags import ROOT
from pipelines.pipeline import STEPS

INDENT = " " * 8


def test_every_setting_belongs_to_a_step():
    assert {name for step in STEPS for name in parameters_of(step)} == set(Settings.model_fields)


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_names_steps_that_exist(name):
    assert set(Settings.model_fields[name].json_schema_extra["steps"]) <= set(STEPS)


@pytest.mark.parametrize("step", STEPS)
def test_a_component_takes_the_settings_of_its_step(step):
    path = ROOT / "components" / step / "component.py"
    source = path.read_text()
    right = with_parameters(source, step)
    if os.environ.get("ACCEPT") == "1":
        path.write_text(right)
    else:
        assert source == right, "run make parameters"


def test_a_setting_that_is_missing_or_has_another_text_is_written():
    source = (ROOT / "components" / "preprocess" / "component.py").read_text()
    assert "    pixel_mm: float,\n" in source
    old = source.replace("    pixel_mm: float,\n", "").replace("Side of the square", "Edge of the square")
    assert old != source
    assert with_parameters(old, "preprocess") == source


@pytest.mark.parametrize("step", ["evaluate", "register"])
def test_what_is_written_is_written_once(monkeypatch, step):
    monkeypatch.setattr(sys.modules[__name__], "parameters_of", lambda step: ["tta"])
    once = with_parameters((ROOT / "components" / step / "component.py").read_text(), step)
    assert once.count("tta: bool") == once.count(f"{INDENT}tta: ") == 1
    assert with_parameters(once, step) == once


def test_a_component_without_settings_gets_its_first_one_before_its_outputs(monkeypatch):
    source = (ROOT / "components" / "evaluate" / "component.py").read_text()
    monkeypatch.setattr(sys.modules[__name__], "parameters_of", lambda step: ["tta"])
    right = with_parameters(source, "evaluate")
    assert "    model: Input[Model],\n    tta: bool,\n    evaluation: Output[Artifact],\n" in right
    assert f"{INDENT}tta: {Settings.model_fields['tta'].description}\n{INDENT}evaluation: " in right


def with_parameters(source: str, step: str) -> str:
    """Return the source of a component with the settings of its step, in its signature and its docstring.

    They replace the settings that stand there, and what stands between them; if there are none, they go before the
    outputs.
    """
    names = parameters_of(step)
    if not names:
        return source
    function = next(node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef))
    arguments = function.args.args
    output = next((node.arg for node in arguments if ast.unparse(node.annotation).startswith("Output")), "")
    first, after = _place([node.arg for node in arguments], output)
    kept = [ast.unparse(node) for node in arguments]
    signature = ", ".join([*kept[:first], *(f"{name}: {_type(name)}" for name in names), *kept[after:]])
    doc = ast.get_docstring(function, clean=False).rstrip(" ")
    opening, *entries = _entries(doc)
    first, after = _place([entry.strip().partition(":")[0] for entry in entries], output)
    texts = "".join([opening, *entries[:first], *map(_text, names), *entries[after:]])
    lines = source.splitlines(keepends=True)
    start, end = arguments[0], arguments[-1]
    before = "".join(lines[: start.lineno - 1]) + lines[start.lineno - 1][: start.col_offset]
    behind = lines[end.end_lineno - 1][end.end_col_offset :] + "".join(lines[end.end_lineno :])
    changed = f"{before}{signature}{behind}".replace(doc, texts)
    ruff = [sys.executable, "-m", "ruff", "format", "--stdin-filename", "component.py", "-"]
    return subprocess.run(ruff, input=changed, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def _place(names: list[str], output: str) -> tuple[int, int]:
    """Return where the settings begin and end among these names. If there are none: before `output`, or at the end."""
    old = [at for at, name in enumerate(names) if name in Settings.model_fields]
    new = names.index(output) if output in names else len(names)
    return (old[0], old[-1] + 1) if old else (new, new)


def _type(name: str) -> str:
    """Return the type of a setting as KFP knows it: a choice is text."""
    annotation = Settings.model_fields[name].annotation
    return "str" if get_args(annotation) else annotation.__name__


def _text(name: str) -> str:
    text = f"{name}: {Settings.model_fields[name].description}"
    return textwrap.fill(text, 120, initial_indent=INDENT, subsequent_indent=INDENT + "    ") + "\n"


def _entries(doc: str) -> list[str]:
    """Return a docstring in parts: what comes before its first argument, then each argument with its text."""
    parts = [""]
    inside = False
    for line in doc.splitlines(keepends=True):
        argument = inside and line.startswith(INDENT) and line[len(INDENT)] != " "
        if argument:
            parts.append(line)
        else:
            parts[-1] += line
        inside = inside or line.strip() == "Args:"
    return parts
