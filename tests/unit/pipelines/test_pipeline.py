"""The compiled pipeline: what the Kubeflow form asks for, what each step gets, and what its container runs."""

import os
import subprocess
import sys
from typing import get_args

import pytest
import yaml

from components.core.errors import StepError
from components.core.settings import Settings
from pipelines.image_tags import ROOT
from pipelines.pipeline import EVERY_STEP, STEPS, TRAIN_FOLDS, base_step, compile_to, folds_asked, steps_with

IMAGES = {step: f"somewhere/dwi-stroke-{step}:0123abcd" for step in STEPS}
KFP_TYPES = {"int": "NUMBER_INTEGER", "float": "NUMBER_DOUBLE", "bool": "BOOLEAN", "str": "STRING"}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    compiled = tmp_path_factory.mktemp("compiled") / "pipeline.yaml"
    compile_to(compiled, IMAGES)
    return compiled


@pytest.fixture(scope="module")
def spec(path):
    return yaml.safe_load(path.read_text())


@pytest.fixture(scope="module")
def tasks(spec):
    return spec["root"]["dag"]["tasks"]


@pytest.fixture(scope="module")
def containers(spec):
    executors = spec["deploymentSpec"]["executors"]
    return {name.removeprefix("exec-"): executor["container"] for name, executor in executors.items()}


def parameters(task: dict) -> dict[str, dict]:
    return task["inputs"].get("parameters", {})


def test_compiled_again_it_is_the_same_to_the_byte(path, tmp_path):
    compile_to(tmp_path / "again.yaml", IMAGES)
    assert (tmp_path / "again.yaml").read_bytes() == path.read_bytes()


@pytest.mark.slow
def test_compiled_in_another_process_with_another_hash_seed_it_is_the_same_to_the_byte(path, tmp_path):
    program = f"""
from pathlib import Path
from pipelines.pipeline import compile_to
compile_to(Path("there.yaml"), {IMAGES})
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "7"}
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=environment, check=True)
    assert (tmp_path / "there.yaml").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("what", ["policy", "card"])
def test_a_policy_or_a_cards_text_that_is_none_is_known_before_anything_runs(tmp_path, monkeypatch, what):
    def refuse():
        raise StepError(f"{what}.yaml: this is none")

    monkeypatch.setattr(f"components.register.{what}.load", refuse)
    with pytest.raises(StepError, match=f"{what}.yaml: this is none"):
        compile_to(tmp_path / "pipeline.yaml", IMAGES)


def test_the_steps_are_those_of_the_design(tasks):
    assert set(tasks) == set(STEPS)


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_is_a_parameter_with_its_default_and_type(spec, name):
    default = getattr(Settings(), name)
    parameter = spec["root"]["inputDefinitions"]["parameters"][name]
    assert parameter["defaultValue"] == default
    assert parameter["parameterType"] == KFP_TYPES[type(default).__name__]


@pytest.mark.parametrize("name", Settings.model_fields)
def test_kubeflows_form_offers_the_choices_of_a_setting_as_a_list(spec, name):
    parameter = spec["root"]["inputDefinitions"]["parameters"][name]
    assert tuple(parameter.get("literals", ())) == get_args(Settings.model_fields[name].annotation)
    assert "literals" not in parameter or parameter["defaultValue"] in parameter["literals"]


def test_the_pipeline_says_what_it_is_and_where_to_read_on(spec):
    said = spec["pipelineInfo"]["description"]
    assert "stroke lesions" in said and "Research use only" in said and "README.md" in said


def test_besides_the_settings_there_are_the_data(spec):
    asked = spec["root"]["inputDefinitions"]["parameters"]
    assert asked.keys() - set(Settings.model_fields) == {"data_uri"}
    assert asked["data_uri"]["parameterType"] == "STRING"
    assert "defaultValue" not in asked["data_uri"]


@pytest.mark.parametrize("name", [*Settings.model_fields, "data_uri"])
def test_every_parameter_reaches_a_step_under_its_own_name(tasks, name):
    sources = [parameters(task)[name] for task in tasks.values() if name in parameters(task)]
    assert sources
    assert all(source == {"componentInputParameter": name} for source in sources)


@pytest.mark.parametrize(
    ("step", "name"), [("ingest", "data_version"), ("ingest", "parent"), ("split", "lineage"), ("train", "parent")]
)
def test_what_fingerprint_finds_is_an_argument_of_the_cached_steps(tasks, step, name):
    """An argument is in the cache's key: data or lineage that changed are noticed."""
    assert parameters(tasks[step])[name] == {
        "taskOutputParameter": {"outputParameterKey": name, "producerTask": "fingerprint"}
    }


def test_fingerprint_gets_all_that_decides_a_split(tasks):
    decides = parameters(tasks["split"]).keys() - {"lineage"}
    assert decides <= parameters(tasks["fingerprint"]).keys()


def test_what_passes_between_the_steps_comes_from_the_step_that_makes_it(tasks):
    passed = {
        step: {
            name: source["taskOutputArtifact"]["producerTask"]
            for name, source in task["inputs"].get("artifacts", {}).items()
        }
        for step, task in tasks.items()
    }
    assert passed == {
        "fingerprint": {},
        "ingest": {},
        "preprocess": {"cases": "ingest"},
        "split": {"cases": "ingest"},
        "train": {"cases": "ingest", "slices": "preprocess", "split": "split"},
        "evaluate": {"cases": "ingest", "split": "split", "model": "train"},
        "register": {"model": "train", "evaluation": "evaluate"},
    }


def test_fingerprint_looks_every_time_and_every_other_step_may_come_from_cache(tasks):
    cached = {step for step, task in tasks.items() if task["cachingOptions"].get("enableCache", False)}
    assert cached == set(STEPS) - {"fingerprint"}


def test_every_step_runs_in_the_image_that_was_given(containers):
    assert {step: container["image"] for step, container in containers.items()} == IMAGES


def test_no_container_installs_anything_when_it_starts(containers):
    for container in containers.values():
        told = " ".join([*container["command"], *container["args"]])
        assert "executor_main" in told
        assert "pip" not in told.replace("pipeline", "")


def test_every_step_and_each_of_its_inputs_is_described_for_the_form(spec):
    for step in STEPS:
        component = spec["deploymentSpec"]["executors"][f"exec-{step}"]["container"]["command"][-1]
        described = component.split('"""')[1]
        inputs = spec["components"][f"comp-{step}"]["inputDefinitions"]
        for name in [*inputs.get("parameters", {}), *inputs.get("artifacts", {})]:
            assert f"{name}:" in described, f"{step} does not say what {name} is"


@pytest.fixture(scope="module")
def folds(tmp_path_factory):
    """The pipeline with five folds."""
    compiled = tmp_path_factory.mktemp("compiled") / "folds.yaml"
    compile_to(compiled, dict.fromkeys(steps_with(5), "somewhere/dwi-stroke:0123abcd"), folds=5)
    return yaml.safe_load(compiled.read_text())


def test_each_fold_has_a_train_step_of_its_own_and_no_loop(folds):
    tasks = folds["root"]["dag"]["tasks"]
    assert set(tasks) == set(steps_with(5)) == {*STEPS, *TRAIN_FOLDS[:5], "ensemble"} - {"train"}
    assert not any("iterator" in str(task) or "Iterator" in str(task) for task in tasks.values())
    for number, step in enumerate(TRAIN_FOLDS[:5], start=1):
        assert parameters(tasks[step])["fold"] == {"runtimeValue": {"constant": number}}
        others = {name: source for name, source in parameters(tasks[step]).items() if name not in ("fold", "parent")}
        assert others == {name: {"componentInputParameter": name} for name in others}
        assert tasks[step]["cachingOptions"] == {"enableCache": True}


def test_split_and_fingerprint_know_how_many_folds_there_are(folds, tasks):
    for step in ("fingerprint", "split"):
        assert parameters(folds["root"]["dag"]["tasks"][step])["folds"] == {"runtimeValue": {"constant": 5}}
        assert "folds" not in parameters(tasks[step])


def test_the_networks_of_all_folds_go_into_the_ensemble_and_it_into_the_later_steps(folds):
    tasks = folds["root"]["dag"]["tasks"]

    def sources(step: str) -> dict[str, str]:
        artifacts = tasks[step]["inputs"]["artifacts"]
        return {name: source["taskOutputArtifact"]["producerTask"] for name, source in artifacts.items()}

    assert sources("ensemble") == {"split": "split", **{f"model_{n}": f"train-fold-{n}" for n in range(1, 6)}}
    for step in TRAIN_FOLDS[:5]:
        assert sources(step) == {"cases": "ingest", "slices": "preprocess", "split": "split"}
        assert tasks[step].get("dependentTasks") == ["fingerprint", "ingest", "preprocess", "split"]
    assert sources("evaluate") == {"cases": "ingest", "split": "split", "model": "ensemble"}
    assert sources("register") == {"model": "ensemble", "evaluation": "evaluate"}


def test_every_step_of_any_number_of_folds_is_known_and_runs_the_code_of_a_component():
    for count in (1, 3, 10):
        assert set(steps_with(count)) <= set(EVERY_STEP)
    assert {base_step(step) for step in EVERY_STEP} == {*STEPS, "ensemble"}
    assert all((ROOT / "components" / base_step(step) / "component.py").is_file() for step in EVERY_STEP)


@pytest.mark.parametrize(("asked", "count"), [(None, 1), ("", 1), ("1", 1), ("3", 3), ("10", 10)])
def test_the_number_of_folds_is_that_of_the_variable(monkeypatch, asked, count):
    monkeypatch.delenv("FOLDS", raising=False)
    if asked is not None:
        monkeypatch.setenv("FOLDS", asked)
    assert folds_asked() == count


@pytest.mark.parametrize("asked", ["0", "2", "11", "-5", "five", "5.0"])
def test_an_impossible_number_of_folds_is_refused_with_the_possible_ones(monkeypatch, asked):
    monkeypatch.setenv("FOLDS", asked)
    with pytest.raises(StepError, match=f"FOLDS={asked} is impossible: give 3 to 10 folds"):
        folds_asked()
