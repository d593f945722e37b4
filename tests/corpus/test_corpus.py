"""Every bad input of the corpus is refused for its reason, or taken with a line; the good ones beside it go through."""

import json
import logging
import re
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import pytest

from components.core.errors import StepError
from components.core.settings import checked
from components.core.storage import Object, digest_of, local_path
from components.core.text import composed, shown
from components.ingest.discover import discover
from components.ingest.ingest import check, ingest
from components.scans.volumes import BadVolume, read_nifti_bytes
from pipelines import presets
from pipelines.check_data import PAGE, check_data
from pipelines.folder_files import files_of
from pipelines.predict.find_scans import find
from pipelines.predict.folder import segment_folder
from pipelines.predict.registered_model import RegisteredSegmenter
from tests.corpus import names, scans, texts
from tests.corpus.files import ADC, DWI, MASK, brain, nifti, npy, packed

GOOD = "sub-good_ses-1"
ASSUMED = ["left-right is the second axis, found by symmetry", "no voxel size: the length of the head sets the scale"]
"""Lines for an array of `files.DWI`, whose head is longer along the first axis."""


def by_name(table):
    return pytest.mark.parametrize("file", table, ids=lambda f: f.what)


def put(folder: Path, key: str, content: bytes) -> None:
    path = folder / key
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def put_case(folder: Path, name: str, dwi: bytes, mask: bytes | None = None, adc: bytes | None = None) -> None:
    stem = f"{name}/ses-1/dwi/{name}_ses-1"
    put(folder, f"{stem}_dwi.nii.gz", dwi)
    if mask is not None:
        put(folder, f"derivatives/{name}/ses-1/{name}_ses-1_msk.nii.gz", mask)
    if adc is not None:
        put(folder, f"{stem}_adc.nii.gz", adc)


@pytest.fixture
def checked_set(tmp_path):
    """checked_set(folder) -> what ingest makes of the folder, in which a good case lies too."""

    def run(folder: Path) -> dict:
        if (folder / "images").is_dir():
            put(folder, "images/sub-good_ses-1.npy", npy(DWI))
            put(folder, "masks/sub-good_ses-1.npy", npy(MASK))
        else:
            put_case(folder, "sub-good", packed(nifti()), packed(nifti(MASK)), packed(nifti(ADC)))
        facts = check(discover(files_of(folder)), folder, tmp_path / "cases").model_dump()
        good = {c["case"]: c for c in facts["cases"]}[GOOD]
        assert good["labelled"] and good["repairs"] == (ASSUMED if facts["layout"] == "images/masks" else [])
        return facts

    return run


@pytest.fixture(autouse=True)
def nothing_is_unpickled(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CORPUS_TRACE", str(tmp_path / "unpickled"))
    yield
    assert not (tmp_path / "unpickled").exists()


def bad_one(facts: dict) -> dict:
    (record,) = (c for c in facts["cases"] if c["case"] != GOOD)
    return record


def test_there_are_more_than_a_hundred():
    tables = [scans.IMAGES, scans.ARRAYS, scans.MASKS, scans.ADC_MAPS, scans.NOTED, names.KEYS, texts.PARTICIPANTS,
              texts.DESCRIPTIONS, texts.PRESETS, texts.ASSIGNMENTS, texts.VALUES]  # fmt: skip
    assert sum(map(len, tables)) >= 200


# Scans


@by_name(scans.IMAGES)
def test_a_bad_scan_is_refused(checked_set, tmp_path, file):
    put_case(tmp_path / "set", "sub-bad", file.content())
    (why,) = checked_set(tmp_path / "set")["refused"].values()
    assert re.search(file.words, why) and "\n" not in why and len(why) < 400


@by_name(scans.ARRAYS)
def test_a_bad_array_is_refused(checked_set, tmp_path, file):
    put(tmp_path / "set", "images/Bad.npy", file.content())
    (why,) = checked_set(tmp_path / "set")["refused"].values()
    assert re.search(file.words, why) and "\n" not in why and len(why) < 400


@by_name(scans.MASKS)
def test_a_bad_mask_is_refused(checked_set, tmp_path, file):
    put_case(tmp_path / "set", "sub-bad", nifti(), file.content())
    (why,) = checked_set(tmp_path / "set")["refused"].values()
    assert re.search(file.words, why)


@by_name(scans.ADC_MAPS)
def test_a_bad_adc_map_is_left_out_with_a_line(checked_set, tmp_path, file):
    put_case(tmp_path / "set", "sub-bad", nifti(), nifti(MASK), file.content())
    (line,) = bad_one(checked_set(tmp_path / "set"))["repairs"]
    assert line.startswith("ADC map left out: ") and re.search(file.words, line)


@by_name(scans.NOTED)
def test_what_is_repaired_or_assumed_has_a_line(checked_set, tmp_path, file):
    put_case(tmp_path / "set", "sub-odd", file.content())
    (line,) = bad_one(checked_set(tmp_path / "set"))["repairs"]
    assert file.words in line


@by_name(scans.GOOD)
def test_a_good_scan_goes_through_without_a_line(checked_set, tmp_path, file):
    put_case(tmp_path / "set", "sub-odd", file.content())
    facts = checked_set(tmp_path / "set")
    assert facts["refused"] == {} and bad_one(facts)["repairs"] == []


@by_name(scans.GOOD_ARRAYS)
def test_a_good_array_goes_through_with_what_its_format_leaves_open(checked_set, tmp_path, file):
    put(tmp_path / "set", "images/Odd.npy", file.content())
    facts = checked_set(tmp_path / "set")
    assert facts["refused"] == {} and bad_one(facts)["repairs"] == ASSUMED


def test_bombs_stay_packed():
    for file in (f for f in scans.IMAGES if "bomb" in f.what):
        content = file.content()
        tracemalloc.start()
        with pytest.raises(BadVolume):
            read_nifti_bytes(content)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 20e6, file.what


def test_a_lesion_free_mask_is_no_bad_one(checked_set, tmp_path):
    put_case(tmp_path / "set", "sub-free", nifti(), nifti(MASK * 0))
    record = bad_one(checked_set(tmp_path / "set"))
    assert record["labelled"] and record["lesion_voxels"] == 0


@pytest.fixture
def all_at_once(tmp_path) -> Path:
    """A folder with every bad scan, mask and ADC map, and three good patients."""
    folder = tmp_path / "set"
    for number, file in enumerate(scans.IMAGES):
        put_case(folder, f"sub-image{number}", file.content())
    for number, file in enumerate(scans.MASKS):
        put_case(folder, f"sub-mask{number}", nifti(), file.content())
    for number, file in enumerate(scans.ADC_MAPS):
        put_case(folder, f"sub-adc{number}", nifti(), nifti(MASK), file.content())
    for number in range(3):
        put_case(folder, f"sub-good{number}", *(packed(nifti(data)) for data in (brain(number)[i] for i in (0, 2, 1))))
    return folder


def test_check_data_names_all_of_them_and_the_good_go_through(tmp_path, all_at_once, caplog):
    caplog.set_level(logging.INFO)
    assert check_data(str(all_at_once), tmp_path / "state") == 0
    page = (tmp_path / "state" / PAGE).read_text()
    for kind, table in (("image", scans.IMAGES), ("mask", scans.MASKS)):
        for number, file in enumerate(table):
            (line,) = (m for m in caplog.messages if m.startswith(f"refused    sub-{kind}{number}_ses-1: "))
            assert re.search(file.words, line) and f"sub-{kind}{number}_ses-1" in page
    assert f"{3 + len(scans.ADC_MAPS)} labelled scans" in caplog.text


# The same rules where a model predicts


@pytest.fixture
def model(tmp_path):
    """An untrained network as it is registered."""
    import torch

    from components.model.mlflow_model import LesionSegmenter
    from components.model.network import AttentionUNet

    folder = tmp_path / "model"
    folder.mkdir()
    torch.manual_seed(0)
    torch.save(AttentionUNet(4, 3).state_dict(), folder / "best_model.pth")
    facts = {"base_channels": 4, "image_size": 32, "normalization": "slice", "precision": "float32", "threshold": 0.5,
             "inputs": "dwi", "training_digest": "0" * 64}  # fmt: skip
    (folder / "model.json").write_text(json.dumps(facts))
    loaded = LesionSegmenter()
    loaded.load_context(SimpleNamespace(artifacts={"weights": str(folder)}))
    return loaded


def test_predict_refuses_the_same_by_name_and_segments_the_good(tmp_path, model):
    segmenter = object.__new__(RegisteredSegmenter)
    segmenter.uri, segmenter.sees_adc, segmenter.synthetic = "models:/m/1", False, False
    segmenter.parameters = {"probability", "modality_check"}
    segmenter.model = SimpleNamespace(predict=lambda table, params: model.predict(None, table, params))
    for number, file in enumerate(scans.IMAGES):
        put(tmp_path / "set", f"bad{number}.nii.gz", file.content())
    for number, file in enumerate(scans.GOOD + scans.NOTED):
        put(tmp_path / "set", f"good{number}.nii", file.content())
    segment_folder(tmp_path / "set", tmp_path / "out", lambda: segmenter, probability=False)
    table = (tmp_path / "out" / "predictions.csv").read_text("utf-8-sig")
    for number, file in enumerate(scans.IMAGES):
        (line,) = re.findall(rf"^bad{number},.*$", table, re.MULTILINE)
        assert re.search(file.words, line)
    assert len(list((tmp_path / "out" / "masks").iterdir())) == len(scans.GOOD + scans.NOTED)


def test_serve_refuses_the_same(model):
    import pandas as pd

    from components.model.mlflow_model import Refused

    for file in scans.IMAGES:
        with pytest.raises(Refused) as refused:
            model.predict(None, pd.DataFrame({"scan": [file.content()]}))
        assert re.search(file.words, refused.value.reason), file.what


@pytest.mark.parametrize("value", [None, 5, 10**13, 1.5, float("nan"), "abc", [1, 2], {"a": 1}], ids=repr)
@pytest.mark.parametrize("column", ["scan", "adc"])
def test_what_is_no_file_is_refused(model, column, value):
    import pandas as pd

    from components.model.mlflow_model import Refused

    if column == "adc" and value is None:
        pytest.skip("that says there is none")
    row = {"scan": [nifti()]} | {column: pd.Series([value], dtype=object)}
    with pytest.raises(Refused, match="it is not bytes"):
        model.predict(None, pd.DataFrame(row))


# Names


@pytest.mark.parametrize("bad", names.KEYS, ids=lambda k: k.what)
def test_a_bad_key_is_refused_and_the_good_case_goes_on(bad):
    found = discover([*names.GOOD, *bad.keys])
    assert [case.name for case in found.cases] == ["Good"]
    for name, why in found.refused.items():
        assert shown(name + why) == (name + why) or len(name + why) > 240
        assert not set("\n\x1b\0\u202e") & set(name + why) and len(name) < 300 and len(why) < 1000
    for name, words in bad.refused.items():
        assert any(name in refused and words in why for refused, why in found.refused.items())


def test_a_bucket_with_every_bad_key_is_ingested_and_none_of_them_fetched(tmp_path, monkeypatch):
    good = {f"images/Good {n}.npy": npy(brain(n)[0]) for n in range(3)}
    good |= {f"masks/Good {n}.npy": npy(brain(n)[2]) for n in range(3)}
    bad = {key for bad in names.KEYS for key in bad.keys}
    fetched = []

    class Bucket(SimpleNamespace):
        def list(self):
            return sorted((Object(key, 1, "etag") for key in good.keys() | bad), key=lambda o: o.key)

        def list_until(self, settled):
            return self.list()

        def download(self, objects, folder):
            for o in objects:
                fetched.append(o.key)
                path = local_path(folder, o.key)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(good.get(o.key, b""))

    monkeypatch.setattr("components.ingest.ingest.Storage", lambda _: Bucket())
    monkeypatch.setenv("SCRATCH_DIR", str(tmp_path / "scratch"))
    (tmp_path / "cases").mkdir()
    ingest("s3://bucket", digest_of(Bucket().list()), tmp_path / "cases", tmp_path / "report.html")
    facts = json.loads((tmp_path / "cases" / "cases.json").read_text())
    assert [case["case"] for case in facts["cases"]] == ["Good 0", "Good 1", "Good 2"]
    assert fetched and set(fetched) <= good.keys()
    assert not list((tmp_path / "scratch").rglob("*.npy"))


@pytest.mark.parametrize("name", names.FINE)
def test_a_strange_name_is_a_name(tmp_path, checked_set, name):
    put(tmp_path / "set", f"images/{name}.npy", npy(DWI))
    put(tmp_path / "set", f"masks/{name}.npy", npy(MASK))
    record = bad_one(checked_set(tmp_path / "set"))
    assert record["case"] == record["patient"] == composed(name) and record["labelled"] and record["repairs"] == ASSUMED
    assert all((tmp_path / "cases" / file).is_file() and file.isascii() for file in record["files"].values())


def test_single_slices_each_repaired_have_a_line(tmp_path, checked_set):
    for number in range(4):
        put(
            tmp_path / "set",
            f"images/P_Slice_{number}.npy",
            npy(DWI[:, :, number] if number < 3 else DWI[:, :, 3:4, None]),
        )
    assert bad_one(checked_set(tmp_path / "set"))["repairs"] == ["dropped a trailing axis of length one", *ASSUMED]


# What a folder may hold besides


@pytest.mark.parametrize("content", [b"", b"\xff" * 99], ids=["empty", "filled"])
def test_names_that_cannot_be_keys_are_left_out_with_a_line(tmp_path, checked_set, caplog, content):
    put(tmp_path / "set", "images/a.txt", b"")
    for name in (b"P\xff.npy", b"P\n.npy", b"\x1b[2J.npy"):
        Path(str(tmp_path / "set" / "images"), name.decode("utf-8", "surrogateescape")).write_bytes(content)
    facts = checked_set(tmp_path / "set")
    assert facts["refused"] == {} and caplog.text.count("left out: ") == 3 and caplog.text.isascii()
    assert "\x1b" not in caplog.text


def test_links_are_left_out_with_a_line(tmp_path, checked_set, caplog):
    (tmp_path / "private").mkdir()
    put(tmp_path, "private/secret.npy", npy(DWI))
    images = tmp_path / "set" / "images"
    images.mkdir(parents=True)
    (images / "out.npy").symlink_to(tmp_path / "private" / "secret.npy")
    (images / "folder").symlink_to(tmp_path / "private")
    (images / "nowhere.npy").symlink_to("gone.npy")
    (images / "loop.npy").symlink_to("loop.npy")
    (tmp_path / "set" / "participants.tsv").symlink_to(tmp_path / "private" / "secret.npy")
    facts = checked_set(tmp_path / "set")
    assert facts["refused"] == {} and len(facts["cases"]) == 1 and facts["notes"] == []
    for name in ("out.npy", "folder", "nowhere.npy", "loop.npy", "participants.tsv"):
        assert re.search(rf"left out: \S*{re.escape(name)} is a link", caplog.text)


def test_a_file_larger_than_any_scan_is_refused_unread(tmp_path, checked_set):
    put_case(tmp_path / "set", "sub-bad", nifti())
    (scan,) = (tmp_path / "set").rglob("sub-bad*_dwi.nii.gz")
    with scan.open("r+b") as file:
        file.truncate(1 << 40)  # a sparse file
    assert "larger than any scan" in checked_set(tmp_path / "set")["refused"]["sub-bad_ses-1"]


def test_an_array_file_larger_than_any_scan_is_refused_unread(tmp_path, checked_set):
    put(tmp_path / "set", "images/Bad.npy", b"\x93NUMPY\x02\x00" + b"\xff" * 4)
    with (tmp_path / "set" / "images" / "Bad.npy").open("r+b") as file:
        file.truncate(1 << 40)
    assert "larger than any scan" in checked_set(tmp_path / "set")["refused"]["Bad"]


def test_a_scan_that_may_not_be_read_is_refused(tmp_path, checked_set, monkeypatch):
    put_case(tmp_path / "set", "sub-bad", nifti())
    usual = Path.open

    def locked(self, *args, **kwargs):
        if "sub-bad" in self.name:
            raise PermissionError(13, "Permission denied")
        return usual(self, *args, **kwargs)

    monkeypatch.setattr(Path, "open", locked)
    assert "cannot be read (Permission denied)" in checked_set(tmp_path / "set")["refused"]["sub-bad_ses-1"]


def test_predict_leaves_a_name_too_long_for_its_mask_out_with_a_line(tmp_path, caplog):
    for name in ("x" * 250 + ".nii", "y" * 236 + ".nii"):
        put(tmp_path / "set", name, nifti())
    assert [case.name for case in find(tmp_path / "set").cases] == ["y" * 236]
    assert re.search("left out: xxx.*too long", caplog.text)


# Texts


@pytest.mark.parametrize("bad", texts.PARTICIPANTS, ids=lambda t: t.what)
def test_a_bad_table_of_participants_is_noted(tmp_path, checked_set, bad):
    put(tmp_path / "set", "participants.tsv", bad.text if isinstance(bad.text, bytes) else bad.text.encode())
    assert any(bad.words in note for note in checked_set(tmp_path / "set")["notes"])


@pytest.mark.parametrize("content", texts.DESCRIPTIONS, ids=lambda c: repr(c[:20]))
def test_a_bad_description_says_nothing(tmp_path, checked_set, content):
    put(tmp_path / "set", "dataset_description.json", content)
    assert checked_set(tmp_path / "set")["synthetic"] is False


@pytest.mark.parametrize("bad", texts.PRESETS, ids=lambda t: t.what)
def test_a_bad_preset_is_answered(tmp_path, monkeypatch, bad):
    (tmp_path / "mine.yaml").write_bytes(bad.text if isinstance(bad.text, bytes) else bad.text.encode())
    monkeypatch.setattr(presets, "FOLDER", tmp_path)
    with pytest.raises(StepError, match=bad.words) as error:
        presets.load("mine")
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize("bad", texts.ASSIGNMENTS, ids=lambda t: t.what)
def test_a_bad_assignment_is_answered(bad):
    with pytest.raises(StepError, match=re.escape(bad.words).replace(r"\|", "|")) as error:
        presets.load("demo", bad.text)
    assert len(str(error.value)) < 1000 and str(error.value).replace("\n", "").isprintable()


@pytest.mark.parametrize(("key", "value"), texts.VALUES, ids=lambda v: str(v)[:20])
def test_an_impossible_value_is_answered(key, value):
    with pytest.raises(StepError, match=f"^{key}=.* is impossible: ") as error:
        checked({key: value})
    assert len(str(error.value)) < 400
