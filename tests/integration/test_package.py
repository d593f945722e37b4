"""What make package puts into an image, and that it segments as make predict does, with nothing else of ours."""

import contextlib
import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from components.artifacts.synthetic import TAG
from components.core.code_closure import MODEL, closure, closure_digest
from components.core.errors import StepError
from components.core.local_files import file_sha256
from components.register.card import load
from components.register.card_facts import make_card
from components.registry.tracking import MODEL_NAME
from pipelines.predict import package
from pipelines.predict.packed_model import Package
from pipelines.predict.registered_model import predict_folder
from tests.support import measured
from tests.support.trained import trained

pytestmark = pytest.mark.usefixtures("servers_here")

CHAMPION = f"models:/{MODEL_NAME}@champion"
ALONE = """
import sys
for name in ("mlflow", "kfp", "kfp_kubernetes", "kubernetes", "boto3", "pandas", "yaml", "matplotlib", "SimpleITK"):
    sys.modules[name] = None
from pipelines.predict.bids_app import main
sys.exit(main(sys.argv[2:], __import__("pathlib").Path(sys.argv[1])))
"""
HALF = {"bias": 0.0, "threshold": 0.5066}
"""A network that calls about half of the voxels lesion."""


@pytest.fixture
def scans(tmp_path, put):
    for name in ("a", "b"):
        put(tmp_path / "in" / f"sub-{name}" / "ses-1" / "dwi" / f"sub-{name}_ses-1_dwi.nii.gz")
    return tmp_path / "in"


@pytest.mark.slow
def test_the_staged_code_and_model_alone_give_the_masks_of_make_predict(champion, scans, tmp_path):
    number = champion(**HALF, params={"data_uri": "s3://hospital/a-ward"})
    staged = tmp_path / "staged"
    image, version = package.stage(CHAMPION, staged)
    assert (image, version) == (f"dwi-stroke/segment:{number}", number)
    code = {path.relative_to(staged / "code").as_posix() for path in (staged / "code").rglob("*") if path.is_file()}
    assert code == set(closure(package.ENTRY))
    command = [sys.executable, "-P", "-c", ALONE, staged / "package", scans, tmp_path / "out", "participant"]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(staged / "code"), "HOME": str(tmp_path)}
    done = subprocess.run([*command, "--probability"], env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    predict_folder(scans, tmp_path / "predicted", CHAMPION, tmp_path / "state", True)
    for name in ("a", "b"):
        ours = tmp_path / "out" / f"sub-{name}" / "ses-1" / "dwi" / f"sub-{name}_ses-1_space-orig_label-L"
        for kind, folder in (("mask", "masks"), ("probseg", "probabilities")):
            theirs = tmp_path / "predicted" / folder / f"sub-{name}_ses-1.nii.gz"
            assert Path(f"{ours}_{kind}.nii.gz").read_bytes() == theirs.read_bytes()
    tables = [table(tmp_path / folder) for folder in ("out", "predicted")]
    assert tables[0] == tables[1] and 0 < float(tables[0][0]["lesion_ml"]) < 32 * 24 * 5 * 20 / 1000


def table(folder: Path) -> list[dict[str, str]]:
    """The rows of its table, without the names of files."""
    with (folder / "predictions.csv").open(encoding="utf-8-sig", newline="") as file:
        return [{k: v for k, v in row.items() if k not in ("mask", "probability")} for row in csv.DictReader(file)]


@pytest.mark.slow
def test_the_package_knows_what_it_is_made_of(champion, registry, tmp_path):
    number = champion(**HALF)
    for tag, value in TAG.items():
        registry.set_model_version_tag(MODEL_NAME, number, tag, value)
    package.stage(f"models:/{MODEL_NAME}/{number}", tmp_path / "staged", registry="registry.example/team/")
    facts = Package.read(tmp_path / "staged" / "package")
    assert facts.image == f"registry.example/team/segment:{number}" and facts.uri == f"models:/{MODEL_NAME}/{number}"
    assert facts.model_sha256 == registry.get_model_version(MODEL_NAME, number).tags["model_sha256"]
    assert facts.code_sha256 == closure_digest(package.ENTRY) and facts.synthetic
    assert set(facts.files) == {
        "model/best_model.pth", "model/best_model.safetensors", "model/model.json", "model_card.md",
    }  # fmt: skip
    assert "Research use only" in (tmp_path / "staged" / "package" / "model_card.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("n4", [False, True])
def test_simpleitk_is_packed_for_a_model_that_uses_it(champion, tmp_path, n4):
    champion(**HALF, n4_bias_correction=n4)
    package.stage(CHAMPION, tmp_path / "staged")
    assert ("simpleitk==" in (tmp_path / "staged" / "requirements.txt").read_text()) == n4


@pytest.fixture
def card(registry, tmp_path):
    """card(number, content): give a version this model card."""

    def register(number: str, content: str) -> str:
        file = tmp_path / "model_card.json"
        file.write_text(content)
        run = registry.get_model_version(MODEL_NAME, number).run_id
        registry.log_artifact(run, str(file), "model_card")
        registry.set_model_version_tag(MODEL_NAME, number, "card_sha256", file_sha256(file))
        return file_sha256(file)

    return register


PLANTED = ("sub-01", "sub-21", "Somchai", "HN-4471", "s3://", "a-ward", "08_worst")


def measured_card(folder: Path) -> str:
    """A card in whose fields the names and addresses of `PLANTED` are, as JSON."""
    folder.mkdir()
    trained(**measured.trained()).write(folder)
    (folder / "best_model.pth").touch()
    (folder / "history.json").write_text(json.dumps(measured.HISTORY))
    scans = measured.listed(
        data_uri="s3://hospital/a-ward", refused={"sub-21": "Somchai.nii is broken", "HN-4471": "no mask"}
    )
    found = "sub-01 of s3://hospital/a-ward cannot be read"
    evaluation = measured.write_evaluation(folder / "evaluation", cases=scans, champion="2", model="m", reason=found)
    parent = {
        "parent": f"s3://hospital/a-ward/model#{'a' * 64}", "unknown": [], "reason": "Somchai was removed", "pairs": {},
        "differences": {},
    }  # fmt: skip
    (evaluation / "parent_comparison.json").write_text(json.dumps(parent))
    made = make_card(load(), folder, evaluation, {"torch": "2"}).model_dump_json()
    assert all(name in made for name in PLANTED)
    return made


def test_no_name_of_a_case_and_no_address_of_data_is_packed(champion, card, tmp_path):
    params = {"data_uri": "s3://hospital/a-ward", "start": "s3://hospital/a-ward/model", "epochs": 2}
    number = champion(**HALF, params=params)
    card(number, measured_card(tmp_path / "measured"))
    package.stage(CHAMPION, tmp_path / "staged")
    files = [path for path in (tmp_path / "staged" / "package").rglob("*") if path.is_file()]
    texts = {path.name: path.read_bytes() for path in files}
    assert not [(name, file) for name in PLANTED for file, text in texts.items() if name.encode() in text]
    said = texts["model_card.md"].decode()
    assert "**test scan 1**: Dice 0.350" in said and "**Refused:** 2\n" in said and "Siriraj" in said
    assert json.loads(texts["model.json"])["params"] == {"start": "left out", "epochs": 2}
    assert Package.read(tmp_path / "staged" / "package").files["model_card.md"]


@pytest.mark.slow
def test_a_card_of_older_code_is_not_packed_and_an_altered_one_is_refused(champion, registry, card, tmp_path):
    number = champion(**HALF)
    digest = card(number, json.dumps({"of": "older code", "worst": "Somchai"}))
    package.stage(CHAMPION, tmp_path / "staged")
    said = (tmp_path / "staged" / "package" / "model_card.md").read_text()
    assert "Somchai" not in said and digest in said
    registry.set_model_version_tag(MODEL_NAME, number, "card_sha256", "0" * 64)
    with pytest.raises(StepError, match=r"the model card of .* is not the one that was registered"):
        package.stage(CHAMPION, tmp_path / "staged")


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("models:/dwi-attention-unet/99", "there is no models:/dwi-attention-unet/99 in the registry"),
        ("models:/other/1", "is no version of dwi-attention-unet"),
        ("runs:/0123456789abcdef/model", "is no version of dwi-attention-unet"),
    ],
)
def test_what_is_no_version_is_not_packed(champion, tmp_path, address, reason):
    champion(**HALF)
    with pytest.raises(StepError, match=reason) as refusal:
        package.stage(address, tmp_path / "staged")
    assert "make package MODEL=" in str(refusal.value) and not (tmp_path / "staged").exists()


def test_without_a_champion_it_says_how_to_get_one(versionless, tmp_path):
    with pytest.raises(StepError, match="there is no champion"):
        package.stage(CHAMPION, tmp_path / "staged")


def test_a_version_that_differs_from_the_registry_is_not_packed(champion, registry, tmp_path):
    number = champion(**HALF)
    registry.set_model_version_tag(MODEL_NAME, number, "model_sha256", "0" * 64)
    with pytest.raises(StepError, match="was not loaded: a file of the model is not what was registered"):
        package.stage(CHAMPION, tmp_path / "staged")


@pytest.mark.slow
def test_a_version_without_our_weights_is_not_packed(old_champion, tmp_path):
    with pytest.raises(StepError, match=r"has no best_model\.pth with model\.json: it is too old"):
        package.stage(CHAMPION, tmp_path / "staged")


@pytest.mark.slow
def test_it_warns_where_the_version_was_registered_with_other_code(champion, registry, tmp_path, caplog):
    number = champion(**HALF)
    registry.set_model_version_tag(MODEL_NAME, number, "code_sha256", closure_digest(MODEL))
    package.stage(CHAMPION, tmp_path / "staged")
    assert "other code" not in caplog.text
    registry.set_model_version_tag(MODEL_NAME, number, "code_sha256", "0" * 64)
    package.stage(CHAMPION, tmp_path / "staged")
    assert "was registered with other code than this checkout's" in caplog.text


@pytest.mark.slow
def test_the_image_is_built_from_what_was_staged_and_nothing_is_left(champion, tmp_path, monkeypatch, capsys):
    number, asked = champion(**HALF), []

    def build(command):
        asked.append((command[1:], sorted(path.name for path in package.STAGED.iterdir())))
        with pytest.raises(StepError, match="another make package is running"):
            package.package(CHAMPION, tmp_path / "state")
        return SimpleNamespace(returncode=len(asked) - 1)

    monkeypatch.setattr(package, "STAGED", tmp_path / "staged")
    monkeypatch.setattr(package, "subprocess", SimpleNamespace(run=build))
    monkeypatch.setattr(package, "target", lambda _: SimpleNamespace(tracking=lambda _: contextlib.nullcontext()))
    package.package(CHAMPION, tmp_path / "state")
    assert asked == [(["--segment", number], ["code", "package", "requirements.txt"])]
    said = capsys.readouterr().out
    assert f"dwi-stroke/segment:{number} /in /out participant" in said and "Research use only" in said
    assert not package.STAGED.exists()
    with pytest.raises(StepError, match="the image was not built"):
        package.package(CHAMPION, tmp_path / "state", registry="registry.example")
    assert asked[1][0] == ["--segment", number, "registry.example"] and not package.STAGED.exists()
