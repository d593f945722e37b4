"""`make pipeline-run` on a laptop: one run to a registered model, and what a second run does and does not do again."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import mlflow
import nibabel as nib
import numpy as np
import pytest

from tests.support import planted

SMALL = "image_size=32 base_channels=4 epochs=2 batch_size=8"
ANOTHER = SMALL.replace("epochs=2", "epochs=1")
STEPS = {"fingerprint", "ingest", "preprocess", "split", "train", "evaluate", "register"}


def run(checkout, scans, settings=SMALL, *more) -> dict:
    checkout.python("run", "--data", str(scans), "--set", settings, *more)
    return checkout.last_run()


def decisions(checkout) -> list[str]:
    """What the ledger holds, in order."""
    entries = [json.loads(p.read_text()) for p in (checkout.state / "s3" / "dwi-stroke" / "ledger").glob("*.json")]
    return [e["decision"] for e in sorted(entries, key=lambda e: e["number"])]


def rerun_steps(summary: dict) -> set[str]:
    return {name for name, step in summary["steps"].items() if not step["cached"]}


@pytest.fixture(scope="session")
def second(checkout, scans, first) -> tuple[dict, str]:
    """The summary of a run with a changed parameter, which makes version 2, and what it printed."""
    out = checkout.python("run", "--data", str(scans), "--set", ANOTHER)
    return checkout.last_run(), out


@pytest.fixture
def client(checkout, first, monkeypatch) -> mlflow.MlflowClient:
    """A client of the checkout's MLflow."""
    for name, value in checkout.services().items():
        monkeypatch.setenv(name, value)
    return mlflow.MlflowClient()


def test_a_run_ends_with_a_registered_model_and_a_summary(checkout, first):
    assert first["status"] == "succeeded"
    assert first["target"] == "local" and first["preset"] == "demo"
    assert set(first["steps"]) == STEPS
    assert all(step["state"] == "succeeded" and not step["cached"] for step in first["steps"].values())
    assert first["model"] == {"name": "dwi-attention-unet", "version": "1", "aliases": "challenger,champion"}
    assert first["decision"] == (
        "the first champion, without a comparison; it learnt from synthetic scans alone, and the first version from "
        "patients that passes the policy's floors replaces it"
    )
    assert decisions(checkout) == ["first"]
    assert 0 <= first["metrics"]["test_dice_mean"] <= 1
    assert first["synthetic"] is True
    assert json.loads((checkout.state / "runs" / first["run_id"] / "summary.json").read_text()) == first


@pytest.mark.slow
def test_the_version_of_a_run_is_followed_to_its_scans(checkout, first):
    out = checkout.python("lineage", "--model", "models:/dwi-attention-unet/1")  # an exit code of 1 is an error
    assert re.search(r"^    OK +[0-9a-f]{64}  sub-\S+_dwi\.nii\.gz$", out, re.MULTILINE)
    assert " 0 CHANGED, 0 NOT REACHED" in out


def test_the_first_line_of_training_names_the_device_and_each_later_step_its_own(checkout, first):
    steps = (checkout.state / "runs" / first["run_id"] / "log.txt").read_text().split("=== ")
    said = {step.partition("\n")[0]: step.partition("\n}\n")[2].splitlines() for step in steps}
    assert said["train"][0].startswith("training on ")
    assert any(line.startswith("evaluating on ") for line in said["evaluate"])


def test_a_second_run_with_nothing_changed_comes_from_cache_and_makes_no_new_version(checkout, scans, first):
    out = checkout.python("run", "--data", str(scans), "--set", SMALL)
    second = checkout.last_run()
    assert rerun_steps(second) == {"fingerprint"}
    assert second["model"]["version"] == first["model"]["version"]
    assert "Nothing changed: every step came from cache" in out
    assert decisions(checkout) == ["first"]


@pytest.mark.slow
def test_a_changed_parameter_reruns_what_depends_on_it(second):
    summary, _ = second
    assert rerun_steps(summary) == {"fingerprint", "train", "evaluate", "register"}
    assert summary["model"] == {"name": "dwi-attention-unet", "version": "2", "aliases": "challenger"}


@pytest.mark.slow
def test_a_challenger_is_refused_on_too_few_patients_and_the_summary_says_so(checkout, second):
    """It was evaluated beside the first on the one test patient."""
    assert "champion stays version 1: 1 test patient is too few, the policy requires 10" in second[1]
    assert decisions(checkout) == ["first", "refused"]


@pytest.mark.slow
def test_a_refused_challenger_comes_from_cache_and_is_not_decided_about_again(checkout, scans, second):
    out = checkout.python("run", "--data", str(scans), "--set", ANOTHER)
    assert "champion stays version 1: 1 test patient is too few, the policy requires 10" in out
    assert rerun_steps(checkout.last_run()) == {"fingerprint"}
    assert decisions(checkout) == ["first", "refused"]


@pytest.mark.slow
def test_a_person_promotes_it_and_another_run_is_compared_with_it(checkout, scans, second):
    out = checkout.python("promote", "--model", "models:/dwi-attention-unet/2", "--reason", "to see")
    assert "dwi-attention-unet version 2 is champion" in out
    assert "The ledger is complete, and agrees with the registry." in out
    summary = run(checkout, scans)
    assert rerun_steps(summary) == {"fingerprint", "evaluate", "register"}
    assert summary["model"] == {"name": "dwi-attention-unet", "version": "1", "aliases": "challenger"}
    assert summary["decision"].startswith("champion stays version 2: 1 test patient")
    assert rerun_steps(run(checkout, scans)) == {"fingerprint"}
    assert "version 2: rolled back to version 1" in checkout.python("rollback")
    assert decisions(checkout) == ["first", "refused", "promoted by a person", "refused", "rolled back"]


@pytest.mark.slow
def test_an_alias_moved_by_hand_is_noticed_and_stops_no_run(checkout, scans, second, client):
    client.set_registered_model_alias("dwi-attention-unet", "champion", "2")
    assert run(checkout, scans)["status"] == "succeeded"
    out = checkout.python("champion", check=False)
    assert "WRONG: in the registry version 2 is champion, the ledger ends with version 1" in out


@pytest.mark.slow
def test_what_was_deleted_from_the_registry_is_registered_again(checkout, scans, client):
    client.delete_registered_model("dwi-attention-unet")
    summary = run(checkout, scans)
    assert rerun_steps(summary) == {"fingerprint", "register"}
    assert summary["model"] == {"name": "dwi-attention-unet", "version": "1", "aliases": "challenger,champion"}


@pytest.mark.slow
def test_a_changed_line_of_code_reruns_its_step_and_what_follows(checkout, scans, first):
    code = checkout.folder / "components" / "evaluate" / "metrics.py"
    code.write_text(code.read_text() + "\n# changed\n")
    assert rerun_steps(run(checkout, scans)) == {"fingerprint", "evaluate", "register"}


@pytest.mark.slow
def test_a_changed_scan_in_the_bucket_reruns_everything(checkout, scans, first):
    mask = next(scans.rglob("derivatives/**/*.nii.gz"))
    image = nib.load(mask)
    data = np.array(image.dataobj)
    data[tuple(n // 2 for n in data.shape)] = 1
    nib.save(nib.Nifti1Image(data, image.affine, image.header), mask)
    summary = run(checkout, scans)
    assert rerun_steps(summary) == STEPS
    assert summary["data_version"] != first["data_version"]


def test_the_registered_model_loads_from_the_registry_alone_and_takes_any_batch(checkout, scans, first, tmp_path):
    dwi = sorted(scans.rglob("*_dwi.nii.gz"))[:3]
    code = (
        "import sys, pathlib, mlflow, pandas as pd\n"
        "model = mlflow.pyfunc.load_model('models:/dwi-attention-unet/1')\n"
        "out = model.predict(pd.DataFrame({'scan': [pathlib.Path(p).read_bytes() for p in sys.argv[2:]]}))\n"
        "for i, mask in enumerate(out['mask']): pathlib.Path(sys.argv[1], f'{i}.nii.gz').write_bytes(mask)\n"
        "assert model.metadata.signature is not None and model.input_example is not None\n"
    )
    environment = {k: v for k, v in checkout.environment.items() if k != "PYTHONPATH"} | checkout.services()
    command = [sys.executable, "-c", code, str(tmp_path), *map(str, dwi)]
    subprocess.run(command, cwd=tmp_path, env=environment, check=True)
    for i, path in enumerate(dwi):
        scan, mask = nib.load(path), nib.load(tmp_path / f"{i}.nii.gz")
        assert mask.shape == scan.shape
        np.testing.assert_allclose(mask.affine, scan.affine, atol=1e-5)
        assert set(np.unique(mask.dataobj)) <= {0, 1}


@pytest.mark.slow
def test_predict_writes_a_mask_in_the_scans_own_space(checkout, scans, first, tmp_path):
    scan = next(scans.rglob("*_dwi.nii.gz"))
    out = checkout.python("predict", "--input", str(scan), "--output", str(tmp_path / "mask.nii.gz"))
    assert "mL of lesion" in out
    assert nib.load(tmp_path / "mask.nii.gz").shape == nib.load(scan).shape


def test_the_mlflow_run_holds_what_a_reader_looks_for(first, client):
    run = client.get_run(first["mlflow_run_id"])
    params, metrics = run.data.params, run.data.metrics
    assert run.info.status == "FINISHED"
    assert [m.step for m in client.get_metric_history(run.info.run_id, "val_dice")] == [1, 2]
    assert params["image_size"] == "(32, 32)"
    assert set(first["settings"]) | {"data_uri", "model_params", "device", "train_patients", "train_slices"} <= set(
        params
    )
    assert {"train_loss", "train_dice", "val_loss", "val_dice", "learning_rate"} <= set(metrics)
    assert {"test_dice_mean", "test_dice_std", "test_iou_mean", "test_iou_std"} <= set(metrics)
    assert {"kfp_run_id", "image_tag", "data_version", "split_digest"} <= set(run.data.tags)
    files = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert {"training_curve.png", "best_model.pth", "test_metrics.json", "split.json", "data_report.html"} <= files
    assert client.list_artifacts(run.info.run_id, "test_predictions")


def with_two_labels(scans: Path, folder: Path) -> Path:
    """A copy of the scans in which two patients have a lesion mask: too few to learn from."""
    shutil.copytree(scans, folder)
    for mask in sorted((folder / "derivatives").rglob("*.nii.gz"))[2:]:
        mask.unlink()
    return folder


@pytest.mark.slow
def test_a_failing_steps_own_message_comes_last(checkout, demo_scans, first):
    with_two_labels(demo_scans, checkout.state / "s3" / "dwi-stroke" / "few")
    process = checkout.start("run", "--data", "s3://dwi-stroke/few", "--set", SMALL)
    out, _ = process.communicate()
    assert process.returncode == 1
    assert "3 labelled patients with a lesion are needed" in out.splitlines()[-1]
    assert "Traceback" not in out
    summary = checkout.last_run()
    assert summary["status"] == "failed"
    assert summary["steps"]["ingest"]["state"] == "failed"


@pytest.mark.slow
def test_a_folder_that_no_run_could_learn_from_is_refused_before_it_is_uploaded(checkout, scans, tmp_path, first):
    before = checkout.last_run()
    process = checkout.start("run", "--data", str(with_two_labels(scans, tmp_path / "few")), "--set", SMALL)
    out, _ = process.communicate()
    assert process.returncode == 1
    assert "3 labelled patients with a lesion are needed" in out.splitlines()[-1]
    assert "Traceback" not in out
    assert checkout.last_run() == before
    assert not list((checkout.state / "s3" / "dwi-stroke" / "data").glob("few-*"))


@pytest.mark.sampled(5)
@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["--set", "epoch=3"], "did you mean 'epochs'"),
        (["--set", "image_size=100"], "96"),
        (["--preset", "demoo"], "did you mean 'demo'"),
        (["--data", "/no/such/folder"], "is not a folder"),
        (["--data", "s3://no-such-bucket-here/x"], "no-such-bucket-here"),
    ],
)
def test_a_mistake_on_the_command_line_is_answered_in_words(checkout, first, arguments, hint):
    process = checkout.start("run", *arguments)
    out, _ = process.communicate()
    assert process.returncode == 1
    assert hint in out.splitlines()[-1]
    assert "Traceback" not in out


@pytest.mark.slow
def test_check_data_changes_nothing_and_writes_a_page(checkout, scans, first):
    before = {p: p.stat().st_mtime_ns for p in scans.rglob("*")}
    out = checkout.python("check-data", "--data", str(scans))
    assert {p: p.stat().st_mtime_ns for p in scans.rglob("*")} == before
    assert "6 labelled scans of 6 patients (1 lesion-free)" in out
    page = (checkout.state / "data-report.html").read_text()
    assert page.count("data:image/jpeg") == 6 and "synthetic" in page


def test_no_secret_is_in_what_a_run_leaves_behind(checkout, first):
    secret = json.loads((checkout.state / "credentials.json").read_text())
    planted = [v.encode() for v in secret.values() if len(str(v)) > 12]
    assert planted
    for path in [p for p in checkout.state.rglob("*") if p.is_file() and p.name != "credentials.json"]:
        content = Path(path).read_bytes()
        assert not any(value in content for value in planted), path


def test_no_word_of_a_header_is_in_what_a_run_leaves_behind(checkout, scans, first):
    """But for the upload, which mirrors the folder."""
    uploaded = checkout.state / "s3" / "dwi-stroke" / "data"
    assert {word for _, word in planted.places(uploaded, planted.IN_HEADERS)[0]} == set(planted.IN_HEADERS)
    assert planted.found(checkout.folder, planted.IN_HEADERS, but=[uploaded, checkout.folder / "tests"]) == []
