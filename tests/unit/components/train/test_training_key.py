"""The digest of a training: another b-value is another training if the network sees the ADC map."""

from pathlib import Path

import pytest

from components.artifacts.cases import Cases
from components.artifacts.slices import Slices
from components.artifacts.split_file import Split
from components.core.settings import checked
from components.train.training_inputs import TrainingInputs, TrainingPaths
from components.train.training_key import TrainingKey
from tests.support.folds import split_into_folds

PATHS = TrainingPaths(*[Path("unused")] * 6)


def inputs(channels: str = "dwi", b_value: float = 0.0, split: Split | None = None) -> TrainingInputs:
    """Return the inputs as far as the key depends on them."""
    slices = Slices(
        image_size=32, normalization="slice", n4_bias_correction=False, inputs=channels, pixel_mm=0.0, cases=[]
    )
    cases = Cases.model_construct(data_version="1", b_value=b_value)
    return TrainingInputs(PATHS, cases, slices, split or Split.model_construct(digest="0"))


@pytest.mark.parametrize(("channels", "another"), [("dwi", False), ("dwi+adc", True)])
def test_the_b_value_determines_the_weights_if_adc_maps_are_computed_with_it(channels, another):
    without, with_b_value = (TrainingKey.of(inputs(channels, b), checked({})) for b in (0, 800))
    assert (without.weights_digest != with_b_value.weights_digest) is another


RECIPE = {
    "schedule": "poly", "prior_bias": False, "norm": "instance", "ema_decay": 0.99, "sampling": "patients",
    "augmentation": "strong", "loss": "dice",
}  # fmt: skip


@pytest.mark.parametrize("name", RECIPE)
def test_each_part_of_the_recipe_determines_the_weights(name):
    defaults = checked({}).model_dump()
    plain, changed = (TrainingKey.of(inputs(), checked(defaults | values)) for values in ({}, {name: RECIPE[name]}))
    assert plain.weights_digest != changed.weights_digest
    assert changed.weights["settings"][name] == RECIPE[name]


def test_the_weights_that_a_training_starts_from_determine_its_own():
    address = "models:/m/1#"
    keys = [
        TrainingKey.of(inputs(), checked({"start": start})) for start in ("", address + "a" * 64, address + "b" * 64)
    ]
    assert len({key.weights_digest for key in keys}) == len({key.model_digest for key in keys}) == 3


@pytest.mark.parametrize("name", ["tta", "cca"])
def test_a_setting_of_the_masks_determines_the_model_but_not_the_weights(name):
    off, on = (TrainingKey.of(inputs(), checked({name: value})) for value in (False, True))
    assert off.weights_digest == on.weights_digest
    assert off.model_digest != on.model_digest


def test_each_fold_is_another_training_and_all_belong_to_one_ensemble():
    whole = split_into_folds()
    keys = [TrainingKey.of(inputs(split=whole.of_fold(fold)), checked({})) for fold in (1, 2, 3)]
    assert len({key.weights_digest for key in keys}) == len({key.model_digest for key in keys}) == 3
    (ensemble,) = {key.ensemble_digest for key in keys}
    assert ensemble not in {key.model_digest for key in keys}
    other = TrainingKey.of(inputs(split=whole.of_fold(1)), checked({"random_seed": 7}))
    assert other.ensemble_digest != ensemble
    assert TrainingKey.of(inputs(), checked({})).ensemble_digest == ""
