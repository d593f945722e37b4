"""One version for one model and evaluation, and all that it needs to load. With a registry: see tests/integration."""

import ast
import json
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from components.core import code_closure
from components.register.register import _example, _requirements
from components.registry.tracking import evaluation_digest


@pytest.fixture
def evaluation(tmp_path):
    def write(**facts) -> Path:
        folder = tmp_path / "evaluation"
        folder.mkdir(exist_ok=True)
        (folder / "test_metrics.json").write_text(json.dumps({"summary": {"test_dice_mean": 0.5}} | facts))
        return folder

    return write


def test_the_same_model_and_evaluation_have_the_same_lineage(model, evaluation):
    assert evaluation_digest(model(), evaluation()) == evaluation_digest(model(), evaluation())


@pytest.mark.parametrize("change", [{"seed": 1}, {"threshold": 0.55}, {"training_digest": "1" * 64}], ids=str)
def test_another_model_has_another_lineage(model, evaluation, change):
    before = evaluation_digest(model(), evaluation())
    assert evaluation_digest(model(**change), evaluation()) != before


def test_another_evaluation_has_another_lineage(model, evaluation):
    scan = {"case": "P1", "truth_voxels": 9, "predicted_voxels": 8, "dice": 0.5, "lesions_found": 1, "false_lesions": 0}
    before = evaluation_digest(model(), evaluation(cases=[scan]))
    assert evaluation_digest(model(), evaluation(cases=[scan | {"predicted_voxels": 7}])) != before
    assert evaluation_digest(model(), evaluation(cases=[scan | {"case": "P2"}])) != before


def test_the_last_digit_of_a_probability_makes_no_other_lineage(model, evaluation):
    """On another processor it is another one, while every mask is the same."""
    first, second = (evaluation_digest(model(), evaluation(calibration={"ece_after": e})) for e in (0.1, 0.1 + 1e-9))
    assert first == second


def test_the_example_is_the_same_every_time():
    assert _example()["scan"][0] == _example()["scan"][0]


def test_the_models_requirements_are_what_runs_here():
    required = dict(line.split("==") for line in _requirements())
    assert required == {package: version(package).split("+")[0] for package in required}


def imported(path: Path) -> set[str]:
    """Modules that a file imports, at its top or inside of a function."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    return {n.module for n in nodes if isinstance(n, ast.ImportFrom)} | {
        alias.name for n in nodes if isinstance(n, ast.Import) for alias in n.names
    }


def test_the_models_requirements_are_all_that_its_code_imports():
    """Everything that the model's code reaches is packed with it, of the standard library, or required."""
    packed = code_closure.closure(code_closure.MODEL)
    packages = {
        module.partition(".")[0]
        for path in packed
        for module in imported(code_closure.ROOT / path)
        if not module.startswith("components.")
    }
    required = {line.split("==")[0] for line in _requirements()}
    assert {path.split("/")[1] for path in packed} <= {"__init__.py", "core", "scans", "model"}
    assert {"torch", "nibabel", "cv2"} <= packages
    names = {"cv2": "opencv-python-headless", "SimpleITK": "simpleitk"}
    assert {names.get(p, p) for p in packages - sys.stdlib_module_names} <= required
