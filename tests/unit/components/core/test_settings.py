import re

import pytest
from pydantic import ValidationError

from components.core.errors import StepError
from components.core.settings import Settings, checked

THE_USERS_OWN = {
    "train_ratio": 0.80, "val_ratio": 0.15, "test_ratio": 0.05, "base_channels": 64,
    "epochs": 100, "batch_size": 16, "learning_rate": 1e-4, "weight_decay": 1e-5,
    "aug_hflip_prob": 0.3, "aug_rotate_prob": 0.25, "aug_brightness_prob": 0.2, "random_seed": 42,
}  # fmt: skip


def complaint(**values) -> str:
    with pytest.raises(StepError) as error:
        checked(values)
    return str(error.value)


def test_the_defaults_of_training_are_the_users_own_but_for_the_parts_of_the_recipe():
    assert {k: v for k, v in checked({}).model_dump().items() if k in THE_USERS_OWN} == THE_USERS_OWN


def test_numbers_may_come_as_text():
    settings = checked({"epochs": "5", "learning_rate": "1e-3", "image_size": "128"})
    assert (settings.epochs, settings.learning_rate, settings.image_size) == (5, 1e-3, 128)


def test_settings_do_not_change_once_made():
    with pytest.raises(ValidationError):
        checked({}).epochs = 3


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [("epoch", "epochs"), ("learning_rat", "learning_rate"), ("imagesize", "image_size"), ("seed", "random_seed"),
     ("channels", "base_channels"), ("TRAIN_RATIO", "train_ratio")],
)  # fmt: skip
def test_an_unknown_setting_is_refused_with_the_nearest_name(wrong, meant):
    assert complaint(**{wrong: 1}) == f"unknown setting '{wrong}': did you mean '{meant}'?"


def test_a_setting_like_no_other_is_refused_with_all_names():
    assert all(name in complaint(qqq=1) for name in ("qqq", *Settings.model_fields))


@pytest.mark.parametrize(
    ("key", "given", "nearest"),
    [
        ("epochs", 0, "1"),
        ("epochs", 20_000, "10000"),
        ("learning_rate", 0, "a little above 0"),
        ("learning_rate", -1, "a little above 0"),
        ("learning_rate", 5, "1"),
        ("val_ratio", 1, "a little below 1"),
        ("aug_hflip_prob", 1.2, "1"),
        ("aug_rotate_prob", -0.1, "0"),
        ("random_seed", -1, "0"),
        ("random_seed", 2**40, str(2**32 - 1)),
        ("image_size", 390, "384"),
        ("image_size", 17, "32"),
        ("image_size", 2001, "1024"),
        ("base_channels", 1, "4"),
        ("base_channels", 131, "128"),
        ("epochs", 3.7, "4"),
        ("batch_size", 1.2, "2"),
        ("image_size", 100.5, "96"),
    ],
)
@pytest.mark.parametrize("form", [lambda value: value, str], ids=["number", "text"])
def test_an_impossible_number_is_refused_with_the_nearest_possible_one(key, given, nearest, form):
    assert complaint(**{key: form(given)}) == f"{key}={given} is impossible: the nearest valid value is {nearest}"
    if "little" not in nearest:
        checked({key: nearest})


@pytest.mark.parametrize(
    ("given", "nearest"),
    [("Dice", "dice"), ("dice_bce", "dice+bce"), ("dice+bc", "dice+bce"), ("tversky", "focal_tversky")],
)
def test_an_impossible_choice_is_refused_with_the_nearest_one_and_all(given, nearest):
    assert complaint(loss=given) == (
        f"loss={given} is impossible: the nearest valid value is '{nearest}' "
        "(one of dice, dice+bce, slice_dice+bce, focal_tversky)"
    )


@pytest.mark.parametrize("given", ["many", "", None, float("nan")])
def test_what_is_no_number_is_refused_with_the_default(given):
    assert re.fullmatch(rf"epochs={given} is impossible: .*; the default is 100", complaint(epochs=given))


@pytest.mark.parametrize(("given", "switch"), [("true", True), ("1", True), ("on", True), ("false", False), (0, False)])
def test_a_switch_takes_the_usual_words(given, switch):
    assert checked({"tta": given}).tta is switch


@pytest.mark.parametrize("given", ["maybe", "", "2", 7, 0.5])
def test_what_is_no_switch_is_refused(given):
    assert complaint(tta=given) == f"tta={given} is impossible: it is true or false"


def test_a_nan_never_passes_for_a_number():
    for key in ("learning_rate", "weight_decay", "train_ratio", "lesion_free_ratio", "aug_hflip_prob"):
        assert f"{key}=nan is impossible" in complaint(**{key: float("nan")})


@pytest.mark.parametrize(("train_ratio", "total"), [(0.7, "1.1"), (0.5, "0.9")])
def test_ratios_that_do_not_sum_to_one_are_refused_with_the_train_ratio_that_would(train_ratio, total):
    assert complaint(train_ratio=train_ratio, val_ratio=0.2, test_ratio=0.2) == (
        f"train_ratio + val_ratio + test_ratio is {total}, not 1; the nearest valid train_ratio is 0.6"
    )
    assert checked({"train_ratio": 0.6, "val_ratio": 0.2, "test_ratio": 0.2}).train_ratio == 0.6


def test_ratios_that_leave_nothing_to_train_on_are_refused():
    assert complaint(val_ratio=0.5, test_ratio=0.5).endswith("lower val_ratio or test_ratio")


def test_ratios_sum_to_one_up_to_rounding():
    checked({"train_ratio": 0.7, "val_ratio": 0.2, "test_ratio": 0.1})  # 0.99999... in binary


def test_all_that_is_wrong_is_said_at_once():
    said = complaint(epochs=0, image_size=17, nonsense=1).splitlines()
    assert len(said) == 3
