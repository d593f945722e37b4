"""The whole pipeline on real scans, in both layouts; they are not ours to give, so this runs only where they lie."""

import shutil

import nibabel as nib
import numpy as np
import pytest

from tests.support.checkout import ROOT, Checkout

REAL = ROOT.parent / "shared" / "data" / "real-scans"
UNLABELLED = REAL / "isles-layout/sub-kinghaw/ses-0001/dwi/sub-kinghaw_ses-0001_dwi.nii.gz"
SMALL = "image_size=64 base_channels=4 epochs=1"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not REAL.is_dir(), reason="no real scans here (../shared/data)"),
]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    with Checkout(tmp_path_factory.mktemp("real") / "checkout", one_cpu=True) as checkout:
        yield checkout


@pytest.fixture(scope="module")
def said(checkout) -> str:
    return checkout.python("run", "--data", str(REAL / "isles-layout"), "--set", SMALL)


def test_the_isles_layout_ends_with_a_registered_model(checkout, said):
    assert checkout.last_run()["model"]["version"] == "1"
    assert "unlabelled sub-kinghaw_ses-0001" in said
    for unit, case in (("mm2/s", "sub-ads02"), ("1e-6 mm2/s", "sub-kinghaw")):
        assert f"{case}_ses-0001: ADC converted from {unit} to 1e-3 mm2/s" in said


def test_predict_on_the_unlabelled_scan_keeps_its_shape_and_affine(checkout, said, tmp_path):
    shutil.copy(UNLABELLED, tmp_path / "scan.nii.gz")
    predict = ("predict", "--input", str(tmp_path / "scan.nii.gz"), "--output", str(tmp_path / "mask.nii.gz"))
    assert "no version of dwi-attention-unet is champion" in checkout.python(*predict, check=False)
    checkout.python("promote", "--model", "models:/dwi-attention-unet/1", "--reason", "to see its masks")
    checkout.python(*predict)
    scan, mask = nib.load(tmp_path / "scan.nii.gz"), nib.load(tmp_path / "mask.nii.gz")
    assert mask.shape == scan.shape
    np.testing.assert_allclose(mask.affine, scan.affine, atol=1e-5)


def test_the_npy_layout_ends_with_a_registered_model_and_claims_no_millilitres(checkout, said):
    checkout.python("run", "--data", str(REAL / "npy-layout"), "--set", SMALL)
    run = checkout.last_run()
    assert run["status"] == "succeeded" and run["model"]["version"] == "2"
    assert run["metrics"]["test_patients"] == 1
    assert not any("_ml_" in name for name in run["metrics"])
