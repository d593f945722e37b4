"""What learns, and which weights are kept: with each part of a recipe, and with all of them."""

import pytest
import torch

from components.core.settings import checked
from components.model.deep_supervision import DeeplySupervised
from components.model.network import AttentionUNet
from components.train.learner import Learner

CPU = torch.device("cpu")
BATCHES, PRIOR = 10, 0.01


def learner(**values) -> Learner:
    torch.manual_seed(0)
    settings = checked({"base_channels": 4, "epochs": 3, "learning_rate": 1e-2, **values})
    return Learner(settings, 3, CPU, "float32", "contiguous", BATCHES, PRIOR)


def batch(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(4, 32, 32, 3, generator=generator)
    return images, (images[..., 1] > 1.5).byte()


def weights(network) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_step_gives_the_loss_and_the_pixels_found_rightly_found_and_of_lesion():
    ours = learner(loss="dice+bce")
    images, lesions = batch(0)
    with torch.no_grad():
        found = ours.network(images.permute(0, 3, 1, 2))[:, 0] > 0
    loss, counts = ours.step(images, lesions, 1, 0)
    assert torch.isfinite(loss) and not loss.requires_grad
    assert counts.tolist() == [int((found & (lesions > 0)).sum()), int(found.sum()), int(lesions.sum())]


def test_without_a_moving_average_the_network_itself_is_kept():
    ours = learner(ema_decay=0)
    assert ours.kept is ours.network


@pytest.mark.parametrize("deep", [False, True])
def test_the_moving_average_is_kept_in_place_of_the_weights_and_loads_as_any_other(deep):
    ours = learner(ema_decay=0.9, deep_supervision=deep)
    before = weights(ours.kept)
    for number in range(3):
        ours.step(*batch(number), 1, number)
    now, kept = weights(ours.network), weights(ours.kept)
    assert not same(kept, now) and not same(kept, before)
    AttentionUNet(4).load_state_dict(kept)  # strict
    after_one = learner(ema_decay=0.9, deep_supervision=deep)
    after_one.step(*batch(0), 1, 0)
    expected = before["head.bias"] * 2 / 11 + weights(after_one.network)["head.bias"] * 9 / 11
    torch.testing.assert_close(weights(after_one.kept)["head.bias"], expected)


@pytest.mark.parametrize("deep", [False, True])
def test_the_prior_of_lesion_is_the_bias_of_every_last_layer_where_it_was_asked_for(deep):
    ours, plain = (learner(prior_bias=asked, deep_supervision=deep) for asked in (True, False))
    last = [ours.network.head, *(ours.whole.heads if isinstance(ours.whole, DeeplySupervised) else [])]
    assert len(last) == (3 if deep else 1)
    assert [torch.sigmoid(head.bias).item() for head in last] == pytest.approx([PRIOR] * len(last))
    assert torch.sigmoid(plain.network.head.bias).item() > 0.3
    without = {name for name in weights(ours.network) if name != "head.bias"}
    assert all(torch.equal(weights(ours.network)[name], weights(plain.network)[name]) for name in without)


@pytest.mark.parametrize("prior", [0.0, 1.0])
def test_a_prior_of_nothing_or_all_is_no_infinite_bias(prior):
    settings = checked({"base_channels": 4, "prior_bias": True})
    ours = Learner(settings, 3, CPU, "float32", "contiguous", BATCHES, prior)
    assert abs(ours.network.head.bias.item()) == pytest.approx(13.8, abs=0.1)  # log of a million


RECIPE = {"loss": "slice_dice+bce", "schedule": "cosine", "ema_decay": 0.99, "prior_bias": True, "norm": "instance"}


@pytest.mark.parametrize("values", [{}, RECIPE, RECIPE | {"deep_supervision": True, "norm": "batch"}], ids=str)
def test_a_learner_that_comes_from_a_checkpoint_goes_on_bit_identical(values, tmp_path):
    whole = learner(**values)
    for number in range(3):
        whole.step(*batch(number), 1, number)
    torch.save(whole.state_dict(), tmp_path / "state.pt")
    whole.step(*batch(3), 1, 3)

    torch.manual_seed(99)
    again = learner(**values)
    again.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    again.step(*batch(3), 1, 3)
    assert same(weights(again.whole), weights(whole.whole)) and same(weights(again.kept), weights(whole.kept))
    assert again.schedule.rate == whole.schedule.rate


def test_the_rate_of_a_step_is_that_of_its_batch():
    ours = learner(schedule="cosine")  # of 30 batches one warms up
    rates = []
    for number in (0, 1):
        ours.step(*batch(number), 2, number)
        rates.append(ours.schedule.rate)
    assert 0 < rates[1] < rates[0] < 1e-2


def test_a_training_from_a_parent_begins_with_its_weights_and_a_share_of_the_rate():
    theirs = AttentionUNet(4)
    torch.nn.init.constant_(theirs.head.bias, -2.5)
    settings = checked(
        {"base_channels": 4, "prior_bias": True, "learning_rate": 1e-2, "start": "models:/m/1", "start_rate": 0.3}
    )
    ours = Learner(settings, 3, CPU, "float32", "contiguous", BATCHES, PRIOR, weights(theirs))
    assert same(weights(ours.network), weights(theirs)) and same(weights(ours.kept), weights(theirs))
    assert ours.optimizer.param_groups[0]["lr"] == pytest.approx(3e-3)


def test_from_random_weights_the_share_of_the_rate_is_ignored():
    assert learner(start_rate=0.3).optimizer.param_groups[0]["lr"] == pytest.approx(1e-2)
