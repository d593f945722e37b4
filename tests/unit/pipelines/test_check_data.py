"""What a run finds out about a folder before it uploads anything."""

import numpy as np
import pytest

from components.core.errors import StepError
from components.core.settings import Settings
from pipelines import __main__ as command_line
from pipelines import check_data, presets
from pipelines.check_data import require_learnable


@pytest.fixture
def folder(tmp_path, make_scan, write_case):
    """A folder of scans of so many patients with a lesion, and of so many without one."""

    def write(lesions: int, lesion_free: int = 0, adc: bool = True):
        for number in range(lesions + lesion_free):
            dwi, adc_map, mask = make_scan(number)
            mask = mask if number < lesions else np.zeros_like(mask)
            write_case(tmp_path / "scans", f"sub-{number}", dwi=dwi, mask=mask, **({"adc": adc_map} if adc else {}))
        return str(tmp_path / "scans")

    return write


def test_a_folder_that_a_run_can_learn_from_passes_when_three_of_its_scans_are_read(folder, monkeypatch):
    read, validate = [], check_data.validate
    monkeypatch.setattr(check_data, "validate", lambda case, *a: read.append(case.name) or validate(case, *a))
    require_learnable(folder(6), Settings())
    assert len(read) == 3


@pytest.mark.parametrize("data", ["", "s3://bucket/scans"])
def test_demo_scans_and_what_is_in_a_bucket_are_left_to_the_steps(data):
    require_learnable(data, Settings())


def test_a_folder_without_a_scan_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("no scan")
    with pytest.raises(StepError, match=r"images/NAME\.nii\.gz"):
        require_learnable(str(tmp_path), Settings())


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(StepError, match="is not a folder"):
        require_learnable(str(tmp_path / "nowhere"), Settings())


def test_too_few_patients_with_a_lesion_are_refused_with_what_was_found(folder, caplog):
    caplog.set_level("INFO")
    with pytest.raises(StepError, match=r"3 labelled patients with a lesion are needed.*2 found"):
        require_learnable(folder(2, lesion_free=2), Settings())
    assert "4 labelled scans of 4 patients (2 lesion-free)" in caplog.text


def test_too_few_adc_maps_are_refused_where_the_network_is_to_see_them(folder):
    data = folder(4, adc=False)
    require_learnable(data, Settings())
    with pytest.raises(StepError, match=r"inputs=dwi\+adc needs 3 labelled patients"):
        require_learnable(data, Settings(inputs="dwi+adc"))


def test_fewer_patients_with_a_lesion_than_folds_are_refused(folder, monkeypatch):
    data = folder(4, lesion_free=2)
    monkeypatch.setenv("FOLDS", "4")
    require_learnable(data, Settings())
    monkeypatch.setenv("FOLDS", "5")
    with pytest.raises(StepError, match=r"FOLDS=5 needs 5 different patients with a lesion.*4 found"):
        require_learnable(data, Settings())


def test_it_says_what_a_test_on_the_patients_can_show(folder, tmp_path, caplog):
    caplog.set_level("INFO")
    assert check_data.check_data(folder(8, lesion_free=4), tmp_path / "state", presets.load("demo")) == 0
    assert "  test of 2: no interval; a comparison of two models can show nothing" in caplog.messages
    assert any(line.startswith("  FOLDS=5, test of all 12: mean Dice within ±0.16") for line in caplog.messages)
    assert any("asks for 10 test patients, about 50 patients with this split" in line for line in caplog.messages)


@pytest.mark.parametrize(
    "command",
    [
        *(["run", "--target", target] for target in ("local", "kind", "cluster")),
        ["experiments", "--presets", "n4"],
        ["schedule", "--cron", "0 2 * * *", "--target", "kind"],
    ],
    ids=lambda command: " ".join(command),
)
def test_every_command_that_uploads_a_folder_looks_before_it_connects_to_anything(
    command, tmp_path, monkeypatch, capsys
):
    def fail(*_, **__):
        raise AssertionError("it went on")

    (tmp_path / "notes.txt").write_text("no scan")
    monkeypatch.setattr(command_line, "STATE", tmp_path / ".local")
    monkeypatch.setattr("pipelines.local.services.up", fail)
    monkeypatch.setattr("pipelines.cluster.connect.connect", fail)
    monkeypatch.setattr("sys.argv", ["pipelines", *command, "--data", str(tmp_path)])
    assert command_line.main() == 1
    assert "images/NAME.nii.gz" in capsys.readouterr().err
