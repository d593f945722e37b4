"""Every step on real services, once per layout of the scans: from a folder to a registered model."""

import pytest

from tests.faults import steps


@pytest.mark.parametrize("layout", ["BIDS", "images and masks"])
def test_every_step_leads_to_a_registered_model(
    layout, registry, make_scan, write_case, write_npy, tmp_path, monkeypatch
):
    for number in range(6):
        dwi, adc, mask = make_scan(number)
        if layout == "BIDS":
            write_case(tmp_path / "scans", f"sub-{number}", dwi=dwi, adc=adc, mask=mask)
        else:
            write_npy(tmp_path / "scans", f"Patient_{number}", dwi, mask)
    monkeypatch.setenv("KFP_RUN_ID", layout)
    monkeypatch.setenv("IMAGE_TAG", "components:1")
    monkeypatch.setenv("SCRATCH_DIR", str(tmp_path / "scratch"))
    steps.run(tmp_path / "scans", tmp_path / "out")
    (version,) = steps.versions()
    assert "challenger" in registry.get_model_version(version.name, version.version).aliases
    assert [run.info.status for run in steps.runs_of(layout)] == ["FINISHED"]
    assert len(steps.digests(tmp_path / "out")) > 6
