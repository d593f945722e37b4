"""The Kubeflow face of each step: its inputs are used and described."""

import ast
import re
from pathlib import Path

import pytest

from components.core.settings import Settings

ROOT = Path(__file__).parents[3]
FACES = sorted((ROOT / "components").glob("*/component.py"))


def face(path: Path) -> ast.FunctionDef:
    (function,) = (node for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef))
    return function


@pytest.mark.parametrize("path", FACES, ids=lambda path: path.parent.name)
def test_a_step_uses_every_input(path):
    """An input that the body forgets would be a parameter without effect."""
    function = face(path)
    inputs = {argument.arg for argument in function.args.args}
    used = {node.id for node in ast.walk(function) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    if "settings_among(locals())" in ast.unparse(function):
        used |= set(Settings.model_fields)
    assert inputs - used == set()


@pytest.mark.parametrize("path", FACES, ids=lambda path: path.parent.name)
def test_a_step_describes_every_input_for_kubeflows_page(path):
    _, _, text = (ast.get_docstring(face(path)) or "").partition("Args:\n")
    described = re.findall(r"^    (\w+):", text, re.MULTILINE)
    assert [argument.arg for argument in face(path).args.args] == described
