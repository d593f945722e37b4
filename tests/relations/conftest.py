import pytest
import torch

from components.core.errors import StepError
from tests.relations.champion import champion_weights
from tests.relations.measure import Model
from tests.relations.phantoms import train

PHANTOMS = 12


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Networks this small are slowed down by threads, the more so beside other work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def small_model(tmp_path_factory, write_case) -> Model:
    """A network that has learnt phantoms."""
    return Model(train(tmp_path_factory.mktemp("phantoms"), write_case, PHANTOMS))


@pytest.fixture(scope="session")
def champion(tmp_path_factory) -> Model:
    try:
        return Model(champion_weights(tmp_path_factory.mktemp("champion")))
    except StepError as reason:
        pytest.skip(str(reason))
