"""The image's program, run in this process: what it writes, and what it refuses."""

import csv
import errno
import json
import re
import shutil
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pandas as pd
import pydicom
import pytest
import torch

from components.artifacts.synthetic import WARNING
from components.artifacts.trained_model import TENSORS, WEIGHTS
from components.core.local_files import file_sha256
from components.ensemble.ensemble import ensemble
from components.model.inference import load_model
from components.model.mlflow_model import LesionSegmenter
from components.model.network import AttentionUNet
from components.model.segment_scan import segment_scan
from components.scans.prediction_mark import read_mark
from components.scans.volumes import BadVolume
from components.train.write_model import write_weights
from pipelines.predict import bids_app
from pipelines.predict.packed_model import Package
from pipelines.predict.shareable import write_model
from tests.support.dicom_studies import Study, write_series
from tests.support.folds import split_into_folds, write_networks
from tests.support.trained import trained

LAS_2X2X5_MM = np.diag([-2.0, 2.0, 5.0, 1.0])
MASK = "sub-{0}/ses-1/dwi/sub-{0}_ses-1_space-orig_label-L_mask.nii.gz"
CARD = f"# A model\n\nA line that is longer than a terminal is wide, and is not wrapped: {'long ' * 30}\n"


@pytest.fixture
def package(tmp_path):
    """package(bias=..., **facts): the folder of a packed small network; `bias` moves all its logits."""

    def make(bias: float = 0.0, synthetic: bool = False, **facts):
        folder = tmp_path / "package"
        (folder / "model").mkdir(parents=True)
        torch.manual_seed(0)
        network = AttentionUNet(4, 6 if facts.get("inputs") == "dwi+adc" else 3)
        torch.nn.init.constant_(network.head.bias, bias)
        write_weights(network.state_dict(), folder / "model")
        digest = file_sha256(folder / "model" / "best_model.safetensors")
        trained(tensors_sha256=digest, **facts).write(folder / "model")
        (folder / "model_card.md").write_text(CARD)
        files = [path for path in folder.rglob("*") if path.is_file()]
        described = Package(
            image="dwi-stroke/segment:3", uri="models:/dwi-attention-unet/3", version="3", model_sha256="a" * 64,
            code_sha256="b" * 64, commit="c" * 40, synthetic=synthetic,
            files={path.relative_to(folder).as_posix(): file_sha256(path) for path in files},
        )  # fmt: skip
        (folder / "package.json").write_text(described.model_dump_json())
        return folder

    return make


@pytest.fixture
def scans(tmp_path, make_scan):
    """A data set of BIDS: three participants, each with an ADC map."""
    for seed, label in enumerate(("01", "02", "X3")):
        folder = tmp_path / "in" / f"sub-{label}" / "ses-1" / "dwi"
        folder.mkdir(parents=True)
        dwi, adc, _ = make_scan(seed)
        for kind, data in (("dwi", dwi), ("adc", adc)):
            nib.save(nib.Nifti1Image(data, LAS_2X2X5_MM), folder / f"sub-{label}_ses-1_{kind}.nii.gz")
    return tmp_path / "in"


@pytest.fixture
def app(tmp_path, package, capsys, caplog):
    """app(source, *options) -> (exit code, all that was said), with results in `tmp_path/out`."""
    made = []

    def run(source, *options, **facts):
        made.append(made[0] if made else package(**{"bias": 100.0, **facts}))
        caplog.set_level("INFO")
        caplog.clear()
        code = bids_app.main([str(source), str(tmp_path / "out"), "participant", *options], made[0])
        said = capsys.readouterr()
        return code, said.out + said.err + caplog.text

    return run


def files(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def table(folder):
    with (folder / "predictions.csv").open(encoding="utf-8-sig", newline="") as file:
        return {row["case"]: row for row in csv.DictReader(file)}


@pytest.mark.parametrize(("inputs", "threshold"), [("dwi", 0.5066), ("dwi+adc", 0.4768)])
def test_masks_and_probabilities_are_those_of_the_registered_model(app, scans, tmp_path, inputs, threshold):
    """About half of the voxels are above the thresholds."""
    code, said = app(scans, "--probability", inputs=inputs, threshold=threshold, bias=0.0, temperature=2.0)
    assert code == 0, said
    registered = LesionSegmenter()
    registered.load_context(SimpleNamespace(artifacts={"weights": str(tmp_path / "package" / "model")}))
    for label in ("01", "02", "X3"):
        folder = scans / f"sub-{label}" / "ses-1" / "dwi"
        sent = {"scan": [(folder / f"sub-{label}_ses-1_dwi.nii.gz").read_bytes()]}
        if inputs == "dwi+adc":
            sent["adc"] = [(folder / f"sub-{label}_ses-1_adc.nii.gz").read_bytes()]
        (row,) = registered.predict(None, pd.DataFrame(sent), {"probability": True}).to_dict("records")
        mask = tmp_path / "out" / MASK.format(label)
        assert 0 < np.asarray(nib.load(mask).dataobj).mean() < 1
        assert mask.read_bytes() == row["mask"]
        assert mask.with_name(mask.name.replace("_mask", "_probseg")).read_bytes() == row["probability"]


def test_results_are_a_derivative_of_bids(app, scans, tmp_path):
    assert app(scans)[0] == 0
    out = tmp_path / "out"
    masks = {MASK.format(label) for label in ("01", "02", "X3")}
    sidecars = {name.replace(".nii.gz", ".json") for name in masks}
    assert files(out) == masks | sidecars | {
        "dataset_description.json", ".bidsignore", "predictions.csv", "predictions.html",
    }  # fmt: skip
    described = json.loads((out / "dataset_description.json").read_text())
    assert described["DatasetType"] == "derivative" and re.fullmatch(r"1\.\d+\.\d+", described["BIDSVersion"])
    (made_by,) = described["GeneratedBy"]
    assert (made_by["Name"], made_by["Version"]) == ("dwi-stroke-segment", "3")
    assert made_by["Container"] == {"Type": "docker", "Tag": "dwi-stroke/segment:3"}
    assert described["DatasetLinks"] == {"raw": scans.as_uri()}
    assert (out / ".bidsignore").read_text().split() == ["predictions.csv", "predictions.html"]
    sidecar = json.loads((out / MASK.format("X3").replace(".nii.gz", ".json")).read_text())
    assert sidecar["Type"] == "Lesion" and sidecar["Sources"] == ["bids:raw:sub-X3/ses-1/dwi/sub-X3_ses-1_dwi.nii.gz"]
    assert sidecar["LesionVolumeMl"] == pytest.approx(32 * 24 * 5 * 20 / 1000) and sidecar["ResearchUseOnly"]
    row = table(out)["sub-X3_ses-1"]
    assert row["mask"] == MASK.format("X3") and row["needs_review"] == sidecar["NeedsReview"] == "unknown"
    assert read_mark(out / row["mask"]).digest == row["voxels"]


def test_the_bids_derivative_is_segmented_again_and_a_corrected_mask_stays(app, scans, tmp_path):
    assert app(scans)[0] == 0
    mask = tmp_path / "out" / MASK.format("02")
    before = mask.read_bytes()
    assert app(scans)[0] == 0 and mask.read_bytes() == before
    corrected = nib.load(mask)
    voxels = np.asarray(corrected.dataobj).copy()
    voxels[:10] = 0
    nib.save(nib.Nifti1Image(voxels, corrected.affine, corrected.header), mask)
    code, said = app(scans)
    assert code == 1 and f"{mask} was changed" in said and "--overwrite" in said
    assert app(scans, "--overwrite")[0] == 0 and mask.read_bytes() == before


def test_the_data_set_of_another_program_is_not_written_into(app, scans, tmp_path):
    (tmp_path / "out").mkdir()
    for text in (json.dumps({"Name": "raw"}), json.dumps({"GeneratedBy": [{"Name": "fMRIPrep"}]}), "no JSON", "[]"):
        (tmp_path / "out" / "dataset_description.json").write_text(text)
        code, said = app(scans)
        assert code == 1 and "another program. Name another output folder" in said
        assert files(tmp_path / "out") == {"dataset_description.json"}


@pytest.mark.parametrize("option", ["--participant-label", "--participant_label"])
def test_participants_are_chosen_by_their_labels_and_leave_the_others_alone(app, scans, tmp_path, option):
    out = tmp_path / "out"
    assert app(scans, option, "01")[0] == 0
    assert app(scans, option, "02", "sub-X3")[0] == 0
    for label in ("01", "02", "X3"):
        rows = table(out / f"sub-{label}")
        assert [(case, f"sub-{label}/{row['mask']}") for case, row in rows.items()] == [
            (f"sub-{label}_ses-1", MASK.format(label))
        ]
        assert (out / MASK.format(label)).exists() and (out / MASK.format(label).replace(".nii.gz", ".json")).exists()
    assert json.loads((out / "dataset_description.json").read_text())["DatasetType"] == "derivative"
    assert not (out / "predictions.csv").exists()


def test_calls_for_two_participants_run_at_the_same_time(app, scans, tmp_path, monkeypatch):
    inner = []

    def meanwhile(*arguments, **options):
        if not inner:
            inner.append(None)
            inner[0] = app(scans, "--participant-label", "02")[0]
        return segment_scan(*arguments, **options)

    monkeypatch.setattr("pipelines.predict.packed_model.segment_scan", meanwhile)
    assert app(scans, "--participant-label", "01")[0] == 0 and inner == [0]
    assert all((tmp_path / "out" / MASK.format(label)).exists() for label in ("01", "02"))


@pytest.mark.slow
def test_one_call_for_all_and_one_for_a_participant_replace_each_others_predictions(app, scans, tmp_path):
    mask = tmp_path / "out" / MASK.format("02")
    for options in ((), ("--participant-label", "02", "--probability"), ("--probability",), ()):
        code, said = app(scans, *options)
        assert code == 0, said
        assert mask.exists()
        for name in files(tmp_path / "out"):
            if name.endswith("_mask.json") or name.endswith("_probseg.json"):
                assert (tmp_path / "out" / name).with_suffix(".nii.gz").exists(), name
    mask.write_bytes(b"a person's")
    for options in ((), ("--participant-label", "02")):
        code, said = app(scans, *options)
        assert code == 1 and mask.read_bytes() == b"a person's" and str(mask) in said


def test_a_stop_ends_the_call_and_not_one_participant(app, scans, tmp_path, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("pipelines.predict.packed_model.segment_scan", stop)
    code, said = app(scans, "--participant-label", "01", "02")
    assert code == 130 and said.count("stopped after 0 of 1 scans") == 1
    assert app(scans)[0] == 130


def test_an_unknown_participant_is_named_and_the_others_are_segmented(app, scans, tmp_path):
    code, said = app(scans, "--participant-label", "9", "02")
    assert code == 1 and "9: there is no participant sub-9. There are: sub-01, sub-02, sub-X3" in said
    assert [path.name for path in (tmp_path / "out").glob("sub-*")] == ["sub-02"]


def test_a_refused_participant_is_reported_by_its_own_call(app, scans, tmp_path):
    (scans / "sub-01" / "ses-1" / "dwi" / "sub-01_ses-1_dwi.nii.gz").unlink()
    code, said = app(scans, "--participant-label", "X3")
    assert code == 0 and "sub-01" not in said
    code, said = app(scans, "--participant-label", "01")
    assert code == 1 and "refused    sub-01_ses-1" in said and "no scan could be segmented, 1 refused" in said


def test_only_a_data_set_of_bids_has_participants(app, tmp_path, make_scan):
    (tmp_path / "plain").mkdir()
    nib.save(nib.Nifti1Image(make_scan()[0], LAS_2X2X5_MM), tmp_path / "plain" / "a.nii.gz")
    code, said = app(tmp_path / "plain", "--participant-label", "a")
    assert code == 1 and "is no data set of BIDS" in said and not files(tmp_path / "out")


def test_a_folder_without_a_layout_gives_masks_by_name(app, scans, tmp_path, make_scan):
    plain = tmp_path / "plain"
    plain.mkdir()
    for name in ("a", "b"):
        nib.save(nib.Nifti1Image(make_scan()[0], LAS_2X2X5_MM), plain / f"{name}.nii.gz")
    assert app(plain)[0] == 0
    assert files(tmp_path / "out") == {"masks/a.nii.gz", "masks/b.nii.gz", "predictions.csv", "predictions.html"}
    shutil.rmtree(tmp_path / "out")
    assert app(plain / "b.nii.gz")[0] == 0
    assert files(tmp_path / "out") == {"masks/b.nii.gz", "predictions.csv", "predictions.html"}


def test_one_scan_takes_the_adc_map_beside_it(app, scans, tmp_path):
    folder = scans / "sub-01" / "ses-1" / "dwi"
    assert app(folder / "sub-01_ses-1_dwi.nii.gz", inputs="dwi+adc")[0] == 0
    assert files(tmp_path / "out" / "masks") == {"sub-01_ses-1_dwi.nii.gz"}
    (folder / "notes.txt").write_text("no scan")
    code, said = app(folder / "notes.txt")
    assert code == 1 and "notes.txt is not a DWI" in said


def test_what_cannot_be_segmented_ends_in_a_sentence(app, scans, tmp_path, monkeypatch):
    code, said = app(tmp_path / "nowhere")
    assert code == 1 and f"{tmp_path / 'nowhere'} does not exist. Mount the folder of your scans there" in said
    (tmp_path / "out").write_text("a file")
    code, said = app(scans)
    assert code == 1 and "is a file" in said and "Traceback" not in said
    (tmp_path / "out").unlink()
    monkeypatch.setattr(bids_app.os, "access", lambda path, mode: path != tmp_path)
    code, said = app(scans)
    assert code == 1 and f"{tmp_path / 'out'} cannot be written. Mount a folder of yours there" in said


def test_a_scan_that_looks_like_an_adc_map_needs_an_option(app, scans, tmp_path, monkeypatch):
    def refuse(*arguments):
        raise BadVolume(f"looks like an ADC map. {arguments[-1]}")

    monkeypatch.setattr("pipelines.predict.segmenter.require_dwi", refuse)
    code, said = app(scans)
    assert code == 1 and "--no-modality-check" in said and "SET=" not in said
    assert app(scans, "--no-modality-check")[0] == 0


def test_a_model_from_synthetic_scans_alone_is_called_so(app, scans, tmp_path):
    _, said = app(scans, synthetic=True)
    assert WARNING in said and "Research use only" in said
    assert "SYNTHETIC" in table(tmp_path / "out")["sub-01_ses-1"]["model"]


@pytest.mark.parametrize(
    ("option", "expected"),
    [("--card", CARD.splitlines()), ("--version", ["models:/dwi-attention-unet/3", "a" * 64, "Research use only"])],
)
def test_it_says_what_it_is_without_scans(package, capsys, option, expected):
    with pytest.raises(SystemExit) as end:
        bids_app.main([option], package())
    said = capsys.readouterr().out
    assert end.value.code == 0 and all(line in said for line in expected)


def test_there_is_no_level_of_the_group(package, capsys, tmp_path):
    with pytest.raises(SystemExit) as end:
        bids_app.main([str(tmp_path), str(tmp_path / "out"), "group"], package())
    assert end.value.code == 2 and "participant" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["model/best_model.safetensors", "model/model.json", "model_card.md", "package.json"])
@pytest.mark.parametrize("alter", ["changed", "removed"])
def test_an_altered_package_is_refused_before_anything_is_read(package, capsys, tmp_path, name, alter):
    folder = package()
    if alter == "removed":
        (folder / name).unlink()
    else:
        (folder / name).write_bytes((folder / name).read_bytes() + b"x")
    assert bids_app.main(["--version"], folder) == 1
    said = capsys.readouterr().err
    assert f"{folder / name}" in said and "make package" in said


def test_a_folder_of_dicom_gets_a_mask_and_the_answer_for_an_archive(app, make_scan, tmp_path):
    voxels = np.rint(make_scan(3)[0]).clip(0).astype(np.uint16)
    study = Study()
    write_series(tmp_path / "PAT1" / "S4", voxels, LAS_2X2X5_MM, study)
    write_series(tmp_path / "PAT1" / "S5", voxels // 2, LAS_2X2X5_MM, study, number=5)
    code, said = app(tmp_path / "PAT1", "--no-modality-check", "--series", "4", threshold=0.5065, bias=0.0)
    assert code == 0, said
    mask = np.asarray(nib.load(tmp_path / "out" / "masks" / "PAT1.nii.gz").dataobj)
    segmentation = pydicom.dcmread(tmp_path / "out" / "dicom" / "PAT1" / "segmentation.dcm")
    assert segmentation.StudyInstanceUID == study.uid and segmentation.Modality == "SEG"
    assert 0 < mask.sum() == segmentation.pixel_array.sum() < mask.size
    assert len(list((tmp_path / "out" / "dicom" / "PAT1" / "outline").iterdir())) == mask.shape[2]
    code, said = app(tmp_path / "PAT1", "--series", "9")
    assert code == 1 and "9" in said and "Traceback" not in said


def test_the_networks_of_an_ensemble_segment_as_one(package, scans, tmp_path):
    split, networks = split_into_folds(), tmp_path / "networks"
    folder = package()
    params = {"data_uri": "s3://hospital/a-ward", "epochs": 2}
    split.write(tmp_path / "split.json")
    ensemble(tmp_path / "split.json", write_networks(networks, split, params=params), tmp_path / "ensemble")
    for name in (WEIGHTS, TENSORS):
        shutil.copy(tmp_path / "ensemble" / name, folder / "model")
    write_model(tmp_path / "ensemble" / "model.json", folder / "model" / "model.json")
    assert "s3://" not in (folder / "model" / "model.json").read_text()
    facts = json.loads((folder / "package.json").read_text())
    facts["files"] = {name: file_sha256(folder / name) for name in facts["files"]}
    (folder / "package.json").write_text(json.dumps(facts))
    assert bids_app.main([str(scans), str(tmp_path / "out"), "participant", "--probability"], folder) == 0
    dwi = scans / "sub-01" / "ses-1" / "dwi" / "sub-01_ses-1_dwi.nii.gz"
    network, model = load_model(tmp_path / "ensemble")
    expected = segment_scan(network, model, dwi.read_bytes(), probability=True)
    mask = tmp_path / "out" / MASK.format("01")
    probability = mask.with_name(mask.name.replace("_mask", "_probseg"))
    assert len(network) == 3 and np.ptp(np.asarray(nib.load(probability).dataobj)) > 0
    assert (mask.read_bytes(), probability.read_bytes()) == (expected["mask"], expected["probability"])


def test_without_a_folder_for_temporary_files_it_says_how_to_get_one(app, scans, monkeypatch):
    def none():
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found")

    monkeypatch.setattr(bids_app.tempfile, "gettempdir", none)
    code, said = app(scans)
    assert code == 1 and "add --tmpfs /tmp" in said and "Traceback" not in said
