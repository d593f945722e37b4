"""From a registered version back to every scan, hashed again: against a real S3, a real MLflow, a real training."""

import json
import re
import shutil
from pathlib import Path

import mlflow
import pytest

from components.core.errors import StepError
from components.core.settings import checked
from components.core.storage import Storage, file_sha256, work_bucket
from components.evaluate.evaluate import evaluate
from components.fingerprint.fingerprint import fingerprint
from components.ingest.ingest import ingest
from components.preprocess.preprocess import preprocess
from components.register import card_text
from components.register.card import Card
from components.register.register import register
from components.registry.ledger import Ledger
from components.registry.tracking import MODEL_NAME, Run
from components.split.split import split
from components.train.launch import launch
from components.train.training_inputs import TrainingPaths
from pipelines.image_tags import commit, image
from pipelines.models import promotion
from pipelines.models.lineage import lineage
from tests.support.measured import FOUND

pytestmark = pytest.mark.slow

SETTINGS = {
    "base_channels": 4, "epochs": 1, "batch_size": 6, "learning_rate": 5e-3, "weight_decay": 1e-5, "loss": "dice",
    "early_stop_patience": 20, "lesion_free_ratio": 1.0, "aug_hflip_prob": 0.0, "aug_rotate_prob": 0.0,
    "aug_brightness_prob": 0.0, "random_seed": 3, "precision": "auto", "memory_format": "contiguous",
}  # fmt: skip
NEWEST = f"models:/{MODEL_NAME}@challenger"
SCANS = f"s3://{work_bucket()}/data/lineage"


@pytest.fixture(scope="module")
def scans(tmp_path_factory, make_scan, write_case) -> Path:
    """Six patients with a lesion."""
    folder = tmp_path_factory.mktemp("scans")
    for number in range(6):
        dwi, adc, mask = make_scan(number)
        write_case(folder, f"sub-{number}", dwi=dwi, adc=adc, mask=mask)
    return folder


@pytest.fixture(scope="module")
def artifacts(servers, scans, tmp_path_factory) -> tuple[Path, Path]:
    """model and evaluation of one run of all steps but the last."""
    folder = tmp_path_factory.mktemp("artifacts")
    cases, slices, parts, report, model, evaluation = (
        folder / n for n in ("cases", "slices", "split.json", "report.html", "model", "evaluation")
    )
    with pytest.MonkeyPatch.context() as patch:
        for name, value in servers.items():
            patch.setenv(name, value)
        patch.setenv("KFP_RUN_ID", "lineage")
        patch.setenv("IMAGE_TAG", image("train"))
        patch.setenv("GIT_COMMIT", commit())
        patch.setenv("SCRATCH_DIR", str(folder / "scratch"))
        put(scans)
        ingest(SCANS, fingerprint(SCANS), cases, report)
        preprocess(cases, slices, 32, "volume")
        split(cases, parts, folder / "split.html", (0.5, 0.25, 0.25), 0)
        paths = TrainingPaths(cases, slices, parts, report, model, folder / "curves.html")
        launch(paths, checked(SETTINGS))
        evaluate(cases, parts, report, model, evaluation, folder / "evaluation.html")
    return model, evaluation


def put(scans: Path) -> None:
    """The bucket holds these scans, and nothing else under their prefix."""
    storage = Storage(SCANS)
    storage.delete([o.key for o in storage.list()])
    storage.upload(scans, [p.relative_to(scans).as_posix() for p in scans.rglob("*") if p.is_file()])


@pytest.fixture(scope="module")
def version(servers, artifacts):
    """Of a registry that holds nothing else, beside an empty ledger; one test patient makes no champion."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in servers.items():
            patch.setenv(name, value)
        patch.setenv("KFP_RUN_ID", "lineage")
        client = mlflow.MlflowClient()
        if client.search_registered_models(f"name = '{MODEL_NAME}'"):
            client.delete_registered_model(MODEL_NAME)
        ledger = Ledger().storage
        ledger.delete([o.key for o in ledger.list()])
        registered = register(*artifacts)
        return client.get_model_version(MODEL_NAME, registered["version"])


@pytest.fixture
def here(servers_here, monkeypatch, version):
    """The commands look at these servers; a step that runs is of this pipeline run."""
    monkeypatch.setenv("KFP_RUN_ID", "lineage")


@pytest.fixture
def trace(here, tmp_path, capsys):
    """trace(model) -> what `make lineage` returns and prints."""

    def run(model: str = NEWEST) -> tuple[int, str]:
        capsys.readouterr()
        return lineage(model, tmp_path), capsys.readouterr().out

    return run


@pytest.fixture
def alter(here):
    """alter(part of a key, change) puts `change(bytes)` where the newest such object in the bucket is, for one test."""
    storage, before = Storage(f"s3://{work_bucket()}"), {}

    def do(ending: str, change=lambda blob: blob[:-1] + bytes([blob[-1] ^ 1]), below: str = "") -> None:
        keys = [o.key for o in storage.list() if o.key.endswith(ending) and below in o.key]
        assert keys, ending
        for key in keys:
            before[key] = storage.get(key)
            changed = change(before[key])
            storage.delete([key]) if changed is None else storage.put(key, changed)

    yield do
    for key, blob in before.items():
        storage.put(key, blob)


def gone(blob: bytes) -> None:
    return None


def links(out: str, status: str) -> list[str]:
    return [line.strip() for line in out.splitlines() if line.strip().startswith(status)]


def test_a_version_is_followed_to_every_scan_and_found_whole(trace, version, scans):
    code, out = trace()
    assert (code, links(out, "CHANGED"), [x for x in links(out, "NOT REACHED") if "code" not in x]) == (0, [], [])
    for path in scans.rglob("*.nii.gz"):
        assert f"OK           {file_sha256(path)}  {path.relative_to(scans).as_posix()}" in out
    for told in (
        f"{NEWEST} is version {version.version} of {MODEL_NAME}", version.run_id, SCANS, image("train"),
        f"OK           best_model.pth      {version.tags['weights_sha256']}", "OK           model.json",
        "OK           its code",
        "OK           model card", "OK           ledger entry        decision 1", "OK           training_digest",
        "OK           evaluation_digest", "OK           split.json", "OK           cases.json",
        "OK           data_version", "epochs              1", "(test)", "(train)",
    ):  # fmt: skip
        assert told in out, f"{told}\n{out}"
    assert re.search(r"(Every link is as it was when this version was registered|Not verified).*$", out)


@pytest.mark.parametrize(
    ("ending", "below", "names"),
    [
        ("sub-3_ses-0001_dwi.nii.gz", "data/lineage", ["data_version", "sub-3_ses-0001"]),
        ("best_model.pth", "/artifacts/weights/", ["best_model.pth", "all its files", "evaluation_digest"]),
        ("/weights/model.json", "", ["model.json", "all its files"]),
        ("model/mlflow_model.py", "code/", ["its code", "all its files"]),
        ("model/network.py", "code/", ["its code", "all its files"]),
        ("artifacts/MLmodel", "", ["all its files"]),
        ("model_card.json", "", ["model card"]),
        ("artifacts/test_metrics.json", "mlflow", ["test_metrics.json"]),
    ],
)
def test_what_was_altered_is_named(trace, alter, ending, below, names):
    alter(ending, lambda blob: blob.replace(b"{", b"{ ", 1) if ending.endswith("json") else blob + b"\n", below)
    code, out = trace()
    assert code == 1
    changed = re.search(r"^CHANGED since registration: (.*)$", out, re.MULTILINE)[1]
    assert changed.split(", ") == names, out


@pytest.mark.parametrize("name", ["scans/volumes/__init__.py", "model/sitecustomize.py"])
def test_a_file_that_was_added_to_the_code_is_named(trace, version, name):
    """A package of a module's name is imported in the place of that module."""
    model_id = version.source.rpartition("/")[2]
    storage = Storage(f"s3://{work_bucket()}")
    (packed,) = (o.key for o in storage.list() if model_id in o.key and o.key.endswith("/model/network.py"))
    added = packed.replace("model/network.py", name)
    storage.put(added, b"print('here')\n")
    try:
        code, out = trace()
    finally:
        storage.delete([added])
    assert code == 1
    assert re.search(r"^CHANGED since registration: its code, all its files$", out, re.MULTILINE), out


@pytest.mark.parametrize(
    "change",
    [
        lambda split: split["patients"]["test"].append("sub-9"),
        lambda split: split["cases"]["train"].append(split["cases"]["test"].pop()),
        lambda split: split.clear(),
    ],
    ids=["a patient more", "a scan in another subset", "emptied"],
)
def test_an_altered_split_is_named(trace, alter, change, version):
    def altered(blob: bytes) -> bytes:
        split = json.loads(blob)
        change(split)
        return json.dumps(split).encode()

    alter("split.json", altered, version.run_id)
    code, out = trace()
    assert code == 1
    assert re.search(r"^CHANGED since registration: split.json$", out, re.MULTILINE), out


def test_altered_digests_of_the_scans_are_named_and_so_are_tags_that_were_moved(trace, alter, version):
    alter("artifacts/cases.json", lambda blob: blob.replace(b"voxel_sha256", b"voxel-sha256", 1), "mlflow")
    mlflow.MlflowClient().set_model_version_tag(MODEL_NAME, version.version, "weights_sha256", "0" * 64)
    try:
        code, out = trace()
    finally:
        weights = version.tags["weights_sha256"]
        mlflow.MlflowClient().set_model_version_tag(MODEL_NAME, version.version, "weights_sha256", weights)
    assert code == 1
    assert "decision 1 is for another weights_sha256" in out
    assert re.search(r"registration: ledger entry, best_model.pth, .*cases.json", out), out


@pytest.fixture
def in_mlflow(here, version):
    """in_mlflow(tag, value) changes a tag of the version, or its description, for one test."""
    client = mlflow.MlflowClient()

    def do(tag: str, value: str) -> None:
        if tag == "description":
            client.update_model_version(MODEL_NAME, version.version, value)
        else:
            client.set_model_version_tag(MODEL_NAME, version.version, tag, value)

    yield do
    client.update_model_version(MODEL_NAME, version.version, version.description)
    now = client.get_model_version(MODEL_NAME, version.version)
    for tag, value in version.tags.items():
        if now.tags[tag] != value:
            client.set_model_version_tag(MODEL_NAME, version.version, tag, value)


@pytest.mark.parametrize(
    ("tag", "value", "names"),
    [
        ("test_dice_mean", "0.99", ["ledger entry", "the card's numbers", "its numbers"]),
        ("test_patients", "100", ["ledger entry", "the card's numbers", "its numbers"]),
        ("test_better_than_rule", "2.0", ["ledger entry", "its numbers"]),
        ("decision", "promoted", ["ledger entry"]),
        ("description", "The best model.", ["description"]),
    ],
)
def test_what_was_altered_in_mlflow_is_named_by_lineage_and_champion(
    trace, in_mlflow, version, tmp_path, capsys, tag, value, names
):
    mlflow.MlflowClient().set_registered_model_alias(MODEL_NAME, "champion", version.version)
    try:
        promotion.champion(tmp_path)
        before = capsys.readouterr().out
        in_mlflow(tag, value)
        code, out = trace()
        promotion.champion(tmp_path)
        after = capsys.readouterr().out
    finally:
        mlflow.MlflowClient().delete_registered_model_alias(MODEL_NAME, "champion")
    changed = re.search(r"^CHANGED since registration: (.*)$", out, re.MULTILINE)[1].split(", ")
    assert code == 1 and [name for name in changed if name != "champion"] == names
    assert "champion" in changed, "by the ledger none is"
    assert after.count("WRONG: ") > before.count("WRONG: ") == 1 and "not checked: " not in before


def test_data_that_grew_are_said_and_the_old_scans_are_found_as_they_were(trace, here):
    storage = Storage(SCANS)
    storage.put("sub-7/ses-0001/dwi/sub-7_ses-0001_dwi.nii.gz", b"new")
    try:
        code, out = trace()
    finally:
        storage.delete(["sub-7/ses-0001/dwi/sub-7_ses-0001_dwi.nii.gz"])
    assert (code, links(out, "CHANGED")) == (0, [])
    assert "other files were added, removed or changed since; every file of the scans below is unchanged" in out


def test_one_scan_that_is_gone_is_not_reached(trace, alter):
    alter("sub-3_ses-0001_msk.nii.gz", gone, "data/lineage")
    out = trace()[1]
    (line,) = (x for x in links(out, "NOT REACHED") if "sub-3" in x)
    assert line.endswith("sub-3_ses-0001_msk.nii.gz: the file is missing")
    assert "Not verified, for the reasons above: " in out and "sub-3_ses-0001" in out.splitlines()[-1]


def test_data_that_are_gone_altogether_are_not_reached_and_the_rest_is_verified(trace, alter):
    alter("", gone, "data/lineage/")
    code, out = trace()
    assert code == 0
    assert f"nothing is stored under {SCANS} now" in out
    assert out.splitlines()[-1].startswith("Not verified, for the reasons above: ")
    assert "data_version, sub-0_ses-0001 (3 files)" in out.splitlines()[-1]
    assert "OK           best_model.pth" in out


def test_a_bucket_that_is_gone_is_not_reached(trace, alter):
    alter("artifacts/cases.json", lambda blob: blob.replace(work_bucket().encode(), b"no-such-bucket"), "mlflow")
    out = trace()[1]
    assert "NOT REACHED  data_version" in out and "the bucket 'no-such-bucket' does not exist" in out


def test_a_run_that_is_gone_leaves_the_model_to_be_verified(trace, alter):
    for name in ("cases.json", "split.json", "test_metrics.json", "model_card.json"):
        alter(f"/{name}", gone, "mlflow")
    code, out = trace()
    assert code == 0
    assert [line.split()[2] for line in links(out, "NOT REACHED") if "MLflow run" in line][:1] == ["model"]
    assert "OK           best_model.pth" in out
    assert "every case" in out.splitlines()[-1] and "split.json" in out.splitlines()[-1]


@pytest.mark.parametrize("model", [f"models:/{MODEL_NAME}/99", f"models:/{MODEL_NAME}@nobody", "models:/other/1", ""])
def test_a_version_that_is_none_is_answered_in_words(trace, model):
    with pytest.raises(StepError, match=r"make lineage MODEL="):
        trace(model)


def test_code_of_another_commit_cannot_be_verified_and_the_way_to_it_is_said(trace, monkeypatch, version):
    monkeypatch.setattr("pipelines.models.lineage.image", lambda step: "dwi-stroke-python-train:ffffffffffffffff")
    monkeypatch.setattr("components.core.code_closure.steps_digest", lambda *steps: "f" * 64)
    monkeypatch.setattr("pipelines.models.lineage.commit", lambda: "e" * 40)
    code, out = trace()
    (line,) = (x for x in links(out, "NOT REACHED") if image("train") in x)
    assert code == 0 and "this checkout has other code" in line


def test_the_same_commit_that_gives_another_image_is_a_change(trace, monkeypatch, version):
    monkeypatch.setattr("pipelines.models.lineage.image", lambda step: "dwi-stroke-python-train:ffffffffffffffff")
    monkeypatch.setattr("pipelines.models.lineage.commit", lambda: "e" * 40)
    mlflow.MlflowClient().set_model_version_tag(MODEL_NAME, version.version, "git_commit", "e" * 40)
    try:
        code, out = trace()
    finally:
        mlflow.MlflowClient().set_model_version_tag(
            MODEL_NAME, version.version, "git_commit", version.tags.get("git_commit", "")
        )
    assert code == 1
    assert any("the same commit gives" in x for x in links(out, "CHANGED"))


def test_the_card_is_in_the_registry_entry_and_whole_in_the_run(here, version, artifacts):
    run = Run(mlflow.MlflowClient(), version.run_id)
    first = version.description.splitlines()[0]
    assert re.match(r"(Not better .*\. )?Dice \d\.\d{3} \(.*\) on (the )?\d held-out .*\. Research use only\.$", first)
    assert "## Out of scope" in version.description and len(version.description) <= card_text.DESCRIPTION_LIMIT
    text = mlflow.artifacts.load_text(f"runs:/{run.id}/model_card/model_card.md")
    card = Card.model_validate_json(mlflow.artifacts.load_text(f"runs:/{run.id}/model_card/model_card.json"))
    assert text == card_text.markdown(card, first)
    assert card.versions.weights_sha256 == file_sha256(artifacts[0] / "best_model.pth")
    assert (card.data.patients, card.data.data_source, card.versions.image_tag) == (6, SCANS, image("train"))
    assert card.data.voxel_mm == [[2, 2], [2, 2], [5, 5]] and card.data.shape == [[32, 32], [24, 24], [5, 5]]


def test_registering_again_makes_no_new_version_and_leaves_card_and_run(here, version, artifacts, monkeypatch):
    client = mlflow.MlflowClient()
    before = client.get_run(version.run_id).to_dictionary()
    assert before["info"]["status"] == "FINISHED"
    monkeypatch.setenv("KFP_RUN_ID", "another pipeline run")
    again = register(*artifacts)
    assert (again["version"], again["run_id"]) == (str(version.version), version.run_id)
    assert client.get_run(version.run_id).to_dictionary() == before
    tags = client.get_model_version(MODEL_NAME, version.version).tags
    assert tags["pipeline_runs"].split(",")[-2:] == ["lineage", "another pipeline run"]
    assert mlflow.MlflowClient().get_model_version(MODEL_NAME, version.version).description == version.description


@pytest.mark.parametrize("name", FOUND)
def test_an_evaluation_without_a_part_is_not_registered(here, version, artifacts, tmp_path, name):
    measured = json.loads((artifacts[1] / "test_metrics.json").read_text())
    lacking = shutil.copytree(artifacts[1], tmp_path / "evaluation")
    (lacking / "test_metrics.json").write_text(json.dumps(measured | {name: {}}))
    with pytest.raises(StepError, match=rf"test_metrics\.json: the field {name}\.|not registered:\n.*{name}"):
        register(artifacts[0], lacking)
    assert len(mlflow.MlflowClient().search_model_versions(f"name = '{MODEL_NAME}'")) == 1


@pytest.mark.parametrize(
    ("folder", "name", "alter"),
    [
        (1, "comparison.json", lambda facts: facts | {"reason": "", "pairs": {}}),
        (1, "test_metrics.json", lambda facts: facts | {"summary": facts["summary"] | {"test_patients": 99}}),
        (1, "authentication.json", lambda code: {"key": code["key"], "hmac": "0" * 64}),
        (1, "authentication.json", lambda code: [code]),
        (0, "model.json", lambda facts: facts | {"threshold": 0.99}),
    ],
    ids=["the comparison", "the measures", "the code", "the code's form", "the model's facts"],
)
def test_what_was_altered_between_evaluate_and_register_is_not_registered(
    here, version, artifacts, tmp_path, folder, name, alter
):
    altered = [shutil.copytree(path, tmp_path / path.name) for path in artifacts]
    path = altered[folder] / name
    path.write_text(json.dumps(alter(json.loads(path.read_text()))))
    before = Ledger().storage.list()
    with pytest.raises(StepError, match=r"does not match its authentication code: .* Nothing was registered"):
        register(*altered)
    assert Ledger().storage.list() == before
    assert len(mlflow.MlflowClient().search_model_versions(f"name = '{MODEL_NAME}'")) == 1


@pytest.mark.parametrize("name", ["best_model.pth", "best_model.safetensors"])
@pytest.mark.parametrize("alter", [lambda file: file.write_bytes(file.read_bytes()[:-1]), Path.unlink])
def test_weights_that_were_altered_or_removed_there_are_not_registered(here, version, artifacts, tmp_path, name, alter):
    model = shutil.copytree(artifacts[0], tmp_path / "model")
    alter(model / name)
    with pytest.raises((StepError, FileNotFoundError), match=rf"does not match its authentication code|{name}"):
        register(model, artifacts[1])
    assert len(mlflow.MlflowClient().search_model_versions(f"name = '{MODEL_NAME}'")) == 1


def test_a_training_that_does_not_say_its_image_is_not_registered(here, version, artifacts, tmp_path):
    model = shutil.copytree(artifacts[0], tmp_path / "model")
    facts = json.loads((model / "model.json").read_text())
    del facts["lineage"]["image_tag"]
    (model / "model.json").write_text(json.dumps(facts))
    with pytest.raises(StepError, match=r"versions\.image_tag is empty"):
        register(model, artifacts[1])
