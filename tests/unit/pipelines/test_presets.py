"""Presets are sets of settings under the user's own names; SET lays more over them; mistakes are answered."""

import pytest

from components.core.errors import StepError
from components.core.settings import Settings
from pipelines import presets

WHAT_BEST_ADDS = {
    "image_size": 192, "pixel_mm": 1.0, "normalization": "head", "selection": "patients", "tta": True,
    "loss": "dice+bce", "prior_bias": True, "schedule": "cosine", "ema_decay": 0.999, "early_stop_patience": 100,
}  # fmt: skip


def test_the_defaults_are_best():
    assert presets.load("best") == Settings()


def test_baseline_writes_down_the_numbers_that_the_user_gave():
    given = {
        "image_size": 384, "train_ratio": 0.80, "val_ratio": 0.15, "test_ratio": 0.05, "base_channels": 64,
        "epochs": 100, "batch_size": 16, "learning_rate": 1e-4, "weight_decay": 1e-5, "early_stop_patience": 20,
        "aug_hflip_prob": 0.3, "aug_rotate_prob": 0.25, "aug_brightness_prob": 0.2, "random_seed": 42, "loss": "dice",
        "pixel_mm": 0.0, "normalization": "slice", "selection": "dice", "tta": False, "schedule": "plateau",
        "prior_bias": False, "norm": "batch", "ema_decay": 0.0, "sampling": "slices", "augmentation": "light",
    }  # fmt: skip
    assert presets.load("baseline").model_dump(include=set(given)) == given


def test_demo_is_smaller_than_baseline_in_all_that_costs_time():
    demo, baseline = presets.load("demo"), presets.load("baseline")
    for name in ("image_size", "base_channels", "epochs"):
        assert getattr(demo, name) < getattr(baseline, name)


IMPROVEMENTS = {
    "adc": {"inputs": "dwi+adc"},
    "n4": {"n4_bias_correction": True},
    "loss": {"loss": "focal_tversky"},
    "deep-supervision": {"deep_supervision": True},
    "tta": {"tta": True},
    "cca": {"cca": True},
    "tta-cca": {"tta": True, "cca": True},
    "head": {"normalization": "head"},
    "millimetres": {"image_size": 192, "pixel_mm": 1.0},
    "selection": {"selection": "patients"},
    "dice-bce": {"loss": "dice+bce"},
    "slice-dice-bce": {"loss": "slice_dice+bce"},
    "prior-bias": {"prior_bias": True},
    "cosine": {"schedule": "cosine"},
    "poly": {"schedule": "poly"},
    "ema": {"ema_decay": 0.999},
    "strong-augmentation": {"augmentation": "strong"},
    "patient-sampling": {"sampling": "patients"},
    "instance-norm": {"norm": "instance"},
    "fine-tune": {"schedule": "cosine", "start_rate": 0.3},
    "best": WHAT_BEST_ADDS,
}


def test_there_are_two_presets_to_start_from_one_for_each_improvement_and_the_best_of_them():
    assert set(presets.names()) == {"baseline", "demo", *IMPROVEMENTS}


@pytest.mark.parametrize(("name", "own"), IMPROVEMENTS.items())
def test_an_improvement_is_baseline_and_its_own_settings(name, own):
    assert presets.load(name).model_dump() == presets.load("baseline").model_dump() | own


@pytest.mark.parametrize(("name", "own"), IMPROVEMENTS.items())
def test_an_improvement_can_be_laid_over_demo(name, own):
    assert presets.load(f"demo+{name}").model_dump() == presets.load("demo").model_dump() | own


def test_of_several_presets_each_is_looked_up():
    with pytest.raises(StepError, match=r"^unknown preset 'lss': did you mean 'loss'"):
        presets.load("demo+lss")


@pytest.mark.parametrize("name", presets.names())
def test_every_preset_is_valid(name):
    presets.load(name)


def test_set_lies_over_the_preset_and_leaves_the_rest():
    over = presets.load("demo", "epochs=5 base_channels=32  learning_rate=1e-3 loss=dice+bce")
    changed = {"epochs": 5, "base_channels": 32, "learning_rate": 1e-3, "loss": "dice+bce"}
    assert over.model_dump() == presets.load("demo").model_dump() | changed


def test_the_last_of_two_assignments_wins():
    assert presets.load("demo", "epochs=5 epochs=6").epochs == 6


@pytest.mark.parametrize(("wrong", "near"), [("basline", "baseline"), ("dmo", "demo"), ("Demo", "demo"), ("", "demo")])
def test_an_unknown_preset_is_answered_with_the_nearest_and_all_there_are(wrong, near):
    answer = f"^unknown preset '{wrong}': did you mean '{near}'. Presets: .*baseline, .*demo"
    with pytest.raises(StepError, match=answer):
        presets.load(wrong)


def test_a_preset_is_a_name_and_no_path():
    with pytest.raises(StepError, match="unknown preset"):
        presets.load("../presets/demo")


@pytest.mark.parametrize(
    ("wrong", "near"),
    [
        ("epoch=5", "epochs"),
        ("learningrate=1", "learning_rate"),
        ("batchsize=4", "batch_size"),
        ("BASE_CHANNELS=8", "base_channels"),
    ],
)
def test_an_unknown_setting_is_answered_with_the_nearest(wrong, near):
    with pytest.raises(StepError, match=f"unknown setting '{wrong.split('=')[0]}'.*{near}"):
        presets.load("demo", wrong)


@pytest.mark.parametrize(
    ("wrong", "answer"),
    [
        ("epochs=0", "epochs=0 is impossible: the nearest valid value is 1"),
        ("image_size=100", "image_size=100 is impossible: the nearest valid value is 96"),
        ("aug_hflip_prob=30", "aug_hflip_prob=30 is impossible: the nearest valid value is 1"),
        ("epochs=many", "epochs=many is impossible"),
        ("epochs=", "epochs= is impossible"),
        ("loss=dise", "loss=dise is impossible: the nearest valid value is 'dice'"),
        ("train_ratio=0.7", "is 1.1, not 1"),
        ("start=champion", r"start=champion is impossible. Model to start from: models:/NAME/VERSION"),
    ],
)
def test_an_impossible_value_is_answered_with_the_nearest_possible(wrong, answer):
    with pytest.raises(StepError, match=answer):
        presets.load("demo", wrong)


@pytest.mark.parametrize("wrong", ["epochs", "epochs:5", "epochs 5", "epochs = 5"])
def test_what_is_no_assignment_is_answered_with_an_example(wrong):
    with pytest.raises(StepError, match=r'^SET takes key=value, not .*Example: SET="epochs=5 base_channels=16"'):
        presets.load("demo", wrong)
