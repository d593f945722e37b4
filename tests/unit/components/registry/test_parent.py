"""The address of a parent: written by fingerprint, read by the later steps."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from components.artifacts.trained_model import WEIGHTS
from components.core.errors import StepError
from components.core.storage import file_sha256
from components.registry import parent
from components.registry.parent import address_of, download_parent, find_parent

DIGEST = "a" * 64


@pytest.fixture
def version(monkeypatch):
    """version(tags): the registry has this one version."""

    def make(**tags: str) -> SimpleNamespace:
        found = SimpleNamespace(name="dwi-attention-unet", version="3", tags=tags, run_id="r")
        monkeypatch.setattr(parent, "_version", lambda *_: found)
        return found

    return make


def test_without_start_there_is_no_parent():
    assert find_parent("") == ""


@pytest.mark.parametrize("start", ["models:/dwi-attention-unet@champion", "models:/dwi-attention-unet/3"])
def test_a_parent_is_named_by_number_and_digest(version, start):
    version(weights_sha256=DIGEST)
    found = find_parent(start)
    assert found == f"models:/dwi-attention-unet/3#{DIGEST}"
    assert address_of(found) == "models:/dwi-attention-unet/3"


@pytest.mark.parametrize(
    "start", ["champion", "models:/dwi-attention-unet", "models:/a b@c", "runs:/1/model", "s3://", "/tmp/model"]
)
def test_what_is_no_address_of_a_model_is_refused_with_the_forms(start):
    with pytest.raises(StepError, match=r"names no model\. Write models:/NAME/VERSION"):
        find_parent(start)


def test_a_version_without_a_digest_of_its_weights_is_refused(version):
    version()
    with pytest.raises(StepError, match="has no tag weights_sha256"):
        find_parent("models:/dwi-attention-unet/3")


@pytest.mark.parametrize(
    "given", ["models:/dwi-attention-unet@champion", "models:/dwi-attention-unet/3", f"x#{DIGEST}"]
)
def test_a_later_step_refuses_an_address_that_may_move(given):
    with pytest.raises(StepError, match="is no parent: the fingerprint step names it"):
        address_of(given)


@pytest.fixture
def stored(version, monkeypatch, tmp_path) -> Path:
    (tmp_path / WEIGHTS).write_bytes(b"weights")
    monkeypatch.setattr(parent, "download_model", lambda *_: tmp_path)
    version(weights_sha256=file_sha256(tmp_path / WEIGHTS))
    return tmp_path


def test_a_parent_is_downloaded_by_its_digest(stored):
    assert download_parent(find_parent("models:/dwi-attention-unet@champion"), stored) == stored


def test_weights_that_changed_since_the_run_began_are_refused(stored):
    found = find_parent("models:/dwi-attention-unet@champion")
    (stored / WEIGHTS).write_bytes(b"others")
    with pytest.raises(StepError, match="has other weights than at the start of this run"):
        download_parent(found, stored)


def test_a_parent_that_cannot_be_loaded_is_named(stored, monkeypatch):
    def altered(*_):
        raise StepError("best_model.pth is not what was registered")

    monkeypatch.setattr(parent, "download_model", altered)
    with pytest.raises(
        StepError, match=r"the model of START cannot be loaded, models:/dwi-attention-unet/3: best_model"
    ):
        download_parent(find_parent("models:/dwi-attention-unet/3"), stored)
