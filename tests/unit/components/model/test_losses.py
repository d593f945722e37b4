import math

import pytest
import torch

from components.core.settings import Settings
from components.model.losses import LOSSES, dice_bce_loss, dice_loss, focal_tversky_loss, slice_dice_bce_loss

LOGIT_3_4 = math.log(3)
"""sigmoid(log 3) = 3/4"""


@pytest.fixture
def hand_worked():
    """p = 3/4, 1/4, 1/2, 1/2 and t = 1, 0, 1, 0: sum(p t) = 5/4, sum p = 2, sum t = 2."""
    logits = torch.tensor([[[[LOGIT_3_4, -LOGIT_3_4]]], [[[0.0, 0.0]]]])
    return logits, torch.tensor([[[[1.0, 0.0]]], [[[1.0, 0.0]]]])


def test_dice_loss_of_a_hand_worked_batch(hand_worked):
    assert dice_loss(*hand_worked).item() == pytest.approx(1 - (2 * 1.25 + 1) / (2 + 2 + 1))


def test_dice_bce_loss_of_a_hand_worked_batch(hand_worked):
    cross_entropy = -(2 * math.log(3 / 4) + 2 * math.log(1 / 2)) / 4
    assert dice_bce_loss(*hand_worked).item() == pytest.approx(0.3 + cross_entropy)


def test_slice_dice_bce_loss_of_a_hand_worked_batch(hand_worked):
    """First slice: 2 * 3/4 + 1 over 1 + 1 + 1; second: 2 * 1/2 + 1 over 1 + 1 + 1."""
    cross_entropy = -(2 * math.log(3 / 4) + 2 * math.log(1 / 2)) / 4
    assert slice_dice_bce_loss(*hand_worked).item() == pytest.approx(1 - (2.5 / 3 + 2 / 3) / 2 + cross_entropy)


def test_slice_dice_is_monais_dice_loss_of_each_slice():
    from monai.losses import DiceLoss  # seconds

    torch.manual_seed(0)
    logits, truth = 3 * torch.randn(4, 1, 16, 16), (torch.rand(4, 1, 16, 16) > 0.9).float()
    monai = DiceLoss(sigmoid=True, batch=False, smooth_nr=1.0, smooth_dr=1.0)(logits, truth)
    cross_entropy = torch.nn.functional.binary_cross_entropy_with_logits(logits, truth)
    torch.testing.assert_close(slice_dice_bce_loss(logits, truth), monai + cross_entropy)


def test_focal_tversky_loss_of_a_hand_worked_batch(hand_worked):
    """TP = 5/4, FN = 1/4 + 1/2 = 3/4, FP = 1/4 + 1/2 = 3/4."""
    tversky_index = (1.25 + 1) / (1.25 + 0.7 * 0.75 + 0.3 * 0.75 + 1)
    assert focal_tversky_loss(*hand_worked).item() == pytest.approx((1 - tversky_index) ** 0.75)


def test_focal_tversky_weighs_a_miss_more_than_a_false_alarm():
    half = torch.zeros(1, 1, 8, 8)
    half[..., :4, :] = 1
    missed, false = (focal_tversky_loss(torch.full_like(half, logit), half) for logit in (-50.0, 50.0))
    assert missed > 2 * false


def test_focal_tversky_loss_is_monais_tversky_loss_over_the_batch_to_the_power_of_3_4():
    from monai.losses import TverskyLoss  # seconds

    torch.manual_seed(0)
    logits, truth = 3 * torch.randn(4, 1, 16, 16), (torch.rand(4, 1, 16, 16) > 0.9).float()
    monai = TverskyLoss(sigmoid=True, batch=True, smooth_nr=1.0, smooth_dr=1.0, alpha=0.3, beta=0.7)  # FP, FN
    torch.testing.assert_close(focal_tversky_loss(logits, truth), monai(logits, truth) ** 0.75)


def test_the_gradient_of_a_perfect_prediction_is_finite():
    truth = torch.ones(2, 1, 8, 8)
    logits = (500 * truth).requires_grad_()
    focal_tversky_loss(logits, truth).backward()
    assert torch.isfinite(logits.grad).all()


def test_dice_loss_is_that_of_monai_over_the_batch():
    from monai.losses import DiceLoss  # seconds

    torch.manual_seed(0)
    logits, truth = 3 * torch.randn(4, 1, 16, 16), (torch.rand(4, 1, 16, 16) > 0.9).float()
    monai = DiceLoss(sigmoid=True, batch=True, smooth_nr=1.0, smooth_dr=1.0)
    torch.testing.assert_close(dice_loss(logits, truth), monai(logits, truth))


def test_dice_sums_over_the_batch_not_per_slice():
    logits = torch.tensor([100.0, 100.0, 100.0, -100.0]).view(2, 1, 1, 2)
    truth = torch.tensor([1.0, 1.0, 0.0, 0.0]).view(2, 1, 1, 2)
    assert dice_loss(logits, truth).item() == pytest.approx(1 - 5 / 6)  # per slice: 0 and 1/2, in the mean 1/4


@pytest.mark.parametrize("name", LOSSES)
def test_a_perfect_prediction_costs_nothing_and_the_opposite_the_most(name):
    truth = torch.zeros(2, 1, 8, 8)
    truth[:, :, :4] = 1
    logits = 200 * (truth - 0.5)
    assert LOSSES[name](logits, truth).item() == pytest.approx(0, abs=1e-6)
    assert LOSSES[name](-logits, truth).item() > 0.98


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_without_any_lesion_loss_and_gradient_stay_finite_and_push_down(name, scale):
    logits = (scale * torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))).requires_grad_()
    loss = LOSSES[name](logits, torch.zeros(2, 1, 8, 8))
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(logits.grad).all()
    assert (logits.grad >= 0).all() and (logits.grad > 0).any()


@pytest.mark.parametrize("name", LOSSES)
def test_half_precision_logits_are_summed_in_full_precision(name):
    logits = torch.full((16, 1, 128, 128), 2.0)
    truth = torch.ones_like(logits)  # sums of 262144 overflow float16
    assert LOSSES[name](logits.half(), truth).item() == pytest.approx(LOSSES[name](logits, truth).item())


def test_every_loss_that_can_be_asked_for_is_there():
    assert set(LOSSES) == set(Settings.model_fields["loss"].annotation.__args__)


SIDE, SLICES = 96, 8
PIXELS = SLICES * SIDE**2
"""Of a batch of the demo."""


def pull(name: str, logits: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """The gradient of a loss at each logit."""
    logits = logits.clone().requires_grad_()
    LOSSES[name](logits, truth).backward()
    return logits.grad


def test_at_the_start_batch_dice_hardly_pulls_at_the_background_and_cross_entropy_a_hundred_times_as_much():
    """p = 1/2 everywhere, T = 300 pixels of lesion: 1/4 (T + 1) / (N/2 + T + 1)^2 and, of cross-entropy, 1/2 / N."""
    truth = torch.zeros(SLICES, 1, SIDE, SIDE)
    truth[0, 0, 10:30, 10:25] = 1
    dice = 0.25 * 301 / (PIXELS / 2 + 301) ** 2
    assert 5e-8 < dice < 6e-8
    for name, expected in (("dice", dice), ("dice+bce", dice + 0.5 / PIXELS)):
        background = pull(name, torch.zeros_like(truth), truth)[truth == 0]
        assert background == pytest.approx(expected, rel=1e-4), name
    assert (dice + 0.5 / PIXELS) / dice > 100
    assert pull("slice_dice+bce", torch.zeros_like(truth), truth)[truth == 0].min() > 0.5 / PIXELS


def pull_at_a_small_lesion(name: str, large: int) -> float:
    """A slice with a lesion of 30 pixels, half found, beside one with a lesion of `large` pixels that is found."""
    truth = torch.zeros(2, 1, SIDE, SIDE)
    truth[0].view(-1)[:large] = 1
    truth[1].view(-1)[:30] = 1
    logits = 40 * (truth - 0.5)
    logits[1].view(-1)[:30] = 0
    return pull(name, logits, truth)[1].view(-1)[0].item()


@pytest.mark.parametrize(("name", "share"), [("dice", 0.022), ("dice+bce", 0.025), ("slice_dice+bce", 1.0)])
def test_what_a_small_lesion_pulls_beside_a_large_one_as_a_share_of_what_it_pulls_alone(name, share):
    """Batch Dice of L found pixels and 30 halves: 1/4 (2 (S + 1) - (2 B + 1)) / (S + 1)^2, B = L + 15, S = 2 L + 45."""
    alone, beside = (pull_at_a_small_lesion(name, large) for large in (0, 750))
    assert beside / alone == pytest.approx(share, abs=2e-3)
    if name == "dice":
        expected = [-0.25 * (2 * (2 * n + 46) - (2 * n + 31)) / (2 * n + 46) ** 2 for n in (0, 750)]
        assert [alone, beside] == pytest.approx(expected, rel=1e-3)


def test_slices_of_no_lesion_pull_their_own_false_pixels_down_whatever_lies_in_other_slices():
    truth = torch.zeros(2, 1, 8, 8)
    logits = torch.full_like(truth, -20.0)
    logits[1, 0, 0, 0] = 0  # one false pixel: Dice 1 / (1/2 + 1), pulled by 1/4 / (3/2)^2 / 2 slices
    empty = pull("slice_dice+bce", logits, truth)[1, 0, 0, 0]
    truth[0], logits[0] = 1, 20
    beside = pull("slice_dice+bce", logits, truth)[1, 0, 0, 0]
    assert empty.item() == pytest.approx(0.25 / 1.5**2 / 2 + 0.5 / 128, rel=1e-4)
    assert beside.item() == pytest.approx(empty.item(), rel=1e-4)
