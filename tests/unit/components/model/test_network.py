import copy

import numpy as np
import pytest
import torch

from components.core.settings import Settings
from components.model.network import NORMS, AttentionGate, AttentionUNet


@pytest.fixture
def small() -> AttentionUNet:
    torch.manual_seed(0)
    return AttentionUNet(base_channels=4)


@pytest.mark.parametrize(("base_channels", "parameters"), [(64, 31_392_645), (32, 7_853_509)])
def test_parameter_count(base_channels, parameters):
    with torch.device("meta"):
        network = AttentionUNet(base_channels)
    assert sum(p.numel() for p in network.parameters()) == parameters


def test_the_default_is_the_full_width_on_three_slices():
    with torch.device("meta"):
        network = AttentionUNet()
    assert network.encoder[0][0].weight.shape == (64, 3, 3, 3)


@pytest.mark.parametrize("size", [(16, 16), (32, 48), (112, 16), (384, 32)])
def test_any_multiple_of_sixteen_gives_one_logit_per_pixel(small, size):
    assert small(torch.randn(2, 3, *size)).shape == (2, 1, *size)


def test_a_size_that_is_no_multiple_of_sixteen_is_an_error_not_a_silent_crop(small):
    with pytest.raises(RuntimeError):
        small(torch.randn(2, 3, 40, 40))


def test_gradients_reach_every_parameter(small):
    small(torch.randn(2, 3, 64, 64)).square().sum().backward()
    # A bias before BatchNorm shifts nothing; its gradient is there, and zero but for rounding.
    dead = [n for n, p in small.named_parameters() if p.grad is None or (p.ndim > 1 and p.grad.abs().max() < 1e-8)]
    assert dead == []


def test_every_input_slice_and_the_whole_plane_reach_the_centre(small):
    x = torch.randn(1, 3, 64, 64, requires_grad=True)
    small.eval()(x)[0, 0, 32, 32].backward()
    assert (x.grad[0].abs().amax((1, 2)) > 0).all()
    assert x.grad[0, :, 0].abs().max() > 0 and x.grad[0, :, -1].abs().max() > 0


def test_a_gate_computes_the_published_attention():
    torch.manual_seed(1)
    gate = AttentionGate(6).double()
    g, x = torch.randn(2, 6, 5, 7).double(), torch.randn(2, 6, 5, 7).double()
    weight = {name: p.detach().numpy() for name, p in gate.named_parameters()}

    # Oktay et al. 2018, equation 1, voxel by voxel:
    # q = psi^T relu(W_x^T x + W_g^T g + b_g) + b_psi, alpha = sigmoid(q), out = alpha * x
    expected = np.empty_like(x.numpy())
    for b, i, j in np.ndindex(2, 5, 7):
        xi, gi = x[b, :, i, j].numpy(), g[b, :, i, j].numpy()
        hidden = weight["w_x.weight"][:, :, 0, 0] @ xi + weight["w_g.weight"][:, :, 0, 0] @ gi + weight["w_g.bias"]
        q = weight["psi.weight"][0, :, 0, 0] @ np.maximum(hidden, 0) + weight["psi.bias"][0]
        expected[b, :, i, j] = xi / (1 + np.exp(-q))

    np.testing.assert_allclose(gate(g, x).detach().numpy(), expected, rtol=1e-12)


def test_a_closed_gate_shuts_its_skip_connection_and_nothing_else(small):
    x = torch.randn(1, 3, 32, 32)
    opened, cut = small.eval()(x), copy.deepcopy(small)
    torch.nn.init.constant_(small.gates[-1].psi.bias, -100)
    cut.decoder[-1][0].weight.data[:, :4] = 0  # the four channels of the finest skip
    closed = small(x)
    assert not torch.allclose(closed, opened, atol=1e-4)
    torch.testing.assert_close(closed, cut(x))


def test_weights_come_back_from_a_file_that_may_hold_nothing_but_weights(small, tmp_path):
    small(torch.randn(4, 3, 32, 32))  # moves the running statistics of BatchNorm
    torch.save(small.state_dict(), tmp_path / "best_model.pth")
    again = AttentionUNet(base_channels=4)
    again.load_state_dict(torch.load(tmp_path / "best_model.pth", weights_only=True))
    x = torch.randn(1, 3, 32, 32)
    assert torch.equal(small.eval()(x), again.eval()(x))


def test_with_instance_norm_a_slice_never_feels_its_batch_and_with_batch_norm_it_does_while_learning():
    torch.manual_seed(0)
    instance, batch = AttentionUNet(4, norm="instance"), AttentionUNet(4)
    x = torch.randn(4, 3, 32, 32)
    for network in (instance.train(), instance.eval()):
        torch.testing.assert_close(network(x)[2:3], network(x[2:3]), rtol=1e-4, atol=1e-5)
    assert (batch.train()(x)[2:3] - batch(x[2:3])).abs().max() > 1e-2


def test_instance_norm_has_the_same_parameters_and_no_running_statistics(small):
    instance = AttentionUNet(4, norm="instance")
    assert [n for n, _ in instance.named_parameters()] == [n for n, _ in small.named_parameters()]
    assert not list(instance.buffers()) and list(small.buffers())


def test_instance_norm_of_each_feature_by_hand():
    norm = NORMS["instance"](2)
    x = torch.tensor([[[[1.0, 3.0]], [[10.0, 30.0]]], [[[5.0, 5.0]], [[0.0, 8.0]]]])
    expected = [[[[-1, 1]], [[-1, 1]]], [[[0, 0]], [[-1, 1]]]]
    torch.testing.assert_close(norm(x), torch.tensor(expected).float(), atol=1e-4, rtol=0)


@pytest.mark.parametrize("norm", NORMS)
def test_a_share_of_no_slices_passes_and_gives_every_parameter_a_gradient(norm):
    network = AttentionUNet(4, norm=norm)
    if norm == "batch":
        network.eval()  # while learning `ranks.synchronized` has its own
    out = network(torch.empty(0, 3, 32, 32))
    assert out.shape == (0, 1, 32, 32)
    out.sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in network.parameters())


def test_every_norm_that_can_be_asked_for_is_there():
    assert set(NORMS) == set(Settings.model_fields["norm"].annotation.__args__)


def test_in_evaluation_a_slice_does_not_feel_its_batch(small):
    x = torch.randn(4, 3, 32, 32)
    small.eval()
    torch.testing.assert_close(small(x)[2:3], small(x[2:3]), rtol=1e-5, atol=1e-6)


def test_the_memory_layout_does_not_change_the_result(small):
    x = torch.randn(2, 3, 32, 32)
    plain = small.eval()(x)
    torch.testing.assert_close(
        small.to(memory_format=torch.channels_last)(x.contiguous(memory_format=torch.channels_last)),
        plain, rtol=1e-5, atol=1e-6,
    )  # fmt: skip
