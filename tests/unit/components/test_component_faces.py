"""The Kubeflow face of each step: its inputs are used and described."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
FACES = sorted((ROOT / "components").glob("*/component.py"))


def face(path: Path) -> ast.FunctionDef:
    (function,) = (node for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef))
    return function


@pytest.mark.parametrize("path", FACES, ids=lambda path: path.parent.name)
def test_a_step_uses_every_input(path):
    """An input that the body forgets would be a parameter without effect."""
    function = face(path)
    used = {node.id for node in ast.walk(function) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    assert {argument.arg for argument in function.args.args} - used == set()


@pytest.mark.parametrize("path", FACES, ids=lambda path: path.parent.name)
def test_a_step_describes_every_input_for_kubeflows_page(path):
    lines = [line.strip() for line in (ast.get_docstring(face(path)) or "").splitlines()]
    described = [line.partition(":")[0] for line in lines[lines.index("Args:") + 1 :]]
    assert [argument.arg for argument in face(path).args.args] == described
