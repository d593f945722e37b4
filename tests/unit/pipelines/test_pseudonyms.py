"""PSEUDONYM_KEY: nothing of a name, a header or a file beside the scans is in what is uploaded; the layout stays."""

import json
import logging
import re
import shutil
import stat

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.core.errors import StepError
from components.ingest.discover import discover
from components.ingest.ingest import check
from components.scans.prediction_mark import digest, mark_of_mask
from components.scans.volumes import nifti_bytes
from pipelines.pseudonym_names import PseudonymNames
from pipelines.pseudonyms import pseudonymized, require_key_if_used_before
from tests.support import planted

KEY = "7c1f0e9a35b86d24e01b9f7a4c8d2653"
NAME = "Somchai_Jaidee_19560412"


@pytest.fixture
def clinic(tmp_path, make_scan, write_case):
    """Two patients by name, one of them scanned twice; a table with more than is kept, and what else lies about."""
    folder = tmp_path / NAME
    for seed, (name, session) in enumerate((("sub-Somchai", "ses-20240131"), ("sub-Somchai", "ses-20240502"),
                                            ("sub-สมชาย", None))):  # fmt: skip
        dwi, adc, mask = make_scan(seed)
        write_case(folder, name, session, dwi=dwi, adc=adc, mask=mask)
    (folder / "participants.tsv").write_text(
        "participant_id\tage\tsite\tscanner\tnotes\nsub-Somchai\t67\tNan\tSkyra\tJaidee\nsub-Gone\t1\tKorat\t\t\n"
    )
    (folder / "dataset_description.json").write_text('{"Name": "synthetic scans of Jaidee", "Authors": ["Jaidee"]}')
    (folder / "Jaidee.xlsx").write_bytes(b"Jaidee")
    (folder / "sub-Somchai" / "ses-20240131" / "dwi" / "sub-Somchai_ses-20240131_dwi.json").write_text(
        '{"A": "Jaidee"}'
    )
    return folder


@pytest.fixture
def copied(tmp_path):
    """copied(folder, key=KEY) -> the copy, the map."""

    def run(folder, key=KEY):
        copy = tmp_path / "state" / "pseudonyms"
        copy = copy / pseudonymized(str(folder), key, tmp_path / "state").rpartition("/")[2]
        return copy, json.loads(copy.with_name(f"{copy.name}.json").read_text())

    return run


def shape_of(keys):
    """What discover makes of keys, names aside: the cases of each patient, by what they are made of."""
    found, patients = discover(keys), {}
    for case in found.cases:
        made = (bool(case.session), len(case.image), len(case.mask), bool(case.adc), bool(case.b0), len(case.b_values),
                case.slice_numbers)  # fmt: skip
        patients.setdefault(case.patient, []).append(made)
    return found.layout, sorted(sorted(map(str, made)) for made in patients.values()), len(found.refused)


def renamed(keys):
    names, found = PseudonymNames(KEY), discover(keys)
    how = names.bids if found.layout == "BIDS" else names.flat
    return names, [how(key) for key in sorted(set(keys) - set(found.ignored))]


LAYOUTS = [
    ["images/Somchai.nii.gz", "masks/Somchai.nii.gz", "images/B.npy"],
    ["Jaidee/2024/images/Somchai_ses-1.nii", "Jaidee/2024/masks/Somchai_ses-1.nii", "J/2024/images/Somchai_ses-2.NII"],
    ["images/S_ses-1_run-1.nii.gz", "images/S_ses-1_run-2.nii.gz", "masks/S_ses-1_run-1.nii.gz"],
    [f"{kind}/Somchai_Slice_{n:03}.npy" for n in (1, 2, 5) for kind in ("images", "masks")],
    [f"images/Somchai_ses-2_slice_{n}.npy" for n in (1, 2)],
    ["images/Somchai.npy", "images/Somchai.nii.gz", "images/C.npy", "masks/D.npy"],
    ["a/images/A.npy", "b/images/A.npy", "a/masks/A.npy"],
    ["images/A_Slice_1.npy", "images/A_Slice_01.npy", "images/B_Slice_9.nii.gz"],
    ["sub-A/dwi/sub-A_dwi.nii.gz", "sub-A/dwi/sub-A_adc.nii.gz", "derivatives/sub-A/sub-A_msk.nii.gz"],
    ["x/sub-A/ses-1/dwi/sub-A_ses-1_dwi.nii.gz", "x/derivatives/Jaidee/sub-A/ses-1/sub-A_ses-1_lesion.nii.gz"],
    ["sub-A/ses-1/A_20240131_dwi.nii.gz", "sub-A/ses-1/A_b0.nii.gz", "derivatives/sub-A/ses-1/Jaidee/A-seg.nii.gz"],
    ["sub-A/dwi/run-1_dwi.nii.gz", "sub-A/dwi/run-2_dwi.nii.gz", "sub-B/dwi/sub-B_dwi.nii.gz"],
    ["sub-A/dwi/A_adc.nii.gz", "derivatives/sub-C/C_msk.nii.gz", "sub-B/dwi/sub-B_dwi.nii.gz"],
    ["sub-A/dwi/A_dwi.nii.gz", "derivatives/sub-A/A_brain_mask.nii.gz", "Derivatives/derivatives/SUB-A/A_MSK.NII.GZ"],
    ["Jaidee/images/Somchai_SES-1.nii.gz", "Jaidee/images/Somchai_Ses-2.nii.gz", "Jaidee/MASKS/Somchai_SES-1.nii.gz"],
    ["Jaidee/images/A.nii.gz", "2024/masks/A.nii.gz", "2024/images/B.nii.gz", "2024/masks/B.nii.gz"],
    ["a/sub-A/dwi/sub-A_dwi.nii.gz", "b/derivatives/sub-A/sub-A_msk.nii.gz"],
    ["sub-A/dwi/sub-A_ses-1_dwi.nii.gz", "derivatives/sub-A/sub-A_ses-2_msk.nii.gz"],
    ["sub-A/dwi/sub-A_ses-1_dwi.nii.gz", "derivatives/sub-A/sub-A_msk.nii.gz"],
    ["images/Ren\u00e9_ses-1.nii", "images/Rene\u0301_ses-2.nii", "masks/Rene\u0301_ses-1.nii"],
    ["sub-BRAIN04/dwi/sub-BRAIN04_dwi.nii.gz", "derivatives/sub-BRAIN04/sub-BRAIN04_msk.nii.gz"],
    ["sub-A/sub-B/dwi/x_dwi.nii.gz", "sub-A/dwi/x_dwi.nii.gz"],
    [f"sub-Somchai/ses-1/dwi/Jaidee_{end}" for end in ("dwi.nii.gz", "b0.nii.gz", "dwi.bval", "dwi.json", "b0.json")],
]  # fmt: skip


@pytest.mark.parametrize("keys", LAYOUTS)
def test_a_layout_reads_the_same_under_other_names(keys):
    new = renamed(keys)[1]
    assert shape_of(new) == shape_of(keys)
    assert len(set(new)) == len(new)
    for word in re.findall(r"Somchai|Jaidee|2024\d*|run-\d", "".join(keys)):
        assert word not in "".join(new)


words = st.text(st.characters(exclude_characters="/.", exclude_categories=["C", "Z"]), min_size=1, max_size=8)


@settings(derandomize=True, deadline=None, max_examples=100)
@given(st.lists(words, min_size=1, max_size=4, unique_by=str.casefold), words, st.booleans())
def test_whatever_the_names_the_layout_reads_the_same(patients, folder, bids):
    flat = [f"{folder}/{kind}/{p}_ses-{n}.npy" for p in patients for n in "12" for kind in ("images", "masks")]
    deep = [f"{folder}/sub-{p}/ses-{n}/dwi/{p}{n}_dwi.nii.gz" for p in patients for n in "12"]
    keys = deep if bids else flat
    names, new = renamed(keys)
    if not any(map(names.unclear, new)):
        assert shape_of(new) == shape_of(keys)


def test_the_copy_holds_the_scans_and_nothing_that_tells_whose_they_are(clinic, copied):
    copy, told = copied(clinic)
    files = [p.relative_to(copy).as_posix() for p in copy.rglob("*") if p.is_file()]
    assert len(files) == 9 + 2
    assert planted.found(copy, ["Somchai", "สมชาย", "Jaidee", "20240131", "20240502", "Korat", "Gone", "xlsx"]) == []
    assert sorted(told["patients"].values()) == ["sub-Somchai", "sub-สมชาย"]
    assert told["folder"] == str(clinic) and len(told["files"]) == 9


def test_a_scan_is_ingested_as_it_would_be_under_its_own_name(tmp_path, clinic, copied, keys_of):
    copy, told = copied(clinic)
    own, other = (check(discover(keys_of(f)), f, tmp_path / f"cases-{f.name}").model_dump() for f in (clinic, copy))
    of_patient = {c["voxel_sha256"]: c for c in other["cases"]}
    for case in own["cases"]:
        same = of_patient[case["voxel_sha256"]]
        assert told["patients"][same["patient"]] == case["patient"]
        for name in ("shape", "voxel_mm", "lesion_ml", "site", "scanner", "repairs", "orientation_found", "labelled"):
            assert same[name] == case[name]
    assert other["synthetic"] is own["synthetic"] is True and other["ignored"] == []


@pytest.mark.parametrize(
    ("ending", "content", "sent", "line"),
    [
        (".bval", "0 800 # Jaidee", "", "the .bval file was ignored: it holds no b-values (numbers)"),
        (".bval", "0 800\n", "800\n", "b = 800 s/mm² as in the .bval file"),
        (".json", '{"Name": "Jaidee", "bval": 800}', '{"DiffusionBValue": 800.0}', "as in the JSON sidecar"),
        (".json", '{"Name": "Jaidee"}', "{}", "b-value unknown"),
    ],
    ids=["no .bval", ".bval", "sidecar", "sidecar without it"],
)  # fmt: skip
def test_of_the_files_beside_a_scan_the_b_value_alone_is_sent(
    tmp_path, make_scan, write_case, copied, keys_of, ending, content, sent, line
):
    dwi, adc, _ = make_scan()
    folder = write_case(tmp_path / NAME, "sub-Somchai", "ses-20240131", dwi=dwi, b0=dwi * np.exp(0.8 * adc))
    (folder / f"sub-Somchai/ses-20240131/dwi/sub-Somchai_ses-20240131_dwi{ending}").write_text(content)
    copy, _ = copied(folder)
    (file,) = copy.rglob(f"*_dwi{ending}")
    assert file.read_text() == sent
    assert planted.found(copy, ["Somchai", "Jaidee", "20240131"]) == []
    ours, theirs = (check(discover(keys_of(f)), f, tmp_path / f"of-{f.name}").cases[0] for f in (folder, copy))
    assert ours.repairs == theirs.repairs and any(line in repair for repair in ours.repairs)


def test_a_file_that_names_another_patient_than_its_folder_goes_nowhere(clinic, copied, caplog):
    misfiled = "sub-Somchai/ses-20240131/dwi/sub-Somchai_ses-20240131_dwi.nii.gz"
    (clinic / misfiled).rename(clinic / misfiled.replace("dwi/sub-Somchai", "dwi/sub-Malee"))
    _, told = copied(clinic)
    assert len(told["left_out"]) == 1 and "sub-Malee" in told["left_out"][0]
    assert "name another patient or session than their folder" in caplog.text and len(told["files"]) == 8


def predicted(path, mask, mark=""):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(nifti_bytes(mask, np.diag([2.0, 2.0, 5.0, 1.0]), mark))


@pytest.mark.parametrize("layout", ["flat", "BIDS"])
def test_what_a_model_predicted_is_known_under_other_names_too(
    tmp_path, make_scan, write_case, copied, keys_of, layout
):
    folder, results = tmp_path / NAME, tmp_path / NAME / "Jaidee"
    rows, names = ["case,file,reasons,mask,voxels"], [f"Somchai{n}" for n in range(4)]
    for seed, name in enumerate(names):
        dwi, _, mask = make_scan(seed)
        if layout == "BIDS":
            name = f"sub-{name}_ses-0001"
            write_case(folder, name.partition("_")[0], dwi=dwi)
        else:
            predicted(folder / "images" / f"{name}.nii.gz", dwi)
        rows.append(f"{name},Jaidee.nii.gz,Jaidee,masks/{name}.nii.gz,{digest(mask)}")
        mark, mask[16, 8, 2] = mark_of_mask(mask), mask[16, 8, 2] ^ seed % 2  # a person changes every other one
        predicted(results / "masks" / f"{name}.nii.gz", mask, mark if seed < 2 else "")
    (results / "predictions.csv").write_text("\n".join(rows))
    copy, _ = copied(folder)
    assert planted.found(copy, ["Somchai", "Jaidee"]) == []
    own, other = (check(discover(keys_of(f)), f, tmp_path / f"of-{f.name}").model_dump() for f in (folder, copy))
    same = {c["voxel_sha256"]: c for c in other["cases"]}
    assert own["refused"] == other["refused"] == {} and len(same) == 4
    for number, case in enumerate(own["cases"]):
        assert same[case["voxel_sha256"]]["labelled"] is case["labelled"] is (number % 2 == 1)
        words = [[line.partition(" ")[2] for line in c["repairs"]] for c in (case, same[case["voxel_sha256"]])]
        assert words[0] == words[1] and len(words[0]) == 1


def test_a_patient_stays_one_under_one_key_and_not_under_another(clinic, copied):
    (copy, told), (again, same) = copied(clinic), copied(clinic)
    assert copy == again and told == same
    other, theirs = copied(clinic, KEY[::-1])
    assert other.name != copy.name and not theirs["patients"].keys() & told["patients"].keys()


def test_what_did_not_change_is_not_made_again_and_what_is_gone_goes(clinic, copied):
    copy, told = copied(clinic)
    of = {old: copy / new for new, old in told["files"].items()}
    stamps = {old: path.stat().st_mtime_ns for old, path in of.items()}
    gone, changed, *_ = of
    (clinic / gone).unlink()
    shutil.copy(clinic / list(of)[-1], clinic / changed)
    _, told = copied(clinic)
    assert not of[gone].exists() and gone not in told["files"].values()
    assert [old for old, path in of.items() if old != gone and path.stat().st_mtime_ns != stamps[old]] == [changed]


def test_a_patient_who_left_stays_in_the_map_for_models_that_knew_them(clinic, copied):
    shutil.rmtree(clinic / "sub-สมชาย")
    before = copied(clinic)[1]["patients"]
    shutil.rmtree(clinic / "derivatives" / "sub-สมชาย")
    assert copied(clinic)[1]["patients"] == before and len(before) == 2


def test_map_and_copy_are_their_owners_alone(tmp_path, clinic, copied):
    copy, _ = copied(clinic)
    state = tmp_path / "state"
    for path in (state, state / "pseudonyms", copy):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert stat.S_IMODE(copy.with_name(f"{copy.name}.json").stat().st_mode) == 0o600


def test_what_is_said_on_the_way_names_nobody_but_the_map(tmp_path, clinic, copied, caplog):
    caplog.set_level(logging.INFO)
    bad = clinic / "sub-Malee" / "dwi" / "sub-Malee_dwi.nii.gz"
    bad.parent.mkdir(parents=True)
    bad.write_bytes(b"Malee was here")
    (clinic / "Malee_link.nii.gz").symlink_to("/etc/hostname")
    copy, told = copied(clinic)
    assert not re.search("Somchai|สมชาย|Jaidee|Malee", caplog.text)
    assert "left out: something in DATA" in caplog.text
    (sent,) = [new for new, old in told["files"].items() if "Malee" in old]
    assert f"{sent} is sent as an empty file, which ingest refuses: not readable as NIfTI" in caplog.text
    assert (copy / sent).read_bytes() == b""
    assert f"3 patients get other names; which name is whose: {copy}.json" in caplog.text


def test_names_that_may_be_one_patient_or_two_are_left_out(tmp_path, write_npy, make_scan, copied, caplog):
    folder = tmp_path / "set"
    for seed, name in enumerate(("Anan", "anan", "Jos\u00e9", "Jose\u0301", "Mo Li", "Mo  Li", "Busaba")):
        write_npy(folder, name, make_scan(seed)[0])
    copy, told = copied(folder)
    assert list(told["files"].values()) == ["images/Busaba.npy"]
    assert len(told["left_out"]) == 6 and "left out: 6 files whose names look like another's" in caplog.text
    assert [np.load(p).shape for p in copy.rglob("*.npy")] == [(32, 24, 5)]


def test_a_folder_without_scans_is_refused_without_a_name(tmp_path, copied):
    (tmp_path / NAME).mkdir()
    (tmp_path / NAME / "Somchai.nii.gz").touch()
    with pytest.raises(StepError, match="DATA has no scans in one of the two layouts") as error:
        copied(tmp_path / NAME)
    assert "Somchai" not in str(error.value)


def test_a_file_that_cannot_be_read_is_named_by_its_other_name(clinic, copied, monkeypatch):
    monkeypatch.setattr("pipelines.strip_header.read", lambda path: path.with_name("Somchai").read_bytes())
    with pytest.raises(
        StepError, match=r"p[0-9a-f]{16}.* cannot be read \(No such file or directory\)\. Its own name: "
    ) as e:
        copied(clinic)
    assert not re.search("Somchai|Jaidee", str(e.value)) and e.value.__cause__ is None


def test_a_full_disk_is_said_in_words_that_name_nobody(clinic, copied, monkeypatch):
    def full(path, content):
        raise OSError(28, "No space left on device", str(clinic))

    monkeypatch.setattr("pipelines.pseudonyms.write_bytes", full)
    with pytest.raises(
        StepError, match=r"into .*pseudonyms \(No space left on device\)\. The copy needs disk space"
    ) as error:
        copied(clinic)
    assert not re.search("Somchai|Jaidee", str(error.value))


@pytest.mark.parametrize("key", ["", "secret", KEY[:-1]])
def test_a_short_key_is_refused_before_anything_is_done(tmp_path, clinic, key):
    with pytest.raises(StepError, match=f"PSEUDONYM_KEY has {len(key)} characters.*openssl rand") as error:
        pseudonymized(str(clinic), key, tmp_path / "state")
    assert not key or key not in str(error.value)
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize("key", ["a" * 64, "0123456789abcdef" * 4, "change me " * 5, "1221" * 20])
def test_a_key_that_is_easy_to_guess_is_refused(tmp_path, clinic, key):
    with pytest.raises(StepError, match=r"^PSEUDONYM_KEY is easy to guess.*openssl rand") as error:
        pseudonymized(str(clinic), key, tmp_path / "state")
    assert key not in str(error.value)
    assert not (tmp_path / "state").exists()


def test_a_forgotten_key_is_missed_before_a_name_is_uploaded(tmp_path, clinic, copied):
    copied(clinic)
    state = tmp_path / "state"
    with pytest.raises(StepError, match="is not set, but this folder was uploaded under other names before"):
        require_key_if_used_before(str(clinic), None, state)
    require_key_if_used_before(str(clinic), KEY, state)
    require_key_if_used_before(str(clinic.parent), None, state)


def test_without_a_key_it_says_that_names_leave_as_they_are(tmp_path, clinic, caplog):
    caplog.set_level("INFO")
    for data in ("", "s3://bucket/scans", "/no/such/folder"):
        require_key_if_used_before(data, None, tmp_path / "state")
    assert not caplog.text
    require_key_if_used_before(str(clinic), None, tmp_path / "state")
    assert "no PSEUDONYM_KEY: DATA is uploaded unchanged: file names, headers" in caplog.text


def test_scans_in_a_bucket_cannot_be_renamed_and_it_says_why(tmp_path):
    with pytest.raises(StepError, match="is in a bucket already, with its names"):
        pseudonymized("s3://bucket/scans", KEY, tmp_path)


@pytest.mark.parametrize("data", ["", "s3://bucket/scans", "/no/such/folder", "folder"])
def test_without_a_key_data_is_what_it_was(tmp_path, data):
    assert pseudonymized(data, None, tmp_path) == data
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("data", ["", "/no/such/folder"])
def test_with_a_key_what_is_no_folder_is_left_to_be_answered_as_ever(tmp_path, data):
    assert pseudonymized(data, KEY, tmp_path) == data
