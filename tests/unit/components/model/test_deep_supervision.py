"""Deep supervision teaches coarser levels, and leaves the network that is kept as it would be without."""

import pytest
import torch
import torch.nn.functional as F

from components.model.deep_supervision import DeeplySupervised, loss_over_levels
from components.model.losses import LOSSES, dice_loss
from components.model.network import AttentionUNet


@pytest.fixture
def network() -> AttentionUNet:
    torch.manual_seed(0)
    return AttentionUNet(4)


@pytest.fixture
def truth():
    """Two slices; the first has a lesion of a single pixel."""
    lesion = torch.zeros(2, 1, 32, 32)
    lesion[0, 0, 5, 9] = 1
    lesion[1, 0, 8:20, 4:16] = 1
    return lesion


def own(share):
    return share


def test_there_are_answers_at_the_full_a_half_and_a_quarter_of_the_side(network):
    answers = DeeplySupervised(network)(torch.randn(2, 3, 32, 48))
    assert [tuple(a.shape) for a in answers] == [(2, 1, 32, 48), (2, 1, 16, 24), (2, 1, 8, 12)]


@pytest.mark.parametrize("name", LOSSES)
def test_every_head_and_every_level_of_the_decoder_learns(network, truth, name):
    learner = DeeplySupervised(network)
    loss_over_levels(LOSSES[name], learner(torch.randn(2, 3, 32, 32)), truth, own).backward()
    assert all(head.weight.grad.abs().max() > 0 and head.bias.grad.abs().max() > 0 for head in learner.heads)
    assert all(p.grad is not None for p in learner.parameters())


def test_a_coarse_answer_teaches_what_lies_below_it_and_not_what_lies_above(network, truth):
    learner = DeeplySupervised(network)
    quarter = learner(torch.randn(2, 3, 32, 32))[2]
    dice_loss(quarter, F.max_pool2d(truth, 4)).backward()
    learnt = [block[0].weight.grad is not None for block in network.decoder]
    assert learnt == [True, True, False, False]
    assert network.head.weight.grad is None


def test_the_network_answers_what_one_without_heads_answers_with_the_same_weights(network, truth):
    learner, x = DeeplySupervised(network), torch.randn(2, 3, 32, 32)
    loss_over_levels(dice_loss, learner(x), truth, own).backward()
    torch.optim.Adam(learner.parameters(), 1e-2).step()
    plain = AttentionUNet(4)
    plain.load_state_dict(network.state_dict())  # strict: not a weight more
    assert torch.equal(network.eval()(x), plain.eval()(x))
    assert torch.equal(learner.eval()(x)[0], plain(x))


def test_the_heads_leave_the_networks_first_weights_as_they_would_be_without():
    torch.manual_seed(7)
    alone = AttentionUNet(4).state_dict()
    torch.manual_seed(7)
    with_heads = DeeplySupervised(AttentionUNet(4)).network.state_dict()
    assert all(torch.equal(alone[name], with_heads[name]) for name in alone)


def test_the_decoder_gives_its_levels_one_by_one_so_that_the_plain_forward_keeps_none():
    network = AttentionUNet(4)
    levels = network.decoded(torch.randn(1, 3, 32, 32))
    assert not isinstance(levels, list)
    assert [tuple(level.shape[1:]) for level in levels] == [(32, 4, 4), (16, 8, 8), (8, 16, 16), (4, 32, 32)]


def test_losses_are_weighted_by_a_half_for_each_level_and_add_up_to_one(truth):
    logits = [torch.randn(2, 1, side, side) for side in (32, 16, 8)]
    each = [dice_loss(z, F.max_pool2d(truth, 32 // z.shape[-1])) for z in logits]
    expected = (each[0] + each[1] / 2 + each[2] / 4) / 1.75
    torch.testing.assert_close(loss_over_levels(dice_loss, logits, truth, own), expected)


def test_with_truths_of_equal_size_it_is_monais_weighting():
    """MONAI sums the weighted losses and shrinks truths by nearest neighbour: here no truth has to shrink."""
    from monai.losses import DeepSupervisionLoss, DiceLoss  # seconds

    logits, truth = [torch.randn(2, 1, side, side) for side in (32, 16, 8)], torch.ones(2, 1, 32, 32)
    monai = DeepSupervisionLoss(
        DiceLoss(sigmoid=True, batch=True, smooth_nr=1.0, smooth_dr=1.0), weights=[4 / 7, 2 / 7, 1 / 7]
    )
    torch.testing.assert_close(loss_over_levels(dice_loss, logits, truth, own), monai(logits, truth))


def test_a_lesion_of_one_pixel_is_there_at_every_level(truth):
    seen = []
    loss_over_levels(lambda z, y, total: seen.append(y) or z.sum(), [torch.zeros(1)] * 3, truth, own)
    assert [tuple(y.shape[2:]) for y in seen] == [(32, 32), (16, 16), (8, 8)]
    assert all(y[0].sum() == 1 and set(y.unique().tolist()) == {0.0, 1.0} for y in seen)
    assert seen[2][0, 0, 1, 2] == 1


def test_one_level_is_the_loss_itself(truth):
    logits = torch.randn(2, 1, 32, 32)
    assert torch.equal(loss_over_levels(dice_loss, [logits], truth, own), dice_loss(logits, truth))


def test_a_share_of_no_slices_has_its_levels_too(network):
    """With several GPUs the last batch of an epoch may leave one of them nothing."""
    learner = DeeplySupervised(network)
    learner.eval()
    answers = learner(torch.empty(0, 3, 32, 32))
    assert torch.isfinite(loss_over_levels(dice_loss, answers, torch.empty(0, 1, 32, 32), own))
