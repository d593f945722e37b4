import hashlib
import json
import os

import numpy as np
import pytest
import safetensors.torch
import torch

from components.artifacts.trained_model import TENSORS, WEIGHTS
from components.core.errors import StepError
from components.model import inference
from components.model.grid import neighbours
from components.model.inference import BATCH, load_model, predict_volume, stack_logits
from components.model.network import AttentionUNet
from components.scans.head import Head
from components.scans.n4 import without_bias
from components.scans.volumes import BadVolume
from components.train.write_model import write_weights
from tests.support.trained import trained
from tests.support.whole_plane import adc_to_model_grid, to_model_grid, to_native_grid

TRAINED = trained()
OLD = {"image_size": 32, "normalization": "slice", "precision": "float32", "base_channels": 4}
"""`model.json` as older versions wrote it."""


@pytest.fixture
def network():
    torch.manual_seed(0)
    network = AttentionUNet(TRAINED.base_channels)
    network(torch.randn(8, 3, 32, 32))
    return network.eval()


@pytest.fixture
def volume():
    return np.random.default_rng(0).gamma(2, 100, (30, 26, 20)).astype(np.float32)


@pytest.fixture
def on_the_model_grid():
    """A scan that needs no resizing, which rounds a mirrored scan otherwise."""
    return np.random.default_rng(1).gamma(2, 100, (32, 32, 6)).astype(np.float32)


def changed_slices(a, b):
    return np.flatnonzero(np.abs(a - b).max((0, 1)) > 1e-5).tolist()


@pytest.mark.parametrize(("touched", "felt"), [(0, [0, 1]), (7, [6, 7, 8]), (16, [15, 16, 17]), (19, [18, 19])])
def test_a_prediction_depends_on_its_slice_and_the_two_beside_it_and_no_other(network, volume, touched, felt):
    before = predict_volume(network, TRAINED, volume)
    volume[:, :, touched] = volume[::-1, :, touched].copy()
    assert changed_slices(before, predict_volume(network, TRAINED, volume)) == felt


def test_slices_beside_a_gap_do_not_feel_each_other(network, volume):
    numbers = [*range(1, 11), *range(15, 25)]
    before = predict_volume(network, TRAINED, volume, numbers)
    volume[:, :, 9] *= volume[::-1, :, 9]
    assert changed_slices(before, predict_volume(network, TRAINED, volume, numbers)) == [8, 9]


def test_channels_are_previous_current_next(network, volume):
    slices = to_model_grid(volume, 32, "slice").astype(np.float32)
    previous_current_next = np.stack([slices[3], slices[4], slices[5]])
    with torch.no_grad():
        expected = torch.sigmoid(network(torch.from_numpy(previous_current_next)[None]))[0].numpy()
    native = to_native_grid(expected, (30, 26, 1))[:, :, 0]
    np.testing.assert_allclose(predict_volume(network, TRAINED, volume)[:, :, 4], native, atol=1e-5)


def test_a_network_that_learnt_from_corrected_scans_sees_corrected_ones(network, volume):
    volume *= np.linspace(1, 3, len(volume), dtype=np.float32)[:, None, None]
    ours = predict_volume(network, trained(n4_bias_correction=True), volume)
    assert np.array_equal(ours, predict_volume(network, TRAINED, without_bias(volume)))
    assert not np.array_equal(ours, predict_volume(network, TRAINED, volume))


def test_with_tta_a_prediction_is_the_mean_of_those_of_the_flipped_scans_flipped_back(network, on_the_model_grid):
    """Flipped as scans (X, Y, S): the network is not in it."""
    volume, flips = on_the_model_grid, [(), (0,)]
    explicit = [np.flip(predict_volume(network, TRAINED, np.flip(volume, axes)), axes) for axes in flips]
    ours = predict_volume(network, trained(tta=True), volume)
    np.testing.assert_allclose(ours, np.mean(explicit, axis=0), atol=1e-5)
    assert np.abs(ours - explicit[0]).max() > 1e-3


def test_with_tta_a_mirrored_scan_has_the_mirrored_lesion(network, on_the_model_grid):
    volume, with_tta = on_the_model_grid, trained(tta=True)
    mirrored = predict_volume(network, with_tta, volume[::-1])
    np.testing.assert_allclose(mirrored, predict_volume(network, with_tta, volume)[::-1], atol=1e-5)


def test_with_tta_slices_still_stand_between_their_own_neighbours(network, volume):
    numbers = [*range(1, 11), *range(15, 25)]
    before = predict_volume(network, trained(tta=True), volume, numbers)
    volume[:, :, 9] *= volume[::-1, :, 9]
    assert changed_slices(before, predict_volume(network, trained(tta=True), volume, numbers)) == [8, 9]


def test_slices_without_head_are_no_lesion_even_for_a_network_that_sees_lesion_everywhere(network):
    """Of a grid in millimetres around the head, which learns from none of these slices either."""
    y, x = np.mgrid[-1:1:48j, -1:1:48j]
    volume = np.abs(np.random.default_rng(0).normal(0, 3, (48, 48, 12))).astype(np.float32)
    volume[x**2 + y**2 < 0.5, 3:9] += 100
    torch.nn.init.constant_(network.head.bias, 100)
    facts = trained(normalization="head", pixel_mm=6.0, tta=True)
    probability = predict_volume(network, facts, volume, voxel_mm=(4.0, 4.0, 5.0))
    lesion = [s for s in range(12) if probability[:, :, s].any()]
    assert lesion == [3, 4, 5, 6, 7, 8]
    assert probability[24, 24, lesion].min() > 0.99


@pytest.mark.parametrize("batch", [1, 3, 20])
def test_the_batch_size_does_not_change_the_prediction(network, volume, monkeypatch, batch):
    before = predict_volume(network, TRAINED, volume)
    monkeypatch.setattr(inference, "BATCH", batch)
    np.testing.assert_allclose(predict_volume(network, TRAINED, volume), before, atol=1e-5)


def test_a_prediction_lies_on_the_scans_own_grid_between_zero_and_one(network, volume):
    probability = predict_volume(network, TRAINED, volume)
    assert probability.shape == volume.shape and probability.dtype == np.float32
    assert 0 <= probability.min() < probability.max() <= 1


def test_logits_cover_more_slices_than_a_batch_holds(network):
    slices = np.random.default_rng(1).normal(size=(2 * BATCH + 1, 32, 32)).astype(np.float16)
    logits = stack_logits(network, slices, neighbours(None, len(slices)), "float32")
    alone = stack_logits(network, slices[-2:], neighbours(None, 2), "float32")
    np.testing.assert_allclose(logits[-1], alone[-1], atol=1e-4)


def test_slices_may_be_read_from_a_memory_mapped_file(network, tmp_path):
    slices = np.random.default_rng(1).normal(size=(5, 32, 32)).astype(np.float16)
    np.save(tmp_path / "slices.npy", slices)
    mapped, order = np.load(tmp_path / "slices.npy", mmap_mode="r"), neighbours(None, 5)
    assert np.array_equal(
        stack_logits(network, mapped, order, "float32"), stack_logits(network, slices, order, "float32")
    )


def test_bfloat16_predicts_what_float32_predicts_up_to_its_precision(network, volume):
    exact = predict_volume(network, TRAINED, volume)
    rough = predict_volume(network, trained(precision="bfloat16"), volume)
    assert not np.array_equal(rough, exact)
    np.testing.assert_allclose(rough, exact, atol=0.05)


def test_a_saved_model_predicts_as_before(network, volume, tmp_path):
    torch.save(network.state_dict(), tmp_path / "best_model.pth")
    TRAINED.write(tmp_path)
    loaded, facts = load_model(tmp_path)
    np.testing.assert_allclose(
        predict_volume(loaded, facts, volume), predict_volume(network, TRAINED, volume), atol=1e-5
    )


def test_a_model_with_instance_norm_loads_by_its_facts_and_one_without_the_entry_has_batch_norm(volume, tmp_path):
    facts, network = trained(norm="instance"), AttentionUNet(4, norm="instance").eval()
    torch.save(network.state_dict(), tmp_path / "best_model.pth")
    facts.write(tmp_path)
    loaded, _ = load_model(tmp_path)
    np.testing.assert_allclose(predict_volume(loaded, facts, volume), predict_volume(network, facts, volume), atol=1e-5)

    torch.save(AttentionUNet(4).state_dict(), tmp_path / "best_model.pth")
    (tmp_path / "model.json").write_text(json.dumps(OLD))
    assert any(type(module) is torch.nn.BatchNorm2d for module in load_model(tmp_path)[0].modules())


def test_a_limited_container_predicts_with_the_threads_that_it_may_use(network, tmp_path, monkeypatch):
    torch.save(network.state_dict(), tmp_path / "best_model.pth")
    TRAINED.write(tmp_path)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        monkeypatch.setattr(inference, "cpus", lambda: 1)
        load_model(tmp_path)
        assert torch.get_num_threads() == 1
        monkeypatch.setattr(inference, "cpus", lambda: 64)
        load_model(tmp_path)
        assert torch.get_num_threads() == 1, "and never with more than before"
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("weights", ["of another width", "that are no weights"])
def test_weights_that_do_not_fit_are_refused_with_what_to_do(tmp_path, weights):
    content = {"of another width": AttentionUNet(8).state_dict(), "that are no weights": [1]}
    torch.save(content[weights], tmp_path / "best_model.pth")
    TRAINED.write(tmp_path)
    with pytest.raises(StepError, match=r"(?s)best_model\.pth cannot be loaded.*Train again"):
        load_model(tmp_path)


class Bomb:
    """Leaves a trace where it is unpickled."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


def test_a_weights_file_never_runs_code(tmp_path):
    torch.save({"head.bias": Bomb(tmp_path / "it ran")}, tmp_path / "best_model.pth")
    TRAINED.write(tmp_path)
    with pytest.raises(StepError, match=r"best_model\.pth cannot be loaded"):
        load_model(tmp_path)
    assert not (tmp_path / "it ran").exists()


def test_weights_other_than_those_that_training_wrote_are_refused_by_name(network, tmp_path):
    path = tmp_path / "best_model.pth"
    torch.save(network.state_dict(), path)
    written = hashlib.sha256(path.read_bytes()).hexdigest()
    trained(weights_sha256=written).write(tmp_path)
    load_model(tmp_path)
    torch.save({name: weight + 1 for name, weight in network.state_dict().items()}, path)
    with pytest.raises(StepError, match=r"best_model\.pth is not the file that training wrote.*train again"):
        load_model(tmp_path)


def test_weights_that_lost_their_end_are_refused_by_name(network, tmp_path):
    path = tmp_path / "best_model.pth"
    torch.save(network.state_dict(), path)
    (tmp_path / "model.json").write_text(
        trained(weights_sha256=hashlib.sha256(path.read_bytes()).hexdigest()).model_dump_json()
    )
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(StepError, match=r"best_model\.pth is not the file that training wrote"):
        load_model(tmp_path)


class TestAModelWithTensors:
    """`best_model.safetensors` is loaded, and both files must be those that training wrote."""

    @pytest.fixture
    def folder(self, network, tmp_path):
        write_weights(network.state_dict(), tmp_path)
        self.describe(tmp_path)
        return tmp_path

    @staticmethod
    def describe(folder):
        digests = {n: hashlib.sha256((folder / n).read_bytes()).hexdigest() for n in (WEIGHTS, TENSORS)}
        trained(weights_sha256=digests[WEIGHTS], tensors_sha256=digests[TENSORS]).write(folder)

    def test_is_the_model_that_pytorch_saved(self, folder, network, volume):
        loaded, facts = load_model(folder)
        weights = network.state_dict()
        assert all(torch.equal(tensor.cpu(), weights[name]) for name, tensor in loaded.state_dict().items())
        assert facts.tensors_sha256 is not None

    def test_needs_no_pickle(self, folder, tmp_path):
        torch.save({"head.bias": Bomb(tmp_path / "it ran")}, folder / WEIGHTS)
        self.describe(folder)
        load_model(folder)
        assert not (tmp_path / "it ran").exists()

    @pytest.mark.parametrize("name", [WEIGHTS, TENSORS])
    def test_is_refused_if_a_file_differs_or_is_missing(self, folder, name):
        (folder / name).write_bytes((folder / name).read_bytes()[:-1])
        with pytest.raises(StepError, match=f"{name} is not the file that training wrote"):
            load_model(folder)
        (folder / name).unlink()
        with pytest.raises(StepError, match=f"{name} cannot be read"):
            load_model(folder)

    @pytest.mark.parametrize("content", [b"", b"\xff" * 64, safetensors.torch.save({"a": torch.zeros(1)})])
    def test_is_refused_if_its_tensors_are_none_of_this_network(self, folder, content):
        (folder / TENSORS).write_bytes(content)
        self.describe(folder)
        with pytest.raises(StepError, match=r"(?s)safetensors cannot be loaded.*Train again"):
            load_model(folder)


WITH_ADC = trained(inputs="dwi+adc")


@pytest.fixture
def six_channels(tmp_path):
    torch.manual_seed(0)
    torch.save(AttentionUNet(4, 6).state_dict(), tmp_path / "best_model.pth")
    WITH_ADC.write(tmp_path)
    return load_model(tmp_path)[0]


def test_channels_are_those_of_the_dwi_and_then_those_of_the_adc(six_channels, volume):
    adc = np.random.default_rng(1).uniform(0, 3, volume.shape).astype(np.float32)
    dwi_slices = to_model_grid(volume, 32, "slice").astype(np.float32)[3:6]
    adc_slices = adc_to_model_grid(adc, 32).astype(np.float32)[3:6]
    with torch.no_grad():
        stack = torch.from_numpy(np.concatenate([dwi_slices, adc_slices]))[None]
        expected = torch.sigmoid(six_channels(stack))[0].numpy()
    native = to_native_grid(expected, (30, 26, 1))[:, :, 0]
    ours = predict_volume(six_channels, WITH_ADC, volume, adc=adc)
    assert ours.shape == volume.shape
    np.testing.assert_allclose(ours[:, :, 4], native, atol=1e-5)


def test_a_model_of_the_whole_plane_looks_at_no_head_that_others_found(six_channels, volume):
    """It learnt from an ADC map that no head was cut out of."""
    adc = np.random.default_rng(1).uniform(0, 3, volume.shape).astype(np.float32)
    mask = np.zeros(volume.shape, bool)
    mask[10:20, 10:20] = True
    unaware = predict_volume(six_channels, WITH_ADC, volume, adc=adc)
    assert np.array_equal(predict_volume(six_channels, WITH_ADC, volume, adc=adc, head=Head(mask)), unaware)


def test_a_model_that_sees_adc_says_so_where_there_is_none(six_channels, volume):
    with pytest.raises(BadVolume, match="needs an ADC map too"):
        predict_volume(six_channels, WITH_ADC, volume)
