"""Two processes train as one: over gloo on this CPU, as NCCL does it on GPUs, with a real S3 and a real MLflow.

The same scans, settings and seed, once in one process and once in two through torchrun: every epoch's metrics
agree but for rounding (test_ranks compares losses, gradients and statistics), and there is one MLflow run.
"""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import mlflow
import psutil
import pytest
import torch

from components.core.errors import StepError
from components.core.settings import checked
from components.core.storage import Storage, file_sha256, work_bucket
from components.ingest.discover import discover
from components.ingest.ingest import check
from components.model.inference import load_model
from components.model.network import NORMS, AttentionUNet
from components.preprocess.preprocess import preprocess
from components.registry.tracking import EXPERIMENT
from components.split.split import split
from components.train import learner, torchrun_worker, validation
from components.train.launch import launch
from components.train.preemption import Preempted
from components.train.torchrun import torchrun
from components.train.training_inputs import TrainingPaths
from pipelines.image_tags import ROOT

SETTINGS = {
    "base_channels": 4, "epochs": 3, "batch_size": 6, "learning_rate": 5e-3, "weight_decay": 1e-5, "loss": "dice+bce",
    "early_stop_patience": 20, "lesion_free_ratio": 1.0, "aug_hflip_prob": 0.5, "aug_rotate_prob": 0.5,
    "aug_brightness_prob": 0.5, "random_seed": 3, "precision": "float32", "memory_format": "contiguous",
}  # fmt: skip
SIDE = 32


PATIENTS = 8


@pytest.fixture(scope="module")
def inputs(tmp_path_factory, make_scan, write_case, keys_of) -> list[Path]:
    """Cases, slices, split and report, made by the steps before."""
    folder = tmp_path_factory.mktemp("inputs")
    scans, cases, slices, parts, page = (folder / n for n in ("scans", "cases", "slices", "split.json", "report.html"))
    for number in range(PATIENTS):
        dwi, adc, mask = make_scan(number)
        write_case(scans, f"sub-{number}", dwi=dwi, adc=adc, mask=mask)
    check(discover(keys_of(scans)), scans, cases, data_uri="s3://scans", data_version="1").write(cases)
    preprocess(cases, slices, SIDE, "volume")
    split(cases, parts, folder / "split.html", (0.5, 0.375, 0.125), 0)
    page.write_text("<html></html>")
    return [cases, slices, parts, page]


@pytest.fixture
def train(inputs, tmp_path, servers_here, monkeypatch):
    """train(name, how, seed): the model folder of a training as pipeline run `name`."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))

    def run(name: str, how, seed: int = 3, **more) -> Path:
        monkeypatch.setenv("KFP_RUN_ID", name)
        paths = TrainingPaths(*inputs, tmp_path / name, tmp_path / f"{name}.html")
        how(paths, checked({**SETTINGS, "random_seed": seed, **more}))
        return tmp_path / name

    return run


@pytest.fixture
def checkpoints(servers_here):
    """The training states in object storage; none before the test and none after it."""
    storage = Storage(f"s3://{work_bucket()}/checkpoints")
    storage.delete([o.key for o in storage.list()])
    yield storage
    storage.delete([o.key for o in storage.list()])


def two(paths: TrainingPaths, settings) -> None:
    torchrun(2, paths, settings)


def history(model: Path) -> list[dict]:
    return json.loads((model / "history.json").read_text())


RECIPE = {
    "loss": "slice_dice+bce", "schedule": "cosine", "prior_bias": True, "ema_decay": 0.99, "norm": "instance",
    "sampling": "patients", "augmentation": "strong",
}  # fmt: skip
AVERAGE = {"ema_decay": 0.9, "deep_supervision": True}
WAYS = [
    pytest.param({}, id="plain"),
    pytest.param({"deep_supervision": True, "loss": "focal_tversky"}, id="deep", marks=pytest.mark.slow),
    pytest.param(RECIPE, id="recipe", marks=pytest.mark.slow),
    pytest.param(AVERAGE, id="average of batch norm", marks=pytest.mark.slow),
]


@pytest.mark.slow
@pytest.mark.parametrize("more", WAYS)
def test_two_processes_learn_what_one_learns(train, checkpoints, more):
    more = {"learning_rate": 2e-3} | more  # a small step: what is rounded otherwise grows with it
    one = train("one", launch, **more)
    checkpoints.delete([o.key for o in checkpoints.list()])
    both = train("both", two, **more)

    for alone, shared in zip(history(one), history(both), strict=True):
        for what in ("train_loss", "train_dice", "val_loss", "val_dice", "learning_rate"):
            assert shared[what] == pytest.approx(alone[what], abs=2e-3), (what, alone["epoch"])


@pytest.mark.slow
def test_the_model_of_a_deeply_supervised_training_loads_as_any_other(train, checkpoints):
    network, _ = load_model(train("deep", launch, deep_supervision=True))
    assert {name.partition(".")[0] for name in network.state_dict()} == {
        name for name, _ in AttentionUNet(4).named_children()
    }


@pytest.mark.slow
def test_each_part_of_the_recipe_is_in_mlflow_and_the_model_loads_with_its_norm(train, checkpoints):
    model = train("recipe", launch, **RECIPE)
    network, facts = load_model(model)
    assert any(type(module) is NORMS["instance"] for module in network.modules()) and facts.norm == "instance"
    logged = only_run("recipe").data.params
    assert {name: logged[name] for name in RECIPE} == {name: str(value) for name, value in RECIPE.items()}
    rates = [row["learning_rate"] for row in history(model)]
    assert rates == sorted(rates, reverse=True) and 0 < rates[-1] < SETTINGS["learning_rate"] / 10


@pytest.mark.slow
def test_a_falling_rate_leaves_early_stopping_as_it_is(train, checkpoints, monkeypatch):
    monkeypatch.setattr("components.train.learn.selection_score", lambda rows, selection: 1 / len(rows))
    model = train("early", launch, schedule="poly", epochs=9, early_stop_patience=2)
    assert len(history(model)) == 3 and json.loads((model / "model.json").read_text())["best_epoch"] == 1


@pytest.mark.slow
def test_a_deeply_supervised_training_goes_on_where_it_was_killed(train, checkpoints, monkeypatch):
    whole = history(train("whole", launch, deep_supervision=True))
    checkpoints.delete([o.key for o in checkpoints.list()])
    with monkeypatch.context() as patch:
        patch.setattr("components.train.learn._log_epochs", _killed_after_two)
        with pytest.raises(KeyboardInterrupt):
            train("killed", launch, deep_supervision=True)
    again = history(train("again", launch, deep_supervision=True))
    assert measured(again) == measured(whole)


def measured(rows: list[dict]) -> list[dict]:
    return [{name: value for name, value in row.items() if name not in ("time", "seconds")} for row in rows]


def _killed_after_two(_, rows: list[dict]) -> None:
    if len(rows) == 2:
        raise KeyboardInterrupt


@pytest.mark.slow
def test_they_keep_one_mlflow_run_and_one_checkpoint_with_which_one_process_goes_on(train, checkpoints):
    both = train("two processes", two, seed=4)
    runs = mlflow.MlflowClient().search_runs(
        [mlflow.get_experiment_by_name(EXPERIMENT).experiment_id], "tags.kfp_run_id = 'two processes'"
    )
    assert [run.data.params["processes"] for run in runs] == ["2"]
    assert all(re.fullmatch(r"2 x cpu, \d+ threads", run.data.params["devices"]) for run in runs)
    assert [m.step for m in mlflow.MlflowClient().get_metric_history(runs[0].info.run_id, "val_dice")] == [1, 2, 3]
    assert len(list(checkpoints.list())) == 1

    alone = train("going on alone", launch, seed=4)  # there is nothing left to do: the state is whole
    assert history(alone) == history(both)
    assert (alone / "best_model.pth").read_bytes() == (both / "best_model.pth").read_bytes()


CUT = {"tta": True, "cca": True}


def only_run(pipeline_run: str):
    experiment = mlflow.get_experiment_by_name(EXPERIMENT).experiment_id
    (run,) = mlflow.MlflowClient().search_runs([experiment], f"tags.kfp_run_id = '{pipeline_run}'")
    return run


@pytest.mark.slow
def test_what_only_cuts_otherwise_takes_the_finished_weights_and_is_a_run_of_its_own(
    train, checkpoints, monkeypatch, caplog
):
    plain = train("plain", launch, seed=5, tta=False)
    monkeypatch.setattr("components.train.learn._epoch", None)  # any training now would end in an error
    with caplog.at_level("INFO"):
        cut = train("cut", launch, seed=5, **CUT)
    assert file_sha256(cut / "best_model.pth") == file_sha256(plain / "best_model.pth")
    assert "continuing after epoch 3 of 3, from the checkpoint" in caplog.text
    assert len(list(checkpoints.list())) == 1

    facts = [json.loads((model / "model.json").read_text()) for model in (plain, cut)]
    assert [f["weights_sha256"] for f in facts] == [file_sha256(model / "best_model.pth") for model in (plain, cut)]
    assert (facts[0]["tta"], facts[1]["tta"]) == (False, True)
    assert facts[1]["smallest_lesion_ml"] is not None and facts[0]["smallest_lesion_ml"] is None
    assert facts[0]["training_digest"] != facts[1]["training_digest"]

    one, other = only_run("plain"), only_run("cut")
    assert one.info.run_id != other.info.run_id
    assert other.data.params["tta"] == other.data.params["cca"] == "True"
    curves = [
        [(m.step, m.value) for m in mlflow.MlflowClient().get_metric_history(run.info.run_id, "val_dice")]
        for run in (one, other)
    ]
    assert curves[0] == curves[1] and [step for step, _ in curves[1]] == [1, 2, 3]


@pytest.mark.slow
def test_what_the_weights_cost_is_known_of_every_run_that_has_them(train, checkpoints):
    for name, more in (("plain cost", {}), ("cut cost", CUT)):
        train(name, launch, seed=6, **more)
    plain, cut = (only_run(name).data.metrics for name in ("plain cost", "cut cost"))
    assert plain["training_seconds"] > 0 and plain["training_seconds_taken_over"] == 0
    assert cut["training_seconds"] == cut["training_seconds_taken_over"] == plain["training_seconds"]


@pytest.mark.slow
def test_a_killed_training_is_gone_on_with_under_another_cut(train, checkpoints, monkeypatch):
    whole = history(train("whole plain", launch, seed=7))
    checkpoints.delete([o.key for o in checkpoints.list()])
    with monkeypatch.context() as patch:
        patch.setattr("components.train.learn._log_epochs", _killed_after_two)
        with pytest.raises(KeyboardInterrupt):
            train("killed plain", launch, seed=7)
    assert measured(history(train("cut after it", launch, seed=7, **CUT))) == measured(whole)
    steps = [m.step for m in mlflow.MlflowClient().get_metric_history(only_run("cut after it").info.run_id, "val_dice")]
    assert steps == [1, 2, 3]


@pytest.mark.slow
@pytest.mark.sampled(3)
@pytest.mark.parametrize("more", [{"deep_supervision": True}, {"loss": "dice"}, {"seed": 9}], ids=str)
def test_what_decides_the_weights_is_another_training(train, checkpoints, more):
    train("before", launch, seed=8)
    train("after", launch, **{"seed": 8, **more})
    assert len({o.key.split("/")[0] for o in checkpoints.list()}) == 2


@pytest.mark.slow
def test_two_processes_take_the_weights_that_one_has_trained(train, checkpoints):
    alone = train("alone before", launch, seed=10)
    both = train("two with another cut", two, seed=10, **CUT)
    assert (alone / "best_model.pth").read_bytes() == (both / "best_model.pth").read_bytes()


@pytest.mark.slow
def test_what_goes_wrong_in_a_process_is_said_as_if_there_were_one(inputs, tmp_path, servers_here, monkeypatch, capfd):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    cases, slices, parts, page = inputs
    wrong = tmp_path / "split.json"
    facts = json.loads(parts.read_text())
    wrong.write_text(json.dumps({**facts, "digest": "gone", "cases": {**facts["cases"], "train": ["nobody"]}}))
    with pytest.raises(StepError, match=r"^the split names the case nobody, and "):
        paths = TrainingPaths(cases, slices, wrong, page, tmp_path / "model", tmp_path / "curves.html")
        torchrun(2, paths, checked(SETTINGS))
    assert not (tmp_path / "model").exists()


def test_a_batch_that_is_too_small_to_share_is_refused(inputs, tmp_path):
    with pytest.raises(StepError, match=r"batch_size=6 is too small for 8 GPUs. Raise it to 8 or more"):
        torchrun(8, TrainingPaths(*inputs, tmp_path, tmp_path), checked(SETTINGS))


@pytest.fixture
def sigterm_at(monkeypatch):
    """sigterm_at(learner, "loss_over_levels", 3): SIGTERM comes in the third call of it from now on."""

    def at(module, name: str, which: int) -> None:
        calls, whole = iter(range(1, 10_000)), getattr(module, name)

        def call(*arguments):
            if next(calls) == which:
                os.kill(os.getpid(), signal.SIGTERM)
            return whole(*arguments)

        monkeypatch.setattr(module, name, call)

    return at


@pytest.mark.sampled(3)
@pytest.mark.parametrize("more", [{}, RECIPE, AVERAGE], ids=["plain", "recipe", "average"])
def test_sigterm_keeps_what_is_learnt_to_the_batch_and_going_on_ends_bit_identical(
    train, checkpoints, sigterm_at, monkeypatch, more
):
    more = {"seed": 8, "epochs": 2, "batch_size": 2, **more}
    whole = train("whole", launch, **more)
    checkpoints.delete([o.key for o in checkpoints.list()])
    learnt, step, before = [], torch.optim.Adam.step, signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(torch.optim.Adam, "step", lambda self, *more: (learnt.append(1), step(self, *more)))
    for moment in [(learner, "loss_over_levels", 3), (validation, "stack_logits", 2)]:
        sigterm_at(*moment)
        with pytest.raises(Preempted) as end:
            train("preempted", launch, **more)
        assert end.value.code == 143 and signal.getsignal(signal.SIGTERM) is before
        assert len(checkpoints.list()) == 1
    again = train("again", launch, **more)
    assert measured(history(again)) == measured(history(whole))
    assert file_sha256(again / "best_model.pth") == file_sha256(whole / "best_model.pth")
    params = json.loads((whole / "model.json").read_text())["params"]
    assert len(learnt) == 2 * -(-params["train_slices_per_epoch"] // 2), "a batch was learnt twice"


@pytest.mark.slow
def test_processes_that_train_together_end_with_the_step_and_keep_the_last_epoch(inputs, tmp_path, checkpoints):
    code = (
        "import json, sys; from components.core.settings import checked; from components.core.step import step\n"
        "from components.train.torchrun import torchrun\n"
        "from components.train.training_inputs import TrainingPaths\n"
        "paths, settings = json.loads(sys.argv[1])\n"
        "with step('train'): torchrun(2, TrainingPaths.from_list(paths), checked(settings))"
    )
    arguments = torchrun_worker.arguments(
        TrainingPaths(*inputs, tmp_path / "model", tmp_path / "page.html"),
        checked({**SETTINGS, "epochs": 500, "random_seed": 11}),
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "KFP_RUN_ID": "together"}
    with subprocess.Popen(
        [sys.executable, "-c", code, arguments], stdout=subprocess.PIPE, text=True, env=environment
    ) as started:
        next(line for line in started.stdout if line.startswith("epoch 2/"))
        family = psutil.Process(started.pid).children(recursive=True)
        started.terminate()
        out = started.communicate()[0]
    assert started.returncode == 143, out
    assert psutil.wait_procs(family, timeout=10)[1] == []
    assert len(checkpoints.list()) >= 1
