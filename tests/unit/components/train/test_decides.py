"""What a training's digest is made of: another b-value is another training where the network sees the ADC map."""

import json

import pytest

from components.core.settings import checked
from components.train.train import GRID, _decides


@pytest.mark.parametrize(("inputs", "another"), [("dwi", False), ("dwi+adc", True)])
def test_the_b_value_decides_the_weights_where_adc_maps_are_computed_with_it(tmp_path, inputs, another):
    index = dict.fromkeys(GRID, 0) | {"inputs": inputs}
    decided = []
    for b_value in (0, 800):
        (tmp_path / "cases.json").write_text(json.dumps({"data_version": "1", "b_value": b_value}))
        decided.append(_decides(tmp_path, index, {"digest": "0"}, checked({}))[0])
    assert (decided[0] != decided[1]) is another


PARTS = {
    "schedule": "poly", "prior_bias": False, "norm": "instance", "ema_decay": 0.99, "sampling": "patients",
    "augmentation": "strong", "loss": "dice",
}  # fmt: skip


@pytest.mark.parametrize("name", PARTS)
def test_each_part_of_the_recipe_decides_the_weights(tmp_path, name):
    index = dict.fromkeys(GRID, 0) | {"inputs": "dwi"}
    (tmp_path / "cases.json").write_text(json.dumps({"data_version": "1"}))
    plain, with_it = (
        _decides(tmp_path, index, {"digest": "0"}, checked(values))[0]
        for values in (checked({}).model_dump(), checked({}).model_dump() | {name: PARTS[name]})
    )
    assert plain != with_it and with_it["settings"][name] == PARTS[name]
