"""The ensemble of a cross-validation: one network for each fold, and what follows from them."""

import hashlib
import json

import numpy as np
import pytest
from scipy.special import expit, logit

from components.artifacts.trained_model import TENSORS, WEIGHTS, HeadLimits, TrainedModel, UsualHeads, digest_of
from components.core.errors import StepError
from components.ensemble.ensemble import (
    ensemble,
    widest_doubt,
    widest_heads,
    widest_interval,
    widest_ranges,
)
from components.model.inference import unpack_files
from tests.support.folds import TEMPERATURES, THRESHOLDS, split_into_folds, write_networks


@pytest.fixture
def made(tmp_path):
    """The folder of an ensemble, and those of its networks."""
    split = split_into_folds()
    split.write(tmp_path / "split.json")
    folders = write_networks(tmp_path, split)
    ensemble(tmp_path / "split.json", folders, tmp_path / "model")
    return tmp_path / "model", folders


@pytest.mark.parametrize("name", [WEIGHTS, TENSORS])
def test_the_file_of_each_network_is_in_it_byte_for_byte(made, name):
    model, folders = made
    packed = (model / name).read_bytes()
    assert unpack_files(name, packed, len(folders)) == [(folder / name).read_bytes() for folder in folders]
    read = TrainedModel.read(model)
    digest = read.weights_sha256 if name == WEIGHTS else read.tensors_sha256
    assert digest == hashlib.sha256(packed).hexdigest()
    assert read.networks == [TrainedModel.read(folder) for folder in folders]


def test_made_again_it_is_the_same_to_the_byte(made, tmp_path):
    model, folders = made
    ensemble(tmp_path / "split.json", folders, tmp_path / "again" / "model")
    for name in (WEIGHTS, TENSORS, "model.json", "history.json"):
        assert (tmp_path / "again" / "model" / name).read_bytes() == (model / name).read_bytes()


def test_its_threshold_is_the_mean_of_the_networks_on_the_calibrated_scale(made):
    wanted = np.mean([expit(logit(t) / temperature) for t, temperature in zip(THRESHOLDS, TEMPERATURES, strict=True)])
    read = TrainedModel.read(made[0])
    assert read.threshold == pytest.approx(wanted, abs=1e-6)
    assert read.temperature == 1


def test_what_differs_between_the_networks_is_no_parameter_of_the_ensemble_but_their_hardware(made):
    assert TrainedModel.read(made[0]).params == {"epochs": 2, "folds": 3, "device": "cpu 1; cpu 2; cpu 3"}


def hardware_of(tmp_path, *params: dict) -> dict:
    """The parameters of an ensemble whose networks have these parameters."""
    split = split_into_folds()
    split.write(tmp_path / "split.json")
    folders = write_networks(tmp_path, split)
    for folder, own in zip(folders, params, strict=True):
        TrainedModel.read(folder).model_copy(update={"params": own}).write(folder)
    ensemble(tmp_path / "split.json", folders, tmp_path / "model")
    return TrainedModel.read(tmp_path / "model").params


def test_every_device_and_number_format_of_the_networks_is_named_once(tmp_path):
    gpu = {"device": "GPU", "precision": "bfloat16", "memory_format": "channels_last"}
    cpu = {"device": "CPU", "precision": "float32", "memory_format": "channels_last"}
    assert hardware_of(tmp_path, gpu, cpu, gpu) == {
        "device": "GPU; CPU", "precision": "bfloat16; float32", "memory_format": "channels_last", "folds": 3,
    }  # fmt: skip


def test_a_network_of_one_device_is_named_beside_those_of_several(tmp_path):
    one, two = {"device": "GPU", "processes": 1}, {"device": "GPU", "processes": 2, "devices": "2 x GPU"}
    assert hardware_of(tmp_path, one, two, two)["devices"] == "GPU; 2 x GPU"


def test_it_is_determined_by_the_split_into_folds_and_by_what_determines_each_network(made):
    read, split = TrainedModel.read(made[0]), split_into_folds()
    assert read.decides == {**read.networks[0].decides, "split": split.digest, "folds": 3}
    assert read.training_digest == digest_of(read.decides)
    assert read.lineage["split_digest"] == split.digest
    assert (read.training_seconds, read.best_epoch) == (60, 3)


def test_the_epochs_of_every_network_are_in_its_history(made):
    rows = json.loads((made[0] / "history.json").read_text())
    assert [(row["fold"], row["val_dice"]) for row in rows] == [(1, 0.1), (2, 0.2), (3, pytest.approx(0.3))]


@pytest.mark.parametrize("order", [(1, 0, 2), (0, 0, 2)], ids=["two changed places", "one is there twice"])
def test_a_network_that_learnt_from_the_fold_it_is_tested_on_is_refused(tmp_path, order):
    split = split_into_folds()
    split.write(tmp_path / "split.json")
    folders = write_networks(tmp_path, split)
    with pytest.raises(StepError, match="was not trained without this fold"):
        ensemble(tmp_path / "split.json", [folders[n] for n in order], tmp_path / "model")


def test_a_network_of_other_data_or_too_few_networks_are_refused(tmp_path):
    split = split_into_folds()
    split.write(tmp_path / "split.json")
    folders = write_networks(tmp_path, split)
    with pytest.raises(StepError, match="3 folds, and there are 2 networks"):
        ensemble(tmp_path / "split.json", folders[:2], tmp_path / "model")
    last = TrainedModel.read(folders[2])
    last.model_copy(update={"decides": {**last.decides, "data": "2"}}).write(folders[2])
    with pytest.raises(StepError, match="the network of fold 3 was trained with other data"):
        ensemble(tmp_path / "split.json", folders, tmp_path / "model")


def test_each_limit_is_the_widest_of_the_networks(made):
    read = TrainedModel.read(made[0])
    assert (read.volume_interval.cube_root_ml, read.volume_interval.level) == (0.8, 0.7)
    assert read.seen == {"slices": (7, 23)}
    assert read.uncertainty == {"mask": pytest.approx(0.3), "empty": None}
    assert read.heads is None


def test_what_one_network_has_not_learnt_the_ensemble_has_not():
    known = {"slices": (1.0, 2.0)}
    assert widest_interval([None]) is None
    assert widest_doubt([{"mask": 0.1, "empty": None}, None]) is None
    assert widest_ranges([known, None]) is None
    heads = UsualHeads(
        not_found=0.1, average=None,
        limits=HeadLimits(most_share=0.1, share_root=0.2, unconfirmed_root=None, overlooked_root=0.4),
    )  # fmt: skip
    assert widest_heads([heads, None]) is None
    wider = heads.model_copy(update={"limits": heads.limits.model_copy(update={"share_root": 0.3})})
    found = widest_heads([heads, wider])
    assert (found.limits.share_root, found.limits.unconfirmed_root, found.average) == (0.3, None, None)
