"""Start a training from the weights of another model: it must fit, and must not have seen the test patients."""

import logging
import tempfile
from pathlib import Path

from torch import Tensor

from components.artifacts.evaluation import ScanDigest
from components.artifacts.trained_model import TrainedModel
from components.core.errors import StepError
from components.core.settings import Settings
from components.core.storage import normal_address, scratch
from components.model.inference import load_model
from components.model.network import AttentionUNet
from components.registry.parent import Ancestor, address_of, ancestors, download_parent
from components.train.training_inputs import TrainingInputs
from components.train.training_key import grid_settings

NETWORK = ("base_channels", "norm")
"""Settings of the network, which decide the shapes of its weights."""
NOT_LEARNT = (None, "test")
"""What a model learns nothing from. From the patients of each fold some network of an ensemble has learnt."""

CONTINUE_SPLIT = (
    "Remove these patients from DATA, or continue the parent's split (carry_split=true, in the MLflow that it is "
    "registered in)."
)
LEAVE_OUT_FOLDS = "With FOLDS every patient is tested: leave FOLDS out, or remove these patients from DATA."


def starting_weights(inputs: TrainingInputs, settings: Settings) -> dict[str, Tensor]:
    """Return the weights of the model in `settings.start`, after a check that this training may start from them.

    Raises:
        StepError: the model cannot be loaded, a setting of its grid or network differs, or it learnt from a test
            patient of this split.
    """
    address = address_of(settings.start)
    with tempfile.TemporaryDirectory(dir=scratch()) as folder:
        network, trained = load_model(download_parent(settings.start, Path(folder)))
    if not isinstance(network, AttentionUNet):
        raise StepError(f"START={address} is an ensemble of networks, and a training starts from one. Name another.")
    require_agreement(address, trained, {**grid_settings(inputs.slices), **settings.model_dump(include={*NETWORK})})
    require_unseen_test(inputs, ancestors(settings.start))
    logging.info(
        "starting from the weights of %s, at %g of the learning rate %g",
        address, settings.start_rate, settings.learning_rate,
    )  # fmt: skip
    return {name: value.detach().cpu().clone() for name, value in network.state_dict().items()}


def require_agreement(address: str, trained: TrainedModel, here: dict) -> None:
    """Refuse a model of another grid or network: its weights would mean nothing here.

    Raises:
        StepError: a setting differs; the text names each with both values.
    """
    other = {name: getattr(trained, name) for name, value in here.items() if getattr(trained, name) != value}
    if other:
        differing = "; ".join(f"{name} is {value} there and {here[name]} here" for name, value in other.items())
        same = " ".join(f"{name}={str(value).lower()}" for name, value in other.items())
        raise StepError(
            f'a training cannot start from START={address}: {differing}. Take the values of that model: SET="{same}".'
        )


def require_unseen_test(inputs: TrainingInputs, line: list[Ancestor]) -> None:
    """Refuse a split whose test patients the parent, or a model that it started from, has learnt from.

    Raises:
        StepError: there is such a patient.
    """
    for ancestor in line:
        if ancestor.scans is None:
            logging.warning(
                "the scans that %s learnt from are unknown: whether test patients are among them was not checked",
                ancestor.address,
            )
            continue
        learnt = [case for case in ancestor.scans.cases if case.subset not in NOT_LEARNT]
        trained_on = [case for case in learnt if case.subset != "val"]
        if seen := _seen(inputs, "test", learnt, ancestor.scans.data_uri):
            raise StepError(
                f"{ancestor.address} learnt from {len(seen)} of the {len(inputs.split.patients['test'])} test patients "
                f"of this split ({', '.join(seen[:5])}{', ...' if len(seen) > 5 else ''}): the test would be of what "
                f"it has seen. {LEAVE_OUT_FOLDS if inputs.split.held_out else CONTINUE_SPLIT}"
            )
        if seen := _seen(inputs, "val", trained_on, ancestor.scans.data_uri):
            logging.warning(
                "%s learnt from %d of the %d validation patients: the chosen threshold may fit new patients less well",
                ancestor.address, len(seen), len(inputs.split.patients["val"]),
            )  # fmt: skip


def _seen(inputs: TrainingInputs, subset: str, learnt: list[ScanDigest], data_uri: str) -> list[str]:
    """Return the patients of a subset who are among `learnt`: by an image, or by their name at the same address."""
    images = {case.voxel_sha256 for case in learnt}
    same_place = normal_address(data_uri) == normal_address(inputs.cases.data_uri)
    names = {case.patient for case in learnt} if same_place else set()
    by_name = inputs.cases.by_name
    cases = (by_name[name] for name in inputs.split.cases[subset])
    return sorted({case.patient for case in cases if case.voxel_sha256 in images or case.patient in names})
