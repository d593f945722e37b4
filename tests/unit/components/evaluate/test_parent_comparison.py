"""What a fine-tuned model has forgotten: it and its parent on the parent's test scans, paired by patient."""

import pytest

from components.artifacts.cases import PARENT_TESTS
from components.core.errors import StepError
from components.evaluate import parent_comparison
from components.evaluate.parent_comparison import compare_with_parent
from components.registry.parent import Ancestor
from tests.support.artifacts import make_case, make_cases, make_split
from tests.support.trained import trained

ADDRESS = "models:/dwi-attention-unet/3"
PARENT = f"{ADDRESS}#{'a' * 64}"
SPLIT = make_split({"train": ["A"], "val": ["B"], "test": ["C"]})
CHILD = trained(lineage={"parent": PARENT})
DICE = {"the child": 0.5, "the parent": 0.75}


@pytest.fixture
def cases(tmp_path, monkeypatch):
    """cases("A", "X", notes=[...]): the folder of a run on A, B and C; these are the parent's test cases."""
    monkeypatch.setenv("SCRATCH_DIR", str(tmp_path / "scratch"))
    monkeypatch.setattr(parent_comparison, "ancestors", lambda _: [Ancestor(ADDRESS, object())])
    monkeypatch.setattr(parent_comparison, "download_parent", lambda parent, folder: folder)
    monkeypatch.setattr(parent_comparison, "load_model", lambda _: ("the parent", trained()))

    def make(*names: str, **fields):
        (tmp_path / PARENT_TESTS).mkdir(exist_ok=True)
        make_cases([make_case(name) for name in "ABC"]).write(tmp_path)
        make_cases([make_case(name) for name in names], **fields).write(tmp_path / PARENT_TESTS)
        return tmp_path

    return make


@pytest.fixture
def measure(result):
    return lambda network, model, folder, tested: [result(case.patient, dice=DICE[network]) for case in tested]


def test_a_model_from_random_weights_has_no_parent(cases, measure):
    assert compare_with_parent("the child", trained(), cases("X"), SPLIT, measure) is None


def test_both_are_measured_on_the_parents_test_patients(cases, measure):
    found = compare_with_parent("the child", CHILD, cases("X", "Y", "C"), SPLIT, measure)
    assert (found.parent, found.unknown, found.reason) == (PARENT, [], "")
    assert found.pairs["dice"] == {"X": (0.5, 0.75), "Y": (0.5, 0.75), "C": (0.5, 0.75)}
    assert found.differences["dice"].mean == -0.25


def test_scans_that_the_child_learnt_from_are_left_out(cases, measure):
    assert compare_with_parent("the child", CHILD, cases("A", "B", "X"), SPLIT, measure).pairs["dice"].keys() == {"X"}
    all_learnt = compare_with_parent("the child", CHILD, cases("A", "B"), SPLIT, measure)
    assert all_learnt.reason == "this model learnt from all test patients of its parent" and not all_learnt.pairs


def test_another_scan_of_a_patient_that_the_child_learnt_from_is_left_out(cases, measure):
    """By its name at the same address; elsewhere a name says nothing."""
    folder = cases("X")
    other = [make_case("A", voxel_sha256="another session"), make_case("X")]
    here = "s3://bucket/scans"
    for data_uri, left in ((here, {"X"}), (f"{here}/", {"X"}), ("s3://elsewhere/scans", {"A", "X"})):
        make_cases(other, data_uri=data_uri).write(folder / PARENT_TESTS)
        assert compare_with_parent("the child", CHILD, folder, SPLIT, measure).pairs["dice"].keys() == left


def test_why_the_scans_are_missing_is_the_reason(cases, measure):
    found = compare_with_parent("the child", CHILD, cases(notes=["nothing is stored there"]), SPLIT, measure)
    assert found.reason == "nothing is stored there"


def test_a_parent_that_cannot_be_loaded_stops_no_evaluation(cases, measure, monkeypatch):
    def gone(*_):
        raise StepError("the model of START cannot be loaded")

    monkeypatch.setattr(parent_comparison, "download_parent", gone)
    found = compare_with_parent("the child", CHILD, cases("X"), SPLIT, measure)
    assert found.reason == "the model of START cannot be loaded" and not found.pairs


def test_models_whose_scans_are_unknown_are_listed(cases, measure, monkeypatch):
    line = [Ancestor(ADDRESS, object()), Ancestor("s3://models/theirs", None)]
    monkeypatch.setattr(parent_comparison, "ancestors", lambda _: line)
    assert compare_with_parent("the child", CHILD, cases("X"), SPLIT, measure).unknown == ["s3://models/theirs"]
