import json

import pytest
import torch

from components.model.network import AttentionUNet


@pytest.fixture
def model(tmp_path):
    """Writes the `model` folder of a small untrained network; `bias` moves all its logits."""

    def write(threshold: float = 0.5, bias: float = 0.0, seed: int = 0, **facts):
        torch.manual_seed(seed)
        network = AttentionUNet(4, 6 if facts.get("inputs") == "dwi+adc" else 3)
        torch.nn.init.constant_(network.head.bias, bias)
        folder = tmp_path / "model"
        folder.mkdir(exist_ok=True)
        torch.save(network.state_dict(), folder / "best_model.pth")
        known = {
            "base_channels": 4, "image_size": 32, "normalization": "slice", "precision": "float32",
            "threshold": threshold, "inputs": "dwi", "training_digest": "0" * 64,
        }  # fmt: skip
        (folder / "model.json").write_text(json.dumps(known | facts))
        return folder

    return write
