import hashlib

import safetensors.torch
import torch

from components.model.network import AttentionUNet
from components.train.write_model import write_weights


def test_both_files_hold_the_same_weights_however_they_lie_in_memory(tmp_path):
    network = AttentionUNet(4).to(memory_format=torch.channels_last)
    write_weights(network.state_dict(), tmp_path)
    saved = torch.load(tmp_path / "best_model.pth", weights_only=True)
    tensors = safetensors.torch.load_file(tmp_path / "best_model.safetensors")
    assert saved.keys() == tensors.keys()
    assert all(tensors[name].dtype == saved[name].dtype and torch.equal(tensors[name], saved[name]) for name in saved)


def test_the_same_weights_give_the_same_file(tmp_path):
    torch.manual_seed(0)
    weights, digests = AttentionUNet(4).state_dict(), set()
    for number, ordered in enumerate((weights, dict(reversed(weights.items())))):
        (tmp_path / str(number)).mkdir()
        write_weights(ordered, tmp_path / str(number))
        digests.add(hashlib.sha256((tmp_path / str(number) / "best_model.safetensors").read_bytes()).hexdigest())
    assert len(digests) == 1
