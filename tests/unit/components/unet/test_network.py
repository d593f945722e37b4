import copy

import numpy as np
import pytest
import torch

from components.unet.network import AttentionGate, AttentionUNet


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
