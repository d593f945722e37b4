"""A model from another model's weights, against a real S3 and a real MLflow: two sites, one after the other."""

from dataclasses import dataclass
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch

from components.artifacts.cases import PARENT_TESTS, Cases
from components.artifacts.evaluation import ParentComparison
from components.artifacts.split_file import Split
from components.artifacts.trained_model import WEIGHTS, TrainedModel
from components.core.errors import StepError
from components.core.settings import checked
from components.core.storage import Storage, file_sha256, work_bucket
from components.evaluate.evaluate import evaluate
from components.fingerprint.fingerprint import fingerprint, history_to_extend
from components.ingest.ingest import ingest
from components.ingest.parent_tests import ingest_parent_tests
from components.preprocess.preprocess import preprocess
from components.register.register import register
from components.registry.ledger import Ledger
from components.registry.parent import ancestors, download_parent, find_parent
from components.registry.tracking import MODEL_NAME
from components.split.split import split
from components.train.train import train
from components.train.training_inputs import TrainingPaths
from pipelines.image_tags import image
from pipelines.models.lineage import lineage

RATIOS, SEED = (0.5, 0.25, 0.25), 0
SETTINGS = {
    "base_channels": 4, "epochs": 1, "batch_size": 6, "learning_rate": 5e-3, "weight_decay": 1e-5, "loss": "dice",
    "lesion_free_ratio": 1.0, "random_seed": 3, "precision": "float32", "memory_format": "contiguous",
}  # fmt: skip


@dataclass
class Site:
    """The artifacts of a run on one site's scans."""

    uri: str
    folder: Path

    def __getattr__(self, name: str) -> Path:
        return self.folder / {"split": "split.json", "page": "page.html"}.get(name, name)

    def prepare(self, parent: str) -> None:
        """Run the steps before the training."""
        version = fingerprint(self.uri)
        ingest(self.uri, version, self.cases, self.page)
        if parent:
            ingest_parent_tests(parent, self.cases)
        preprocess(self.cases, self.slices, 32, "volume")
        history = history_to_extend(self.uri, version, RATIOS, SEED, "dwi")
        split(self.cases, self.split, self.folder / "split.html", RATIOS, SEED, "dwi", history)

    def train(self, parent: str, **settings) -> None:
        more = {"start": parent, "start_rate": 0.3} if parent else {}
        paths = TrainingPaths(
            self.cases, self.slices, self.split, self.page, self.model, self.folder / "curves.html"
        )  # fmt: skip
        train(paths, checked(SETTINGS | more | settings))

    def register(self) -> str:
        evaluate(self.cases, self.split, self.page, self.model, self.evaluation, self.folder / "evaluation.html")
        return register(self.model, self.evaluation)["version"]


@pytest.fixture
def site(tmp_path, make_scan, write_case, monkeypatch):
    """site("here", first=0): six patients of a site, in the bucket; `first` is the seed of the first scan."""
    monkeypatch.setenv("SCRATCH_DIR", str(tmp_path / "scratch"))
    monkeypatch.setenv("IMAGE_TAG", image("train"))

    def make(name: str, first: int) -> Site:
        monkeypatch.setenv("KFP_RUN_ID", name)
        scans, storage = tmp_path / name / "scans", Storage(f"s3://{work_bucket()}/data/{name}")
        for number in range(first, first + 6):
            dwi, adc, mask = make_scan(number)
            write_case(scans, f"sub-{number}", dwi=dwi, adc=adc, mask=mask)
        storage.delete([o.key for o in storage.list()])
        storage.upload(scans, [p.relative_to(scans).as_posix() for p in scans.rglob("*") if p.is_file()])
        return Site(storage.uri, tmp_path / name)

    return make


@pytest.fixture
def parent(registry, site) -> Site:
    """A registered model of one site."""
    ledger = Ledger().storage
    ledger.delete([o.key for o in ledger.list()])
    made = site("theirs", 0)
    made.prepare("")
    made.train("")
    made.register()
    return made


@pytest.mark.slow
def test_an_alias_is_found_once_as_a_version_with_the_digest_of_its_weights(champion, tmp_path):
    version = champion()
    found = find_parent(f"models:/{MODEL_NAME}@champion")
    assert found == find_parent(f"models:/{MODEL_NAME}/{version}")
    weights = download_parent(found, tmp_path) / WEIGHTS
    assert found == f"models:/{MODEL_NAME}/{version}#{file_sha256(weights)}"


@pytest.mark.parametrize("start", [f"models:/{MODEL_NAME}/99", f"models:/{MODEL_NAME}@best", "models:/other/1"])
def test_a_model_that_is_not_there_is_refused(champion, start):
    champion()
    with pytest.raises(StepError, match=f"START={start}: this MLflow has no such model"):
        find_parent(start)


def test_a_model_from_elsewhere_is_a_folder_in_the_storage(servers_here, tmp_path, monkeypatch):
    monkeypatch.setenv("SCRATCH_DIR", str(tmp_path / "scratch"))
    storage = Storage(f"s3://{work_bucket()}/models/theirs")
    storage.delete([o.key for o in storage.list()])
    with pytest.raises(StepError, match=rf"there is no {storage.uri}/{WEIGHTS}"):
        find_parent(storage.uri)
    storage.put(WEIGHTS, b"weights")
    storage.put(TrainedModel.FILE, b'{"image_size": 32, "normalization": "slice", "base_channels": 4}')
    found = find_parent(f"{storage.uri}/")
    (tmp_path / "copy").mkdir()
    assert (download_parent(found, tmp_path / "copy") / WEIGHTS).read_bytes() == b"weights"
    assert [(one.address, one.scans) for one in ancestors(found)] == [(storage.uri, None)]
    storage.put(WEIGHTS, b"others")
    with pytest.raises(StepError, match="has other weights than at the start of this run"):
        download_parent(found, tmp_path / "copy")


@pytest.mark.slow
def test_a_child_names_its_parent_and_is_measured_on_the_parents_test_patients(parent, site, tmp_path, capsys):
    address, version = find_parent(f"models:/{MODEL_NAME}@challenger"), ""
    child = site("ours", 100)
    child.prepare(address)
    old = Cases.read(child.cases / PARENT_TESTS)
    assert [case.case for case in old.cases] == Split.read(parent.split).cases["test"]
    child.train(address, epochs=1)
    trained = TrainedModel.read(child.model)
    assert trained.lineage["parent"] == trained.params["start"] == address
    version = child.register()
    client = mlflow.MlflowClient()
    assert client.get_model_version(MODEL_NAME, version).tags["parent"] == address
    forgotten = ParentComparison.read(child.evaluation)
    assert forgotten.pairs["dice"].keys() == set(Split.read(parent.split).patients["test"])
    assert (forgotten.unknown, forgotten.reason) == ([], "")
    assert lineage(f"models:/{MODEL_NAME}/{version}", tmp_path) == 0
    out = capsys.readouterr().out
    assert f"started from        {address.partition('#')[0]}" in out
    assert f"OK           parent's weights    {address.rpartition('#')[2]}" in out
    assert [one.address for one in ancestors(find_parent(f"models:/{MODEL_NAME}/{version}"))] == [
        f"models:/{MODEL_NAME}/{version}", address.partition("#")[0],
    ]  # fmt: skip


@pytest.mark.slow
def test_the_parents_patients_keep_their_subsets_and_a_new_draw_is_refused(parent, site):
    """The same scans at another address: they are recognised by their images."""
    address = find_parent(f"models:/{MODEL_NAME}@challenger")
    child = site("again", 0)
    child.prepare(address)
    assert Split.read(child.split).patients == Split.read(parent.split).patients
    child.train(address)
    split(child.cases, child.split, child.folder / "split.html", RATIOS, SEED + 1, "dwi", "", False)
    assert Split.read(child.split).patients["test"] != Split.read(parent.split).patients["test"]
    with pytest.raises(StepError, match=r"learnt from \d of the \d test patients of this split"):
        child.train(address)


@pytest.mark.slow
def test_training_begins_at_the_parents_weights(parent, site):
    address = find_parent(f"models:/{MODEL_NAME}@challenger")
    child = site("near", 200)
    child.prepare("")
    child.train(address, learning_rate=1e-9)
    ours, theirs = (torch.load(s.model / WEIGHTS, weights_only=True) for s in (child, parent))
    names = [name for name in theirs if "running" not in name and "batches" not in name]
    assert all(np.allclose(ours[name], theirs[name], atol=1e-6) for name in names)
    with pytest.raises(StepError, match="base_channels is 4 there and 8 here"):
        child.train(address, base_channels=8)
