"""One version for one model and evaluation, and all that it needs to load. With a registry: see tests/integration."""

import ast
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from components.artifacts.evaluation import TestMetrics
from components.core import code_closure
from components.core.errors import StepError
from components.register.mlflow_logging import input_example, requirements
from components.registry.run_records import evaluation_digest
from tests.support import measured


@pytest.fixture
def evaluation(tmp_path):
    return lambda **fields: measured.write_evaluation(tmp_path / "evaluation", measured.metrics(**fields))


def test_the_same_model_and_evaluation_have_the_same_lineage(model, evaluation):
    assert evaluation_digest(model(), evaluation()) == evaluation_digest(model(), evaluation())


@pytest.mark.parametrize("change", [{"seed": 1}, {"threshold": 0.55}, {"training_digest": "1" * 64}], ids=str)
def test_another_model_has_another_lineage(model, evaluation, change):
    before = evaluation_digest(model(), evaluation())
    assert evaluation_digest(model(**change), evaluation()) != before


def test_another_evaluation_has_another_lineage(model, evaluation):
    scan = measured.case(1)
    before = evaluation_digest(model(), evaluation(cases=[scan]))
    assert evaluation_digest(model(), evaluation(cases=[scan | {"predicted_voxels": 7}])) != before
    assert evaluation_digest(model(), evaluation(cases=[scan | {"case": "P2"}])) != before


def test_the_last_digit_of_a_probability_makes_no_other_lineage(model, evaluation):
    """It differs between processors, while every mask is the same."""
    errors = (measured.FOUND["calibration"] | {"ece_after": e} for e in (0.1, 0.1 + 1e-9))
    first, second = (evaluation_digest(model(), evaluation(calibration=calibration)) for calibration in errors)
    assert first == second


def test_an_evaluation_with_an_invalid_field_is_refused_with_file_and_field(evaluation):
    folder = evaluation(cases=[measured.case(1) | {"dice": "high"}])
    with pytest.raises(StepError, match=r"test_metrics\.json: the field cases\.0\.dice is invalid"):
        TestMetrics.read(folder)


def test_the_example_is_the_same_every_time():
    assert input_example()["scan"][0] == input_example()["scan"][0]


def test_the_models_requirements_are_the_installed_versions():
    required = dict(line.split("==") for line in requirements())
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
    required = {line.split("==")[0] for line in requirements()}
    assert {path.split("/")[1] for path in packed} <= {"__init__.py", "artifacts", "core", "model", "scans"}
    assert {"torch", "nibabel", "cv2"} <= packages
    names = {"cv2": "opencv-python-headless", "SimpleITK": "simpleitk"}
    assert {names.get(p, p) for p in packages - sys.stdlib_module_names} <= required
