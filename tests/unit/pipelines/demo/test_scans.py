"""The demo scans are synthetic, say so, repeat to the byte, and hold what they claim to hold."""

import csv
import json
from functools import lru_cache
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from pipelines.demo import scans
from pipelines.demo.lesions import lesion_volume_ml
from pipelines.demo.scans import simulate_scan, write_demo_scans

SEED = 42
LESION_FREE = 13

simulate = lru_cache(simulate_scan)


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "set"
    return folder, write_demo_scans(folder, patients=3, seed=SEED, processes=1)


def images(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.nii.gz"))}


def load(folder: Path, name: str, kind: str) -> nib.Nifti1Image:
    (path,) = folder.rglob(f"{name}_ses-0001_{kind}.nii.gz")
    return nib.load(path)


@pytest.mark.slow
def test_a_patient_repeats_to_the_byte_whatever_the_size_of_the_set(demo, tmp_path):
    folder, patients = demo
    again = write_demo_scans(tmp_path / "another-name", patients=1, seed=SEED, processes=2)

    assert again == patients[:1]
    first = {name: data for name, data in images(folder).items() if "demo0001" in name}
    assert len(first) == 3 and images(tmp_path / "another-name") == first


def test_layout_is_that_of_isles22(demo):
    folder, _ = demo
    for name in ("sub-demo0001", "sub-demo0002", "sub-demo0003"):
        for path in (
            f"{name}/ses-0001/dwi/{name}_ses-0001_dwi.nii.gz",
            f"{name}/ses-0001/dwi/{name}_ses-0001_adc.nii.gz",
            f"derivatives/{name}/ses-0001/{name}_ses-0001_msk.nii.gz",
        ):
            assert (folder / path).is_file()
    assert len(images(folder)) == 9


def test_every_file_says_that_it_is_synthetic(demo):
    folder, patients = demo
    description = json.loads((folder / "dataset_description.json").read_text())
    assert "SYNTHETIC" in description["Name"] and "not real patients" in description["Name"]
    assert description["Seed"] == SEED and description["GeneratedBy"][0]["Name"] == "pipelines.demo.scans"
    assert (folder / "README").read_text().startswith("SYNTHETIC")
    with (folder / "participants.tsv").open() as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert [row["participant_id"] for row in rows] == [patient.name for patient in patients]
    assert all(row["site"].startswith("SYNTHETIC") for row in rows)
    for path in folder.rglob("*.nii.gz"):
        assert bytes(nib.load(path).header["descrip"].item()) == b"SYNTHETIC demo, not a patient"


def test_dwi_adc_and_mask_share_a_grid(demo):
    folder, patients = demo
    for patient in patients:
        dwi, adc, mask = (load(folder, patient.name, kind) for kind in ("dwi", "adc", "msk"))
        assert dwi.shape == adc.shape == mask.shape
        assert np.array_equal(dwi.affine, adc.affine) and np.array_equal(dwi.affine, mask.affine)
        assert dwi.header.get_zooms()[2] == pytest.approx(patient.slice_thickness_mm, abs=0.001)
        assert nib.aff2axcodes(dwi.affine) in (("R", "A", "S"), ("L", "A", "S"))
        assert set(np.unique(mask.get_fdata())) <= {0, 1}


def test_the_table_tells_the_volume_of_the_mask(demo):
    folder, patients = demo
    for patient in patients:
        mask = load(folder, patient.name, "msk")
        assert mask.get_fdata().sum() * np.prod(mask.header.get_zooms()) / 1000 == pytest.approx(
            patient.lesion_volume_ml, abs=0.001
        )
        assert patient.lesion_volume_ml == pytest.approx(patient.lesion_volume_asked_ml, rel=0.05, abs=0.05)
        assert patient.lesion_components >= 1 and not patient.lesion_free


@pytest.mark.parametrize("index, per_mm2_s", [(0, 1e3), (1, 1e6), (2, 1.0)])
def test_adc_is_written_in_the_units_of_three_scanners(demo, index, per_mm2_s):
    folder, patients = demo
    truth = simulate(index, SEED)
    adc = load(folder, patients[index].name, "adc").get_fdata() / per_mm2_s
    assert np.median(adc[(truth.gray > 0.9) & ~truth.mask]) == pytest.approx(0.82e-3, rel=0.12)
    assert np.median(adc[(truth.white > 0.9) & ~truth.mask]) == pytest.approx(0.72e-3, rel=0.12)


def test_one_patient_in_eight_has_no_lesion():
    assert [index for index in range(24) if lesion_volume_ml(index, SEED) == 0] == [5, 13, 21]
    assert not simulate(LESION_FREE, SEED).mask.any()


@pytest.mark.parametrize("seed", [0, 1, SEED])
def test_lesion_volumes_have_the_percentiles_of_real_strokes(seed):
    volumes = [volume for index in range(200) if (volume := lesion_volume_ml(index, seed))]
    assert np.percentile(volumes, [5, 50, 95]) == pytest.approx([0.3, 12.7, 197], rel=0.15)
    assert max(volumes) <= 320


@pytest.mark.parametrize("seed", [0, 1, SEED])
def test_a_set_of_24_spans_the_range_of_volumes(seed):
    volumes = np.array([lesion_volume_ml(index, seed) for index in range(24)])
    assert (volumes[volumes > 0] < 2).sum() >= 3
    assert ((volumes > 2) & (volumes < 60)).sum() >= 8
    assert (volumes > 60).sum() >= 3


def test_an_interrupted_run_leaves_nothing_behind(tmp_path, monkeypatch):
    def interrupted(folder: Path, seed: int, index: int) -> None:
        (folder / f"half-written-{index}").write_text("")
        raise KeyboardInterrupt

    monkeypatch.setattr(scans, "write_patient", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_demo_scans(tmp_path / "set", patients=2, processes=1)
    assert list(tmp_path.iterdir()) == []


def test_a_second_call_writes_nothing(demo, monkeypatch):
    folder, patients = demo
    monkeypatch.setattr(scans, "write_patient", None)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert write_demo_scans(folder, patients=3, seed=SEED) == patients
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_another_demo_set_is_replaced_and_anything_else_is_left_alone(tmp_path):
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    write_demo_scans(ours, patients=0, processes=1)
    write_demo_scans(ours, patients=1, processes=1)
    assert len(images(ours)) == 3 and list(tmp_path.iterdir()) == [ours]

    theirs.mkdir()
    (theirs / "scan.nii.gz").write_bytes(b"precious")
    with pytest.raises(FileExistsError, match="Name another folder"):
        write_demo_scans(theirs, patients=1, processes=1)
    assert (theirs / "scan.nii.gz").read_bytes() == b"precious"
