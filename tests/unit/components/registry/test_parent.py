"""The address of a parent: written by fingerprint, read by the later steps."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from components.artifacts.evaluation import ScanDigests
from components.artifacts.trained_model import TENSORS, WEIGHTS, TrainedModel
from components.core.errors import StepError
from components.core.storage import Storage, file_sha256
from components.model.inference import load_model
from components.model.network import AttentionUNet
from components.registry import parent
from components.registry.parent import address_of, ancestors, download_parent, find_parent
from components.registry.scan_digests import scan_digests
from components.train.write_model import write_weights
from tests.support.artifacts import make_case, make_cases, make_split
from tests.support.s3_stand_in import DIALECTS, S3StandIn
from tests.support.trained import trained

DIGEST = "a" * 64
ELSEWHERE = "s3://bucket/theirs"


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


@pytest.fixture
def elsewhere(monkeypatch, tmp_path):
    """elsewhere(folder): the storage has these files of the folder under `ELSEWHERE`."""
    monkeypatch.setenv("SCRATCH_DIR", str(tmp_path / "scratch"))
    with S3StandIn(DIALECTS["AWS"]) as store:
        for name, value in {
            "S3_ENDPOINT_URL": store.url, "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret",
            "NO_PROXY": "127.0.0.1",
        }.items():  # fmt: skip
            monkeypatch.setenv(name, value)

        def put(folder: Path, *names: str) -> None:
            for name in names:
                Storage(ELSEWHERE).put(name, (folder / name).read_bytes())

        yield put


def test_a_model_from_elsewhere_is_loaded_from_the_weights_that_its_digest_pins(elsewhere, tmp_path):
    network, theirs, here = AttentionUNet(4), tmp_path / "theirs", tmp_path / "here"
    theirs.mkdir()
    here.mkdir()
    write_weights(network.state_dict(), theirs)
    digests = {"weights_sha256": file_sha256(theirs / WEIGHTS), "tensors_sha256": file_sha256(theirs / TENSORS)}
    trained(**digests, threshold=0.25).write(theirs)
    elsewhere(theirs, WEIGHTS, TrainedModel.FILE)
    found = find_parent(ELSEWHERE)
    assert found == f"{ELSEWHERE}#{digests['weights_sha256']}"
    loaded, facts = load_model(download_parent(found, here))
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in loaded.state_dict().items())
    assert facts.threshold == 0.25


def test_an_ensemble_is_refused_when_the_run_begins(version, elsewhere, tmp_path):
    version(weights_sha256=DIGEST, test_folds="5")
    with pytest.raises(StepError, match=r"START=models:/dwi-attention-unet/3 is an ensemble of networks \(FOLDS\)"):
        find_parent("models:/dwi-attention-unet/3")
    (tmp_path / WEIGHTS).write_bytes(b"weights")
    trained(networks=[trained()] * 3).write(tmp_path)
    elsewhere(tmp_path, WEIGHTS, TrainedModel.FILE)
    with pytest.raises(StepError, match=rf"START={ELSEWHERE} is an ensemble of networks"):
        find_parent(ELSEWHERE)


def test_a_description_that_cannot_be_read_is_named(elsewhere, tmp_path):
    for name in (WEIGHTS, TrainedModel.FILE):
        (tmp_path / name).write_bytes(b"{}")
    elsewhere(tmp_path, WEIGHTS, TrainedModel.FILE)
    with pytest.raises(StepError, match=rf"START={ELSEWHERE}: {ELSEWHERE}/model.json does not describe a model"):
        find_parent(ELSEWHERE)


@pytest.mark.parametrize(("digest", "believed"), [(None, True), ("that of the list", True), ("another", False)])
def test_the_scans_of_another_training_are_not_those_of_the_parent(elsewhere, tmp_path, digest, believed):
    """Else the patients that the parent learnt from could be tested."""
    split = make_split({"train": ["A"], "val": ["B"], "test": ["C"]})
    scan_digests(make_cases([make_case(name) for name in "ABC"]), split).write(tmp_path)
    lineage = {"that of the list": {"split_digest": split.digest}, "another": {"split_digest": DIGEST}}
    trained(lineage=lineage.get(digest, {})).write(tmp_path)
    elsewhere(tmp_path, TrainedModel.FILE, ScanDigests.FILE)
    (found,) = ancestors(f"{ELSEWHERE}#{DIGEST}")
    assert found.address == ELSEWHERE and (found.scans is not None) is believed
