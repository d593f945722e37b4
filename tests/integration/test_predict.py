"""A scan, and a folder of scans, through a registered model: what comes out, and what is refused."""

import _pickle
import contextlib
import csv
import fcntl
import gzip
import html
import os
import pickle
import re
import shutil
import tempfile
from pathlib import Path
from types import SimpleNamespace

import cloudpickle
import joblib
import mlflow
import nibabel as nib
import numpy as np
import pytest
import torch
from torch import _weights_only_unpickler

from components.artifacts.synthetic import TAG, WARNING
from components.core.errors import StepError
from components.core.storage import Storage, work_bucket
from components.ingest.discover import discover
from components.ingest.ingest import check
from components.model.gpu_advice import describe_device
from components.model.uncertainty import Assessment
from components.registry.tracking import MODEL_NAME
from components.scans.prediction_mark import digest, read_mark
from pipelines.predict.registered_model import RegisteredSegmenter, predict_folder
from pipelines.predict.scan import predict_scan
from pipelines.predict.verified_model import fetch
from tests.support.browser import launch

pytestmark = pytest.mark.usefixtures("servers_here")

CHAMPION = f"models:/{MODEL_NAME}@champion"
SPELLINGS = (
    "models:/{name}/{number}", "models:/{name}/{number}/", "models:/{name}/0{number}", "models:/{name}/latest",
    "models:/{name}/LATEST", "models:/{name}@champion", "models:/{name}@champion//", " models:/{name}/{number} ",
    "Models:/{name}/{number}", "models:/{id}", "models:/{id}/", "runs:/{run}/model", "RUNS:/{run}/model",
)  # fmt: skip
"""Of one model's address."""
NO_ADDRESSES = (
    "models:/{name}/{number}?x=1", "models:/{name}/{number}#x", "models:/{name}/./{number}", "models:/{id}/model.py",
    "models://{name}/{number}", "models:/{name}/../{name}/{number}", "models:/{name}/Production", "models:/{name}",
    "models:{name}/{number}", "models:/{name}/%31", "models:/%64wi-attention-unet/{number}", "models:/{name}@",
    "models:/{name}@champion@champion", "models:/{name}'/latest", "models:/", "runs:/{run}", "runs://{run}/model",
    "models:/{name}/{number}\n/x", "models:/{name}@\x1b[2J", "",
)  # fmt: skip


@pytest.fixture
def segment(tmp_path):
    """segment(source) -> the rows of predictions.csv by case, of the folder `tmp_path/out`."""

    def run(source: Path, probability: bool = False) -> dict[str, dict]:
        predict_folder(source, tmp_path / "out", CHAMPION, tmp_path / "state", probability)
        return table(tmp_path / "out")

    return run


def table(folder: Path) -> dict[str, dict]:
    with (folder / "predictions.csv").open(encoding="utf-8-sig", newline="") as file:
        return {row["case"]: row for row in csv.DictReader(file)}


def files(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


class TestOneScan:
    def test_the_mask_lies_where_the_scan_does_and_the_volume_is_told(self, champion, put, tmp_path, capsys, caplog):
        version = champion(bias=100.0)
        caplog.set_level("INFO")
        scan = put(tmp_path / "scan.nii.gz")
        predict_scan(scan, None, tmp_path / "mask.nii.gz", CHAMPION, tmp_path / "state", False)
        mask = nib.load(tmp_path / "mask.nii.gz")
        assert np.array_equal(mask.affine, nib.load(scan).affine) and np.asarray(mask.dataobj).all()
        said = capsys.readouterr().out
        assert f"{32 * 24 * 5 * 20 / 1000:.2f} mL of lesion (models:/{MODEL_NAME}/{version}, MLflow run " in said
        assert "Research use only" in said
        assert f"segmenting on {describe_device()}" in caplog.messages

    def test_probabilities_go_beside_the_mask(self, champion, put, tmp_path):
        champion(bias=100.0)
        predict_scan(put(tmp_path / "a.nii"), None, tmp_path / "m.nii.gz", CHAMPION, tmp_path / "state", True)
        probability = nib.load(tmp_path / "m_probability.nii.gz")
        assert probability.get_data_dtype() == np.float32
        np.testing.assert_allclose(probability.get_fdata(), 1)

    def test_an_output_that_is_an_input_is_refused(self, put, tmp_path):
        scan = put(tmp_path / "m_probability.nii.gz")
        with pytest.raises(StepError, match="is an input"):
            predict_scan(scan, None, tmp_path / "m.nii.gz", CHAMPION, tmp_path, True)
        with pytest.raises(StepError, match="is an input"):
            predict_scan(scan, None, scan, CHAMPION, tmp_path, False)

    def test_a_refused_scan_leaves_nothing(self, champion, put, tmp_path):
        champion()
        scan = put(tmp_path / "scan.nii.gz", np.zeros((32, 32, 4), np.float32))
        with pytest.raises(StepError, match="constant"):
            predict_scan(scan, None, tmp_path / "out" / "mask.nii.gz", CHAMPION, tmp_path / "state", False)
        assert not files(tmp_path / "out")

    def test_a_model_that_sees_adc_asks_for_it(self, champion, put, tmp_path):
        champion(inputs="dwi+adc")
        with pytest.raises(StepError, match=re.escape("ADC=adc.nii.gz")):
            predict_scan(put(tmp_path / "s.nii"), None, tmp_path / "m.nii.gz", CHAMPION, tmp_path / "state", False)

    def test_a_model_that_is_not_there_is_named(self, put, tmp_path):
        with pytest.raises(StepError, match="no model models:/nix@champion"):
            predict_scan(put(tmp_path / "s.nii"), None, tmp_path / "m.nii.gz", "models:/nix@champion", tmp_path, False)


class TestAModelThatLearntFromSyntheticScansAlone:
    @pytest.fixture
    def version(self, champion, registry):
        number = champion(bias=100.0)
        for tag, value in TAG.items():
            registry.set_model_version_tag(MODEL_NAME, number, tag, value)
        return number

    def test_is_called_so_beside_each_mask(self, version, put, tmp_path, capsys):
        predict_scan(put(tmp_path / "s.nii"), None, tmp_path / "m.nii.gz", CHAMPION, tmp_path / "state", False)
        assert f"This model {WARNING}." in capsys.readouterr().out

    def test_is_called_so_on_the_page_in_the_table_and_in_the_log(self, version, put, segment, tmp_path, caplog):
        put(tmp_path / "in" / "a.nii.gz")
        uri = f"models:/{MODEL_NAME}/{version}"
        assert segment(tmp_path / "in")["a"]["model"] == f"{uri} (learnt from SYNTHETIC scans alone)"
        assert f"{uri} {WARNING}" in caplog.text
        page = (tmp_path / "out" / "predictions.html").read_text()
        assert WARNING in html.unescape(page) and "Synthetic demo scans" not in page

    def test_one_from_patients_is_not_called_so(self, champion, put, segment, tmp_path, capsys):
        champion(bias=100.0)
        predict_scan(put(tmp_path / "in" / "s.nii"), None, tmp_path / "m.nii.gz", CHAMPION, tmp_path / "state", False)
        segment(tmp_path / "in")
        page = (tmp_path / "out" / "predictions.html").read_text()
        assert "synthetic" not in (capsys.readouterr().out + page).lower()


class TestFolder:
    def test_each_layout_is_found_and_its_masks_left_aside(self, champion, put, segment, tmp_path):
        champion()
        wanted = {
            "flat": ("b.nii", "a.nii.gz"),
            "images": ("images/p1.nii.gz", "images/p2.nii", "masks/p1.nii.gz"),
            "bids": ("sub-1/ses-1/dwi/sub-1_ses-1_dwi.nii.gz", "derivatives/sub-1/ses-1/sub-1_ses-1_msk.nii.gz"),
        }
        cases = {"flat": {"a", "b"}, "images": {"p1", "p2"}, "bids": {"sub-1_ses-1"}}
        for layout, names in wanted.items():
            for name in names:
                put(tmp_path / layout / name)
            assert segment(tmp_path / layout).keys() == cases[layout]
            made = {f"masks/{case}.nii.gz" for case in cases[layout]} | {"predictions.csv", "predictions.html"}
            assert files(tmp_path / "out") == made

    def test_folders_in_the_folder_are_mirrored_and_thai_names_stay(self, champion, put, segment, tmp_path):
        champion()
        scans = tmp_path / "ภาพสแกน"
        for name in ("ผู้ป่วย ๑/สแกน.nii.gz", "ผู้ป่วย ๒/สแกน.nii.gz"):
            put(scans / name)
        rows = segment(scans)
        assert rows.keys() == {"ผู้ป่วย ๑/สแกน", "ผู้ป่วย ๒/สแกน"}
        assert all((tmp_path / "out" / row["mask"]).is_file() for row in rows.values())
        assert (tmp_path / "out" / "predictions.csv").read_bytes().startswith(b"\xef\xbb\xbf")
        assert "ผู้ป่วย ๑/สแกน" in (tmp_path / "out" / "predictions.html").read_text()

    def test_a_row_tells_volume_interval_flags_and_the_version(self, champion, put, segment, tmp_path, monkeypatch):
        version = champion(bias=100.0, seen={})
        found = Assessment(12.3456, 10.0, 15.5, 0.9, ["uncertain", "thin slices"])
        monkeypatch.setattr("components.model.segment_scan.assess", lambda *_: found)
        put(tmp_path / "in" / "a.nii.gz")
        assert segment(tmp_path / "in", probability=True)["a"] == {
            "case": "a", "file": "a.nii.gz", "refused": "", "lesion_ml": "12.346", "lesion_ml_low": "10.000",
            "lesion_ml_high": "15.500", "interval_level": "0.9", "needs_review": "yes",
            "reasons": "uncertain; thin slices", "model": f"models:/{MODEL_NAME}/{version}",
            "mask": "masks/a.nii.gz", "probability": "probabilities/a.nii.gz", "noted": "",
            "voxels": digest(np.asarray(nib.load(tmp_path / "out" / "masks" / "a.nii.gz").dataobj)),
        }  # fmt: skip
        page = (tmp_path / "out" / "predictions.html").read_text()
        assert "12.35 mL of lesion (90 % interval 10.00 to 15.50)" in page and "uncertain; thin slices" in page
        assert nib.load(tmp_path / "out" / "probabilities" / "a.nii.gz").get_data_dtype() == np.float32

    def test_what_breaks_the_contract_is_refused_by_name_and_the_rest_goes_on(
        self, champion, put, segment, make_scan, tmp_path, caplog
    ):
        champion()
        scan, folder = make_scan()[0], tmp_path / "in"
        put(folder / "good.nii.gz")
        put(folder / "four-axes.nii.gz", np.stack([scan, scan], axis=3))
        put(folder / "nan.nii.gz", np.where(scan > 150, np.nan, scan))
        put(folder / "constant.nii.gz", np.full_like(scan, 7))
        put(folder / "two-slices.nii.gz", scan[:, :, :2])
        put(folder / "strip.nii.gz", scan[:8])
        put(folder / "huge-voxels.nii.gz", affine=np.diag([99.0, 99.0, 5.0, 1.0]))
        put(folder / "twice.nii.gz")
        put(folder / "twice.nii")
        (folder / "text.nii").write_text("no scan")
        (folder / "cut.nii.gz").write_bytes((folder / "good.nii.gz").read_bytes()[:2000])
        broken = bytearray((folder / "good.nii.gz").read_bytes())
        broken[len(broken) // 2] ^= 0xFF
        (folder / "broken.nii.gz").write_bytes(broken)
        singular = bytearray(gzip.decompress((folder / "good.nii.gz").read_bytes()))
        singular[280:328] = bytes(48)
        (folder / "singular.nii").write_bytes(singular)
        np.save(folder / "array.npy", scan)
        (folder / "notes.txt").write_text("left alone")
        with caplog.at_level("INFO"):
            rows = segment(folder)
        why = {
            "four-axes": "not a 3-D volume", "nan": "NaN", "constant": "constant", "two-slices": "2 slices",
            "strip": "in-plane size", "huge-voxels": "voxel size", "twice.nii": "differ only in case or packing",
            "twice.nii.gz": "differ only in case or packing", "text": "not readable as NIfTI", "cut": "cut short",
            "broken": "", "singular": "affine", "array.npy": "only NIfTI",
        }  # fmt: skip
        assert rows.keys() == why.keys() | {"good"}
        for case, reason in why.items():
            assert rows[case]["refused"] and reason in rows[case]["refused"], (case, rows[case]["refused"])
            assert f"refused    {case}: {rows[case]['refused']}" in caplog.text
            assert rows[case]["mask"] == rows[case]["lesion_ml"] == ""
        assert rows["good"]["refused"] == ""
        assert files(tmp_path / "out") == {"masks/good.nii.gz", "predictions.csv", "predictions.html"}
        assert "1 scan segmented" in caplog.text and "13 refused" in caplog.text and "notes.txt" in caplog.text

    def test_where_all_are_refused_that_is_an_error_with_the_table_there(self, champion, put, segment, tmp_path):
        champion()
        put(tmp_path / "in" / "a.nii.gz", np.zeros((32, 32, 4), np.float32))
        with pytest.raises(StepError, match="no scan could be segmented, 1 refused"):
            segment(tmp_path / "in")
        assert "constant" in table(tmp_path / "out")["a"]["refused"]

    def test_names_and_reasons_that_a_spreadsheet_would_run_are_defused(self, champion, put, segment, tmp_path):
        champion()
        names = ("=1+1", "+x", "-x", "@x", "＝x")
        for name in names:
            put(tmp_path / "in" / f"{name}.nii.gz")
        rows = segment(tmp_path / "in")
        assert rows.keys() == {f"'{name}" for name in names}
        for name in names:
            assert rows[f"'{name}"]["mask"] == f"masks/{name}.nii.gz"
            assert (tmp_path / "out" / "masks" / f"{name}.nii.gz").is_file()
        cells = [cell for row in rows.values() for cell in row.values()]
        assert not any(cell.startswith(tuple("=+-@＝")) for cell in cells)

    def test_names_from_the_scans_are_text_on_the_page(self, champion, put, segment, tmp_path):
        champion()
        put(tmp_path / "in" / "<script>alert(1)<.nii.gz")
        segment(tmp_path / "in")
        assert "<script>" not in (tmp_path / "out" / "predictions.html").read_text()

    def test_the_adc_map_beside_a_scan_is_found_or_computed_and_a_scan_without_is_refused(
        self, champion, put, segment, make_scan, tmp_path
    ):
        champion(inputs="dwi+adc")
        dwi, adc, _ = make_scan()
        b0 = dwi * np.exp(np.where(dwi > 0, adc, 0))
        for name, volumes in {
            "with": {"adc": adc},
            "computed": {"b0": b0},
            "without": {},
            "bad": {"adc": adc[1:]},
        }.items():
            for kind, volume in {"dwi": dwi, **volumes}.items():
                put(tmp_path / "in" / f"{name}_{kind}.nii.gz", volume)
        rows = segment(tmp_path / "in")
        assert rows["with_dwi"]["refused"] == rows["computed_dwi"]["refused"] == ""
        assert "there is neither an ADC map nor a b0" in rows["without_dwi"]["refused"]
        assert "grid" in rows["bad_dwi"]["refused"]
        assert len(rows) == 4

    @pytest.mark.slow
    def test_the_b_value_is_the_scans_own_else_that_of_the_models_training_and_it_is_said(
        self, champion, put, segment, make_scan, tmp_path, caplog
    ):
        champion(inputs="dwi+adc", params={"b_value": 700.0})
        dwi, adc, _ = make_scan()
        for name in ("own", "other"):
            put(tmp_path / "in" / f"{name}_dwi.nii.gz", dwi)
            put(tmp_path / "in" / f"{name}_b0.nii.gz", dwi * np.exp(adc))
        (tmp_path / "in" / "own_dwi.bval").write_text("0 1200\n")
        with caplog.at_level("INFO"):
            segment(tmp_path / "in")
        for line in (
            "own_dwi: ADC computed from b0, b = 1200 s/mm² as in the .bval file",
            "other_dwi: ADC computed from b0, b = 700 s/mm² as set by b_value",
        ):
            case, _, words = line.partition(": ")
            assert f"noted      {line}" in caplog.text
            assert f"<td>{case}</td><td>{words}</td>" in (tmp_path / "out" / "predictions.html").read_text()
        assert "left alone" not in caplog.text

    def test_a_header_with_two_places_is_told_in_millimetres_in_the_table_and_kept_in_the_mask(
        self, champion, put, segment, tmp_path, caplog
    ):
        champion()
        path = put(tmp_path / "in" / "a.nii.gz")
        image = nib.load(path)
        moved = image.affine.copy()
        moved[:3, 3] += 3, 0, 4
        image.set_qform(image.affine, 1)
        image.set_sform(moved, 4)
        nib.save(image, path)
        with caplog.at_level("INFO"):
            noted = segment(tmp_path / "in")["a"]["noted"]
        assert "two places for the scan, up to 5.0 mm apart" in noted and f"noted      a: {noted}" in caplog.text
        header = nib.load(tmp_path / "out" / "masks" / "a.nii.gz").header
        assert (header["qform_code"], header["sform_code"]) == (1, 4)

    def test_an_adc_map_under_a_scans_name_is_refused_unless_the_user_insists(
        self, champion, put, segment, make_head, tmp_path
    ):
        champion()
        adc = make_head(fluid=3.0, tissue=0.8)
        put(tmp_path / "in" / "a.nii.gz")
        put(tmp_path / "in" / "b.nii.gz", adc)
        rows = segment(tmp_path / "in")
        assert "looks like an ADC map" in rows["b"]["refused"] and 'SET="modality_check=false"' in rows["b"]["refused"]
        assert rows["a"]["refused"] == ""
        predict_folder(tmp_path / "in", tmp_path / "out", CHAMPION, tmp_path / "state", False, modality_check=False)
        assert table(tmp_path / "out")["b"]["refused"] == ""

    def test_a_model_that_sees_the_dwi_alone_leaves_the_adc_aside(self, champion, put, segment, make_scan, tmp_path):
        champion()
        put(tmp_path / "in" / "a_dwi.nii.gz")
        put(tmp_path / "in" / "a_adc.nii.gz", make_scan()[1][1:])
        assert segment(tmp_path / "in")["a_dwi"]["refused"] == ""

    @pytest.mark.slow
    def test_a_scan_without_lesion_is_said_in_words(self, champion, put, segment, tmp_path, caplog):
        champion(bias=-100.0)
        put(tmp_path / "in" / "a.nii.gz")
        with caplog.at_level("INFO"):
            assert segment(tmp_path / "in")["a"]["lesion_ml"] == "0.000"
        assert "no lesion predicted" in (tmp_path / "out" / "predictions.html").read_text()
        assert "1 without a lesion" in caplog.text

    @pytest.mark.slow
    def test_a_champion_from_before_intervals_serves_and_leaves_them_unknown(
        self, old_champion, put, segment, tmp_path
    ):
        put(tmp_path / "in" / "a.nii.gz")
        put(tmp_path / "in" / "b.nii.gz", np.random.default_rng(0).normal(100, 9, (33, 24, 5)))
        rows = segment(tmp_path / "in")
        assert (rows["a"]["lesion_ml"], rows["a"]["lesion_ml_low"], rows["a"]["interval_level"]) == ("1.500", "", "")
        assert rows["a"]["needs_review"] == "unknown"
        assert rows["b"]["refused"] == "not liked by its old rules"
        with pytest.raises(StepError, match="too old to give probabilities"):
            segment(tmp_path / "in", probability=True)


@pytest.mark.slow
class TestWhatWasPredicted:
    """Masks and probability maps never come back as labels nor as scans."""

    @pytest.fixture
    def data_set(self, champion, put, make_scan, segment, tmp_path):
        """Three labelled scans and P, which has no mask, and the folder results/ of make predict."""
        champion(bias=100.0)
        for name in ("A", "B", "C"):
            put(tmp_path / "set" / "images" / f"{name}.nii.gz")
            put(tmp_path / "set" / "masks" / f"{name}.nii.gz", make_scan()[2])
        put(tmp_path / "set" / "images" / "P.nii.gz")
        segment(tmp_path / "set" / "images", probability=True)
        (tmp_path / "out").rename(tmp_path / "set" / "results")
        return tmp_path / "set"

    @pytest.fixture
    def labels(self, tmp_path, keys_of):
        """labels(folder) -> the case names that ingest takes as labelled; none is refused."""

        def run(folder: Path) -> set[str]:
            facts = check(discover(keys_of(folder)), folder, tmp_path / "cases").model_dump()
            assert facts["refused"] == {} and len(facts["cases"]) == 4
            return {case["case"] for case in facts["cases"] if case["labelled"]}

        return run

    def test_the_folder_of_results_beside_the_scans_changes_no_label(self, data_set, labels):
        assert labels(data_set) == {"A", "B", "C"}

    @pytest.mark.parametrize("kind", ["masks", "probabilities"])
    def test_neither_does_a_file_copied_among_the_labels(self, data_set, labels, kind):
        shutil.copy(data_set / "results" / kind / "P.nii.gz", data_set / "masks")
        shutil.rmtree(data_set / "results")
        assert labels(data_set) == {"A", "B", "C"}

    def test_a_mask_that_a_person_corrected_is_a_label(self, data_set, labels, make_scan):
        path = data_set / "results" / "masks" / "P.nii.gz"
        image = nib.load(path)
        nib.save(nib.Nifti1Image(make_scan()[2], image.affine, image.header), path)
        assert labels(data_set) == {"A", "B", "C", "P"}

    def test_they_are_not_segmented_in_turn(self, data_set, segment, tmp_path):
        shutil.copytree(data_set / "results", data_set / "images" / "old")
        predict_scan(
            data_set / "images" / "P.nii.gz", None, data_set / "images" / "lesion.nii.gz", CHAMPION, tmp_path, True
        )
        assert segment(data_set / "images").keys() == {"A", "B", "C", "P"}

    def test_what_a_model_of_an_earlier_version_predicts_is_marked_too(self, old_champion, put, segment, tmp_path):
        put(tmp_path / "in" / "a.nii.gz")
        row = segment(tmp_path / "in")["a"]
        assert read_mark(tmp_path / "out" / row["mask"]).digest == row["voxels"]

    def test_results_of_an_earlier_version_are_replaced(self, champion, put, segment, tmp_path):
        champion(bias=100.0)
        put(tmp_path / "in" / "a.nii.gz")
        segment(tmp_path / "in")
        path = tmp_path / "out" / "predictions.csv"
        rows = [row[:-2] for row in csv.reader(path.open(encoding="utf-8-sig", newline=""))]
        assert not {"voxels", "noted"} & set(rows[0])
        path.write_text("".join(",".join(row) + "\r\n" for row in rows), "utf-8-sig")
        assert segment(tmp_path / "in")["a"]["voxels"]


@pytest.mark.slow
class TestWhatAPersonMade:
    """What this command did not write, or what was changed since, is never replaced nor removed unless asked for."""

    @pytest.fixture
    def corrected(self, champion, put, segment, make_scan, tmp_path):
        """The mask of a.nii.gz in out/, corrected by hand."""
        champion(bias=100.0)
        put(tmp_path / "in" / "a.nii.gz")
        segment(tmp_path / "in")
        path = tmp_path / "out" / "masks" / "a.nii.gz"
        image = nib.load(path)
        nib.save(nib.Nifti1Image(make_scan()[2], image.affine, image.header), path)
        return path

    @pytest.mark.parametrize("scan", ["a", "another"])
    def test_a_corrected_mask_is_named_and_stays(self, corrected, put, segment, tmp_path, scan):
        put(tmp_path / scan / f"{scan}.nii.gz")
        before = files(tmp_path / "out"), corrected.read_bytes()
        with pytest.raises(StepError, match=r"masks/a\.nii\.gz was changed since make predict made it.*OVERWRITE=1"):
            segment(tmp_path / scan)
        assert (files(tmp_path / "out"), corrected.read_bytes()) == before

    def test_it_is_replaced_where_the_user_says_so(self, corrected, tmp_path):
        predict_folder(tmp_path / "in", tmp_path / "out", CHAMPION, tmp_path / "state", False, overwrite=True)
        assert np.asarray(nib.load(corrected).dataobj).all()

    def test_a_table_that_lists_other_files_removes_none(self, champion, put, segment, tmp_path):
        champion()
        put(tmp_path / "in" / "a.nii.gz")
        segment(tmp_path / "in")
        (tmp_path / "out" / "thesis.docx").write_text("years of work")
        path = tmp_path / "out" / "predictions.csv"
        path.write_text(path.read_text("utf-8-sig").replace("masks/a.nii.gz", "thesis.docx"), "utf-8-sig")
        for overwrite in (False, True):
            with pytest.raises(StepError, match=r"lists thesis\.docx, which make predict never makes"):
                predict_folder(
                    tmp_path / "in", tmp_path / "out", CHAMPION, tmp_path / "state", False, overwrite=overwrite
                )
        assert (tmp_path / "out" / "thesis.docx").read_text() == "years of work"

    @pytest.mark.parametrize("content", [b"drawn by hand", None], ids=["no scan", "a mask without our mark"])
    def test_a_mask_that_somebody_drew_is_no_output_of_one_scan(self, champion, put, make_scan, tmp_path, content):
        champion()
        scan, mask = put(tmp_path / "a.nii.gz"), put(tmp_path / "truth.nii.gz", make_scan()[2])
        if content:
            mask.write_bytes(content)
        before = mask.read_bytes()
        with pytest.raises(StepError, match=r"truth\.nii\.gz exists, and is not a prediction.*OVERWRITE=1"):
            predict_scan(scan, None, mask, CHAMPION, tmp_path / "state", False)
        assert mask.read_bytes() == before
        predict_scan(scan, None, mask, CHAMPION, tmp_path / "state", False, overwrite=True)
        predict_scan(scan, None, mask, CHAMPION, tmp_path / "state", False)
        assert mask.read_bytes() != before

    def test_two_calls_at_once_lose_no_row(self, champion, put, segment, tmp_path):
        champion()
        put(tmp_path / "in" / "a.nii.gz")
        (tmp_path / "out").mkdir()
        held = os.open(tmp_path / "out", os.O_RDONLY)
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(StepError, match="another make predict writes to OUTPUT="):
            segment(tmp_path / "in")
        os.close(held)
        assert segment(tmp_path / "in").keys() == {"a"}


@pytest.mark.slow
class TestAnAlteredModel:
    """Somebody writes into the object storage, and not into the registry's database."""

    @pytest.fixture
    def version(self, champion, registry):
        found = registry.get_model_version(MODEL_NAME, champion())
        parts = {"number": found.version, "run": found.run_id, "id": found.source.removeprefix("models:/")}
        return SimpleNamespace(**parts, spelt=lambda *all: [one.format(name=MODEL_NAME, **parts) for one in all])

    @pytest.fixture
    def files_of(self, version, logged_models):
        """The model's own folder in the bucket; later tests do not use this model, because its files change."""
        whole = Storage(f"s3://{work_bucket()}/mlflow")
        key = next(o.key for o in whole.list() if f"/{version.id}/" in o.key and o.key.endswith("/MLmodel"))
        logged_models.clear()
        return Storage(f"{whole.uri}/{key.removesuffix('/MLmodel')}")

    def test_as_it_was_registered_it_segments(self, version, put, tmp_path):
        predict_scan(put(tmp_path / "s.nii"), None, tmp_path / "m.nii.gz", CHAMPION, tmp_path / "state", False)
        assert (tmp_path / "m.nii.gz").exists()

    @pytest.mark.sampled(3)
    @pytest.mark.parametrize(
        ("key", "said"),
        [
            ("artifacts/weights/best_model.pth", "best_model.pth is not what was registered"),
            ("artifacts/weights/model.json", "a file of the model is not what was registered"),
            ("mlflow_model.py", "a file of the model is not what was registered"),
            ("code/components/model/network.py", "a file of the model is not what was registered"),
            ("code/sitecustomize.py", "a file of the model is not what was registered"),
            ("MLmodel", "a file of the model is not what was registered"),
        ],
    )
    def test_is_refused_before_anything_of_it_runs(self, files_of, version, tmp_path, key, said):
        ran = tmp_path / "it ran"
        there = {o.key for o in files_of.list()}
        before = files_of.get(key) if key in there else b""
        code = f"\nimport os; os.path.exists({str(ran)!r}) or os.mkdir({str(ran)!r})\n".encode()
        files_of.put(key, before + (code if key.endswith(".py") else b"\n"))
        with pytest.raises(StepError) as refusal:
            RegisteredSegmenter(CHAMPION, tmp_path / "state")
        assert str(refusal.value).startswith(f"models:/{MODEL_NAME}/{version.number} was not loaded: {said}")
        assert "make rollback" in str(refusal.value)
        assert not ran.exists()

    def test_no_spelling_of_its_address_runs_its_code(self, files_of, version, tmp_path):
        for address in version.spelt(*SPELLINGS):
            assert fetched(address, tmp_path) == f"models:/{MODEL_NAME}/{version.number}", address
        self._plant(files_of, tmp_path)
        for address in version.spelt(*SPELLINGS):
            with pytest.raises(StepError, match=r"a file of the model is not what was registered \(tag model_sha256\)"):
                RegisteredSegmenter(address, tmp_path / "state", digest="0" * 64)
        assert not (tmp_path / "it ran").exists()

    def test_what_is_no_address_is_refused_and_runs_nothing(self, files_of, version, tmp_path):
        self._plant(files_of, tmp_path)
        for address in version.spelt(*NO_ADDRESSES):
            with pytest.raises(StepError, match=r"is not the address of a model|no model ") as refusal:
                RegisteredSegmenter(address, tmp_path / "state")
            assert "\x1b" not in str(refusal.value) and "\n" not in str(refusal.value)
        assert not (tmp_path / "it ran").exists()

    def test_a_folder_of_a_registered_model_is_known_by_its_files(self, version, tmp_path):
        folder = Path(mlflow.artifacts.download_artifacts(f"models:/{version.id}", dst_path=str(tmp_path / "copy")))
        addresses = [str(folder), f"{folder}/", folder.as_uri()]
        for address in addresses:
            assert fetched(address, tmp_path) == f"models:/{MODEL_NAME}/{version.number}"
        (folder / "code" / "components").rename(tmp_path / "elsewhere")
        (folder / "code" / "components").symlink_to(tmp_path / "elsewhere")
        assert fetched(str(folder), tmp_path) == f"models:/{MODEL_NAME}/{version.number}"
        (tmp_path / "elsewhere" / "__init__.py").write_text(trace(tmp_path))
        for address in addresses:
            with pytest.raises(StepError, match="no digest in the registry confirms its files"):
                RegisteredSegmenter(address, tmp_path / "state")
        assert not (tmp_path / "it ran").exists()

    def test_what_the_registry_does_not_know_runs_only_with_the_digest_of_these_very_files(
        self, files_of, version, registry, tmp_path, caplog
    ):
        for tag in ("weights_sha256", "model_sha256"):
            registry.delete_model_version_tag(MODEL_NAME, version.number, tag)
        with pytest.raises(StepError, match="no digest in the registry confirms its files") as refusal:
            RegisteredSegmenter(CHAMPION, tmp_path / "state")
        digest = re.search("MODEL_DIGEST=([0-9a-f]{64})$", str(refusal.value))[1]
        RegisteredSegmenter(CHAMPION, tmp_path / "state", digest=digest)
        said = f"models:/{MODEL_NAME}/{version.number} brings code that runs here: MODEL_DIGEST={digest} confirms it"
        assert said in caplog.text
        self._plant(files_of, tmp_path)
        with pytest.raises(StepError, match="no digest in the registry confirms its files"):
            RegisteredSegmenter(CHAMPION, tmp_path / "state", digest=digest)
        assert not (tmp_path / "it ran").exists()

    @staticmethod
    def _plant(files_of, tmp_path) -> None:
        """Add a line to mlflow_model.py that leaves a trace where it runs."""
        files_of.put("mlflow_model.py", files_of.get("mlflow_model.py") + trace(tmp_path).encode())

    def test_a_pickled_model_is_not_opened_even_where_the_user_confirms_it(self, registry, tmp_path):
        ran = tmp_path / "it ran"
        with mlflow.start_run() as run:
            info = mlflow.pyfunc.log_model(name="model", python_model=Pickled(ran))
        ran.rmdir()
        for address in (f"runs:/{run.info.run_id}/model", info.model_uri):
            with pytest.raises(StepError, match="no digest in the registry") as refusal:
                RegisteredSegmenter(address, tmp_path / "state")
            digest = str(refusal.value).rpartition("=")[2]
            with pytest.raises(StepError, match="pickle"):
                RegisteredSegmenter(address, tmp_path / "state", digest=digest)
        assert not ran.exists()


@contextlib.contextmanager
def no_pickles(monkeypatch):
    """Let every reader of pickles fail, PyTorch's restricted one too."""

    def fail(*_, **__):
        raise AssertionError("a pickle was read")

    with monkeypatch.context() as patch:
        for module in (pickle, _pickle, cloudpickle, joblib, torch.serialization.pickle, _weights_only_unpickler):
            for name in ("load", "loads", "Unpickler", "_Unpickler", "_load", "_loads"):
                if hasattr(module, name):
                    patch.setattr(module, name, fail)
        patch.setattr(torch, "load", fail)
        yield


def trace(tmp_path: Path) -> str:
    """A line of Python that makes the folder "it ran"."""
    return f"\nimport os; os.makedirs({str(tmp_path / 'it ran')!r}, exist_ok=True)\n"


def fetched(address: str, tmp_path: Path) -> str:
    """The address of the version whose files were fetched from this one and verified."""
    return fetch(mlflow.MlflowClient(), address, Path(tempfile.mkdtemp(dir=tmp_path)))[1]


class Pickled(mlflow.pyfunc.PythonModel):
    """Leaves a trace where it is unpickled."""

    def __init__(self, trace: Path):
        self.trace = trace

    def __reduce__(self):
        return os.makedirs, (str(self.trace), 0o777, True)

    def predict(self, context, model_input: list[str]):
        return model_input


class TestWithoutPickles:
    def test_a_model_loads_and_segments(self, champion, put, tmp_path, monkeypatch):
        champion(bias=100.0)
        with no_pickles(monkeypatch):
            assert RegisteredSegmenter(CHAMPION, tmp_path / "state").segment(put(tmp_path / "scan.nii.gz")).lesion.all()

    @pytest.mark.slow
    def test_a_model_of_older_code_could_not(self, champion, put, tmp_path, monkeypatch):
        champion(bias=100.0, tensors_sha256=None)
        with no_pickles(monkeypatch), pytest.raises(StepError, match=r"best_model\.pth cannot be loaded"):
            RegisteredSegmenter(CHAMPION, tmp_path / "state")
        assert RegisteredSegmenter(CHAMPION, tmp_path / "state").segment(put(tmp_path / "scan.nii.gz")).lesion.all()


@pytest.mark.slow
class TestTheOutputFolder:
    @pytest.fixture
    def scans(self, champion, put, tmp_path):
        champion(bias=100.0)
        for name in "abc":
            put(tmp_path / "in" / f"{name}.nii.gz")
        return tmp_path / "in"

    def test_a_second_call_replaces_what_the_first_made_and_nothing_else(self, scans, segment, tmp_path):
        segment(scans, probability=True)
        (tmp_path / "out" / "masks" / "mine.nii.gz").write_text("mine")
        (tmp_path / "out" / "notes.txt").write_text("mine")
        (scans / "c.nii.gz").unlink()
        segment(scans)
        assert files(tmp_path / "out") == {
            "masks/a.nii.gz", "masks/b.nii.gz", "masks/mine.nii.gz", "notes.txt", "predictions.csv", "predictions.html",
        }  # fmt: skip

    @pytest.mark.parametrize("name", ["masks/a.nii.gz", "predictions.html", "predictions.csv"])
    def test_what_somebody_else_put_there_is_not_overwritten(self, scans, segment, tmp_path, name):
        path = tmp_path / "out" / name
        path.parent.mkdir(parents=True)
        path.write_text("patient,notes\n1,mine\n")
        with pytest.raises(StepError, match="exists, and make predict did not"):
            segment(scans)
        assert path.read_text() == "patient,notes\n1,mine\n"

    @pytest.mark.parametrize("where", [".", "deeper/out", ".."])
    def test_it_lies_apart_from_the_scans(self, scans, tmp_path, where):
        before = files(scans)
        with pytest.raises(StepError, match="is inside the other"):
            predict_folder(scans, scans / where, CHAMPION, tmp_path / "state", False)
        assert files(scans) == before

    def test_a_link_in_it_that_leads_to_the_scans_is_not_followed(self, scans, segment, tmp_path):
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "masks").symlink_to(scans)
        before = {path: path.read_bytes() for path in scans.iterdir()}
        with pytest.raises(StepError, match="outside its folder"):
            segment(scans)
        assert {path: path.read_bytes() for path in scans.iterdir()} == before

    def test_a_link_in_place_of_the_table_is_not_followed(self, scans, segment, tmp_path):
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "predictions.csv.part").symlink_to(tmp_path / "planted")
        with pytest.raises(StepError, match="cannot be written"):
            segment(scans)
        assert not (tmp_path / "planted").exists()

    def test_a_file_is_no_folder_for_results(self, scans, tmp_path):
        for name in ("mask.nii.gz", "there"):
            (tmp_path / "there").write_text("a file")
            with pytest.raises(StepError, match="name a folder for the results"):
                predict_folder(scans, tmp_path / name, CHAMPION, tmp_path / "state", False)

    def test_stopped_in_between_it_holds_whole_files_and_the_next_call_goes_through(
        self, scans, segment, tmp_path, monkeypatch
    ):
        whole, done = RegisteredSegmenter.segment, []

        def stops(*arguments, **options):
            if len(done) == 2:
                raise KeyboardInterrupt
            done.append(1)
            return whole(*arguments, **options)

        with monkeypatch.context() as patch:
            patch.setattr(RegisteredSegmenter, "segment", stops)
            with pytest.raises(StepError, match="stopped after 2 of 3 scans"):
                segment(scans)
        assert files(tmp_path / "out") == {"masks/a.nii.gz", "masks/b.nii.gz", "predictions.csv.part"}
        (scans / "b.nii.gz").unlink()
        (tmp_path / "out" / "masks" / "b.nii.gz.part").write_text("half of one, as SIGKILL leaves it")
        assert segment(scans).keys() == {"a", "c"}
        assert files(tmp_path / "out") == {
            "masks/a.nii.gz", "masks/c.nii.gz", "predictions.csv", "predictions.html",
        }  # fmt: skip

    def test_no_scans_are_said_in_words(self, tmp_path):
        (tmp_path / "in").mkdir()
        (tmp_path / "in" / "slice.dcm").write_text("x")
        with pytest.raises(StepError, match=r"no scans among 1 files \(slice.dcm"):
            predict_folder(tmp_path / "in", tmp_path / "out", CHAMPION, tmp_path / "state", False)
        assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_page_opens_in_a_browser_with_its_pictures_and_its_limits(champion, put, segment, tmp_path):
    api = pytest.importorskip("playwright.sync_api")
    champion()
    put(tmp_path / "in" / "ผู้ป่วย.nii.gz")
    put(tmp_path / "in" / "flat.nii.gz", np.zeros((32, 32, 4), np.float32))
    segment(tmp_path / "in")
    with api.sync_playwright() as playwright:
        page = launch(playwright).new_page()
        faults = []
        page.on("console", lambda message: faults.append(message.text))
        page.goto((tmp_path / "out" / "predictions.html").as_uri())
        page.locator("#viewer[data-ready]").wait_for()
        assert page.locator("#viewer select option").all_text_contents() == ["ผู้ป่วย"]
        assert page.locator("#viewer label", has_text="probability").is_visible()
        assert page.locator("text=Research use only").count() == 2
        assert page.locator("h3", has_text="ผู้ป่วย").is_visible()
        assert page.locator("td.why, td", has_text="the image is constant").is_visible()
        widths = page.locator("img").evaluate_all("images => images.map(i => i.naturalWidth)")
        assert widths and set(widths) == {220}
        assert not [fault for fault in faults if "GPU stall" not in fault]  # drawing on a CPU is slow
