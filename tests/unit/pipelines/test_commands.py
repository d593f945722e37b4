"""What START does to the preset and the settings of a run; what commands load."""

import contextlib
import subprocess
import sys
from argparse import Namespace

import pytest

from components.core.errors import StepError
from pipelines import commands, target

MODEL = "models:/dwi-attention-unet@champion"


@pytest.fixture
def ran(monkeypatch, tmp_path):
    """ran(start=..., preset=...): what `make pipeline-run` runs."""
    calls: list[dict] = []
    here = Namespace(run=lambda **what: calls.append(what))
    monkeypatch.setattr(target, "target", lambda name: here)

    def run(**given: str) -> dict:
        usual = {"target": "local", "data": "", "preset": "demo", "set": "", "start": "", "series": ""}
        commands.run_pipeline(Namespace(**usual | given, pseudonym_key=None, state=tmp_path))
        return calls[-1]

    return run


def test_start_adds_the_preset_and_names_the_model(ran):
    run = ran(start=MODEL)
    assert run["preset"] == "demo+fine-tune"
    assert (run["settings"].start, run["settings"].start_rate, run["settings"].schedule) == (MODEL, 0.3, "cosine")


def test_a_setting_lies_over_the_preset_of_start(ran):
    assert ran(start=MODEL, set="start_rate=0.1")["settings"].start_rate == 0.1


def test_the_preset_is_not_added_twice(ran):
    assert ran(start=MODEL, preset="demo+fine-tune")["preset"] == "demo+fine-tune"


def test_without_start_nothing_changes(ran):
    run = ran()
    assert (run["preset"], run["settings"].start) == ("demo", "")


def test_a_start_that_is_no_address_is_refused_before_anything_runs(ran):
    with pytest.raises(StepError, match="start=champion is impossible"):
        ran(start="champion")


def test_experiments_fix_the_version_before_their_first_run(monkeypatch, tmp_path):
    given = {}
    here = Namespace(services=lambda state: contextlib.nullcontext())
    monkeypatch.setattr(target, "target", lambda name: here)
    monkeypatch.setattr(
        "components.registry.parent.find_parent", lambda start: f"models:/dwi-attention-unet/7#{'a' * 64}"
    )
    monkeypatch.setattr(
        "pipelines.experiments.run_experiments.experiments",
        lambda names, seeds, base, data, assignments, target, state: given.update(base=base, set=assignments) or 0,
    )
    commands.run_experiments(
        Namespace(target="local", data="", preset="demo", set="epochs=1", start=MODEL, presets="n4", seeds="2",
                  series="",
                  pseudonym_key=None, state=tmp_path)
    )  # fmt: skip
    assert given == {"base": "demo+fine-tune", "set": "epochs=1 start=models:/dwi-attention-unet/7"}


@pytest.mark.parametrize(
    "code",
    [
        "import pipelines.predict.folder, pipelines.predict.registered_model, pipelines.predict.serve",
        "commands._as_nifti(Namespace(data='s3://bucket/scans', series=''))",
        "commands._as_nifti(Namespace(data='', series=''))",
        "commands._as_nifti(Namespace(data='manifests', series=''))",
    ],
)
def test_what_dicom_needs_is_loaded_for_dicom_alone(code):
    script = f"""
import sys
from argparse import Namespace
from pipelines import commands
{code}
assert not {{"highdicom", "dcm2niix", "pipelines.dicom.headers"}} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
