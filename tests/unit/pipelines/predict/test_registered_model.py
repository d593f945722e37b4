"""A registered model from before modules had their present names runs with this checkout's code."""

import pytest
from mlflow.models import Model

from components.core.code_closure import MODEL
from pipelines.image_tags import ROOT
from pipelines.predict.registered_model import _replace_entry_of_older_code


@pytest.fixture
def model(tmp_path):
    """model(text): a folder with an MLmodel whose entry file has this text."""

    def write(text: str):
        described = Model()
        described.add_flavor("python_function", loader_module="mlflow.pyfunc.model", model_code_path="/old/model.py")
        described.save(str(tmp_path / "MLmodel"))
        (tmp_path / "model.py").write_text(text)
        return tmp_path

    return write


def test_an_entry_that_imports_modules_of_older_code_is_replaced(model):
    folder = model("from components.unet.inference import load_model\n")
    _replace_entry_of_older_code(folder)
    assert (folder / "model.py").read_bytes() == (ROOT / MODEL).read_bytes()


@pytest.mark.parametrize(
    "text", ["import pandas\n", "from components.model.inference import load_model\n", "from components import model\n"]
)
def test_another_entry_stays_as_it_was_registered(model, text):
    folder = model(text)
    _replace_entry_of_older_code(folder)
    assert (folder / "model.py").read_text() == text


def test_our_own_entry_needs_no_replacement(model):
    text = (ROOT / MODEL).read_text() + "# registered\n"
    folder = model(text)
    _replace_entry_of_older_code(folder)
    assert (folder / "model.py").read_text() == text
