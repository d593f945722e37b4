"""Where `make relations` finds its model."""

import contextlib

import pytest

from components.core.errors import StepError
from components.model.inference import load_model
from pipelines.models import registry as registered
from tests.relations import champion as relations

pytestmark = pytest.mark.slow


@pytest.fixture
def state(registry, tmp_path, monkeypatch):
    """A checkout's own state, with this registry in it."""
    monkeypatch.setattr(relations, "STATE", tmp_path)
    monkeypatch.setattr(registered, "connect", lambda place, state: contextlib.nullcontext(registry))
    monkeypatch.delenv("RELATIONS_MODEL", raising=False)
    (tmp_path / "mlflow").mkdir()
    return tmp_path


def test_it_is_the_champion(state, champion):
    champion(image_size=48)
    _, model = load_model(relations.champion_weights(state / "weights"))
    assert model.image_size == 48


def test_without_a_champion_it_says_what_to_do(state, versionless):
    with pytest.raises(StepError, match="make pipeline-run"):
        relations.champion_weights(state / "weights")


def test_a_folder_that_is_named_goes_first(state, tmp_path, monkeypatch):
    monkeypatch.setenv("RELATIONS_MODEL", str(tmp_path / "mine"))
    assert relations.champion_weights(state / "weights") == tmp_path / "mine"
