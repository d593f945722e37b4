"""A model's files, each named in one digest."""

import pytest

from components.core.storage import file_sha256
from components.registry.model_digest import altered_file, model_digest


@pytest.fixture
def stored(tmp_path):
    for name, text in {"MLmodel": "m", "model.py": "c", "artifacts/weights/best_model.pth": "w"}.items():
        path = tmp_path / "stored" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "stored"


@pytest.fixture
def tags(stored):
    weights = stored / "artifacts" / "weights" / "best_model.pth"
    return {"weights_sha256": file_sha256(weights), "model_sha256": model_digest(stored)}


def test_a_registered_model_is_unaltered(stored, tags):
    assert altered_file(stored, tags) == ""


def test_a_file_that_mlflow_adds_to_a_download_does_not_change_the_digest(stored, tags):
    (stored / "registered_model_meta").write_text("model_name: m")
    assert altered_file(stored, tags) == ""
    (stored / "artifacts" / "registered_model_meta").write_text("model_name: m")
    assert altered_file(stored, tags)


@pytest.mark.parametrize("name", ["MLmodel", "model.py", "code/more.py"])
def test_another_file_and_one_more_break_it(stored, tags, name):
    (stored / name).parent.mkdir(exist_ok=True)
    (stored / name).write_text("other")
    assert altered_file(stored, tags) == "a file of the model is not what was registered (tag model_sha256)"


def test_a_renamed_and_a_missing_file_break_it(stored, tags):
    (stored / "model.py").rename(stored / "nodel.py")
    assert "model_sha256" in altered_file(stored, tags)
    (stored / "artifacts" / "weights" / "best_model.pth").unlink()
    assert altered_file(stored, tags) == "best_model.pth is not what was registered (tag weights_sha256)"


def test_of_an_older_version_only_the_weights_are_checked(stored, tags):
    del tags["model_sha256"]
    (stored / "model.py").write_text("other")
    assert altered_file(stored, tags) == ""
    assert altered_file(stored, {}) == ""
