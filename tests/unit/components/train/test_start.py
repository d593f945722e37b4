"""A training starts from the weights of a model that fits, and that has not seen the test patients."""

import dataclasses
import logging
from pathlib import Path

import pytest
import torch

from components.artifacts.split_file import Split
from components.core.errors import StepError
from components.core.settings import checked
from components.model.network import AttentionUNet
from components.registry.parent import Ancestor
from components.registry.scan_digests import scan_digests
from components.train import start
from components.train.start import require_agreement, require_unseen_test, starting_weights
from components.train.training_inputs import TrainingInputs
from tests.support.artifacts import make_case, make_cases, make_split
from tests.support.folds import split_into_folds
from tests.support.trained import trained

HERE = {
    "image_size": 32, "pixel_mm": 0.0, "normalization": "slice", "n4_bias_correction": False, "inputs": "dwi",
    "base_channels": 4, "norm": "batch",
}  # fmt: skip
OTHER = {
    "image_size": 64, "pixel_mm": 1.5, "normalization": "head", "n4_bias_correction": True, "inputs": "dwi+adc",
    "base_channels": 8, "norm": "instance",
}  # fmt: skip
ADDRESS = "models:/dwi-attention-unet/3"
PARENT = f"{ADDRESS}#{'a' * 64}"
PATIENTS = {"train": ["A", "B"], "val": ["C"], "test": ["D", "E"]}


def inputs(slices=None, **changes) -> TrainingInputs:
    """The inputs of a training with these patients; `changes` are of the cases."""
    cases = make_cases([make_case(name) for names in PATIENTS.values() for name in names], **changes)
    return TrainingInputs(paths=None, cases=cases, slices=slices, split=make_split(PATIENTS))


def inputs_of_fold() -> TrainingInputs:
    """The inputs of the network that holds out D and E of three folds."""
    of_fold = split_into_folds({"fold-1": ["D", "E"], "fold-2": ["C"], "fold-3": ["A", "B"]}).of_fold(1)
    return dataclasses.replace(inputs(), split=of_fold)


def ancestor(subset_of: dict[str, str], data_uri: str = "s3://elsewhere/scans", images: str = "volume of") -> Ancestor:
    """A model that learnt from patients of these names, whose images are those of `make_case` or others."""
    cases = make_cases([make_case(n, voxel_sha256=f"{images} {n}") for n in subset_of], data_uri=data_uri)
    subsets = {"train": [], "val": [], "test": []} if not any("fold" in s for s in subset_of.values()) else {}
    patients = subsets | {subset: [n for n, s in subset_of.items() if s == subset] for subset in subset_of.values()}
    split: Split = make_split(patients)
    return Ancestor(ADDRESS, scan_digests(cases, split))


def test_a_model_of_the_same_grid_and_network_fits():
    require_agreement(ADDRESS, trained(**HERE), HERE)


@pytest.mark.parametrize("name", HERE)
def test_a_setting_that_differs_is_refused_by_name_with_both_values(name):
    with pytest.raises(StepError) as error:
        require_agreement(ADDRESS, trained(**{**HERE, name: OTHER[name]}), HERE)
    assert f"START={ADDRESS}: {name} is {OTHER[name]} there and {HERE[name]} here." in str(error.value)
    assert f'SET="{name}={str(OTHER[name]).lower()}"' in str(error.value)


def test_all_settings_that_differ_are_named_at_once():
    with pytest.raises(StepError) as error:
        require_agreement(ADDRESS, trained(**OTHER), HERE)
    assert all(f"{name} is {value} there" in str(error.value) for name, value in OTHER.items())


@pytest.mark.parametrize("subset", ["train", "val", "fold-1", "fold-2"])
def test_a_test_patient_that_the_parent_learnt_from_is_refused_by_its_image(subset):
    with pytest.raises(StepError, match=rf"{ADDRESS} learnt from 1 of the 2 test patients of this split \(E\)"):
        require_unseen_test(inputs(), [ancestor({"E": subset, "X": subset})])


def test_a_patient_is_recognised_by_the_name_at_the_same_address_only():
    renewed = ancestor({"D": "train"}, data_uri="s3://bucket/scans", images="another volume of")
    for data_uri in ("s3://bucket/scans", "s3://bucket/scans/"):
        with pytest.raises(StepError, match=r"\(D\)"):
            require_unseen_test(inputs(data_uri=data_uri), [renewed])
    require_unseen_test(inputs(), [ancestor({"D": "train"}, images="another volume of")])


def test_an_earlier_model_of_the_line_counts_too():
    with pytest.raises(StepError, match="learnt from 2 of the 2 test patients"):
        require_unseen_test(inputs(), [ancestor({"X": "train"}), ancestor({"D": "train", "E": "val"})])


def test_patients_that_keep_their_subsets_pass(caplog):
    with caplog.at_level(logging.WARNING):
        require_unseen_test(inputs(), [ancestor({"A": "train", "C": "val", "D": "test", "E": "test"})])
    assert caplog.text == ""


def test_a_validation_patient_that_the_parent_was_trained_on_is_said(caplog):
    require_unseen_test(inputs(), [ancestor({"C": "train", "X": "val"})])
    assert "learnt from 1 of the 1 validation patients" in caplog.text


def test_a_validation_patient_of_a_fold_that_the_parent_learnt_from_is_said(caplog):
    require_unseen_test(inputs(), [ancestor({"C": "fold-1", "X": "fold-2"})])
    assert "learnt from 1 of the 1 validation patients" in caplog.text


def test_with_folds_the_advice_is_to_leave_them_out():
    with pytest.raises(StepError, match="With FOLDS every patient is tested: leave FOLDS out, or remove these"):
        require_unseen_test(inputs_of_fold(), [ancestor({"E": "train"})])
    with pytest.raises(StepError, match=r"continue the parent's split \(carry_split=true"):
        require_unseen_test(inputs(), [ancestor({"E": "train"})])


def test_a_parent_whose_scans_are_unknown_is_named(caplog):
    require_unseen_test(inputs(), [Ancestor("s3://models/theirs", None)])
    assert "the scans that s3://models/theirs learnt from are unknown" in caplog.text


@pytest.fixture
def parent(model, monkeypatch, tmp_path):
    """The folder of a network, which is what START names."""
    folder = model(seed=7, bias=-3.0)
    monkeypatch.setenv("SCRATCH_DIR", str(tmp_path / "scratch"))
    monkeypatch.setattr(start, "download_parent", lambda given, _: folder if given == PARENT else None)
    monkeypatch.setattr(start, "ancestors", lambda _: [Ancestor(ADDRESS, None)])
    return folder


def test_the_weights_are_those_of_the_parent(parent: Path, slices):
    settings = checked({"base_channels": 4, "start": PARENT})
    found = starting_weights(inputs(slices.artifact()), settings)
    stored = torch.load(parent / "best_model.pth", weights_only=True)
    assert found.keys() == stored.keys() and all(torch.equal(found[name], stored[name]) for name in stored)
    AttentionUNet(4).load_state_dict(found)


def test_weights_that_hold_code_are_not_loaded(parent: Path, slices):
    class Malicious:
        def __reduce__(self):
            return (Path.touch, (parent / "was here",))

    torch.save({"head.bias": Malicious()}, parent / "best_model.pth")
    with pytest.raises(StepError, match=r"best_model\.pth cannot be loaded"):
        starting_weights(inputs(slices.artifact()), checked({"base_channels": 4, "start": PARENT}))
    assert not (parent / "was here").exists()


def test_a_network_of_another_width_is_refused(parent, slices):
    with pytest.raises(StepError, match="base_channels is 4 there and 8 here"):
        starting_weights(inputs(slices.artifact()), checked({"base_channels": 8, "start": PARENT}))
