"""MLflow runs against a real server."""

import json
import os
import re
import subprocess
import sys
import time
import uuid

import mlflow
import pytest

from components.core import run_name
from components.core.errors import StepError
from components.registry import mlflow_requests, run_records, tracking
from components.registry.datasets import dataset_inputs, subsets_dataset
from components.registry.mlflow_page import KIND, NOTE, VIEW_TAG
from components.registry.mlflow_requests import find_or_create
from components.registry.tracking import MODEL_NAME, Run
from pipelines.local.run_locally import _close_tracking
from tests.faults.proxy import Proxy
from tests.support.artifacts import make_case, make_cases, make_split

pytestmark = pytest.mark.usefixtures("servers_here")


def epochs(count: int) -> list[dict]:
    names = ("train_loss", "train_dice", "val_loss", "val_dice", "learning_rate")
    return [{"epoch": e, "time": time.time(), **dict.fromkeys(names, e / 10)} for e in range(1, count + 1)]


@pytest.fixture
def kfp_run(monkeypatch) -> str:
    name = f"run-{uuid.uuid4().hex[:8]}"
    monkeypatch.setenv("KFP_RUN_ID", name)
    return name


@pytest.fixture
def proxy(servers_here, monkeypatch):
    """Before the MLflow server; its client tries once more and then says so."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")
    monkeypatch.setattr(mlflow_requests, "CREATE_SECONDS", 3.0)
    with Proxy(os.environ["MLFLOW_TRACKING_URI"]) as proxy:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", proxy.url)
        yield proxy


def steps_logged(run: Run) -> dict[str, list[int]]:
    return {name: [m.step for m in run.client.get_metric_history(run.id, name)] for name in tracking.EPOCH_METRICS}


def lose_the_answer_to(what: str):
    """A plan: it is carried out, and the first answer is lost."""
    left = ["lost"]
    return lambda request: left.pop() if left and request.path.endswith(what) else None


def test_every_step_of_a_pipeline_run_opens_the_same_run(kfp_run):
    assert Run.open("digest-a").id == Run.open("digest-a").id


def test_another_pipeline_run_has_another_run(kfp_run, monkeypatch):
    first = Run.open("digest-b")
    first.finish()
    monkeypatch.setenv("KFP_RUN_ID", kfp_run + "-again")
    assert Run.open("digest-b").id != first.id


def test_a_run_that_a_kill_left_unfinished_is_continued(kfp_run, monkeypatch):
    digest = uuid.uuid4().hex
    killed = Run.open(digest)
    monkeypatch.setenv("KFP_RUN_ID", kfp_run + "-again")
    assert Run.open(digest).id == killed.id


def as_mlflow_has_it(run: Run) -> dict:
    """All that MLflow holds of a run, times and files too."""
    found = run.client.get_run(run.id)
    files = [(file.path, file.file_size) for file in run.client.list_artifacts(run.id)]
    return {**found.to_dictionary(), "files": sorted(files)}


def test_a_finished_run_is_found_by_its_evaluation_and_never_written_to_again(kfp_run, monkeypatch, tmp_path):
    for name in ("cases", "split", "page", "comparison"):
        (tmp_path / f"{name}.json").write_text("{}")
    digest, other = uuid.uuid4().hex, uuid.uuid4().hex
    run = Run.open(digest, digest)
    run.set_tags({"evaluation_digest": digest, "training_recorded": "true"})
    assert Run.open(digest, digest).finished_at is None  # a retry of this very run, which is not over
    run_records.record_comparison(run, tmp_path)
    run.finish()
    before = as_mlflow_has_it(run)
    time.sleep(0.1)
    for name in (kfp_run, kfp_run + "-again"):
        monkeypatch.setenv("KFP_RUN_ID", name)
        again = Run.open(digest, digest)
        assert again.id == run.id and again.finished_at == before["info"]["end_time"]
        (tmp_path / "comparison.json").write_text('{"another": "champion"}')
        run_records.record_inputs(again, *[None] * 2, *(tmp_path / f"{name}.json" for name in ("split", "page")))
        run_records.record_training(again, tmp_path)
        run_records.record_page(again, tmp_path / "page.json")
        run_records.record_comparison(again, tmp_path)
    assert as_mlflow_has_it(run) == before
    assert Run.open(digest, other).id != run.id  # another evaluation, in a run of its own


def test_a_finished_run_whose_version_was_deleted_takes_a_new_one_and_stays_as_long_as_it_was(kfp_run):
    digest = uuid.uuid4().hex
    run = Run.open(digest, digest)
    run.set_tags({"evaluation_digest": digest})
    run.finish()
    ended = run.client.get_run(run.id).info.end_time
    time.sleep(0.1)
    again = Run.open(digest, digest)
    with mlflow.start_run(run.id):  # as MLflow logs a model
        pass
    again.finish()
    assert run.client.get_run(run.id).info.end_time == ended


@pytest.fixture
def on_a_cluster(monkeypatch) -> str:
    """KFP's id of this pipeline run, and the variables that its steps get."""
    kfps_id = str(uuid.uuid4())
    monkeypatch.setenv("KFP_RUN_ID", kfps_id)
    monkeypatch.setenv("KFP_HOST", "https://kubeflow.example.org/pipeline/")
    return kfps_id


def test_a_run_on_a_cluster_has_the_name_that_kubeflow_shows_and_its_id_and_page_as_tags(on_a_cluster, monkeypatch):
    run_name.write_name("20261125-222254-demo")
    digest = uuid.uuid4().hex
    run = Run.open(digest)
    found = run.client.get_run(run.id)
    assert found.info.run_name == "20261125-222254-demo"
    assert found.data.tags["kfp_run_id"] == on_a_cluster
    assert found.data.tags["kfp_page"] == f"https://kubeflow.example.org/pipeline/#/runs/details/{on_a_cluster}"
    monkeypatch.setenv("KFP_RUN_ID", str(uuid.uuid4()))  # the same command goes on after a kill
    run_name.write_name("20261126-070000-demo")
    assert Run.open(digest).id == run.id
    assert run.client.get_run(run.id).info.run_name == "20261126-070000-demo"


def test_a_run_whose_name_was_not_written_down_is_called_by_its_id(on_a_cluster, kfp_run, monkeypatch):
    for kfps_id in (on_a_cluster, kfp_run):
        monkeypatch.setenv("KFP_RUN_ID", kfps_id)
        run = Run.open(uuid.uuid4().hex)
        assert run.client.get_run(run.id).info.run_name == kfps_id


def test_a_given_run_is_resumed(kfp_run, monkeypatch):
    given = Run.open("digest-c").id
    monkeypatch.setenv("KFP_RUN_ID", "another")
    monkeypatch.setenv("MLFLOW_RUN_ID", given)
    assert Run.open("digest-d").id == given


def test_a_given_run_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32)
    with pytest.raises(StepError, match="MLFLOW_RUN_ID"):
        Run.open("digest-e")


@pytest.fixture
def deleted(monkeypatch):
    """An experiment with a run, deleted as with the button of MLflow's page: its id and the run's."""
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", f"deleted-{uuid.uuid4().hex[:8]}")
    run = Run.open("digest-deleted")
    experiment = run.client.get_run(run.id).info.experiment_id
    run.client.delete_experiment(experiment)
    return experiment, run.id


@pytest.mark.slow
def test_a_deleted_experiment_is_named_with_the_command_that_restores_it(deleted, kfp_run):
    experiment, run_id = deleted
    with pytest.raises(StepError) as error:
        Run.open("digest-deleted")
    text = str(error.value)
    assert text.startswith(f"the experiment {os.environ['MLFLOW_EXPERIMENT_NAME']} was deleted in MLflow at http://127")
    login, here = r"MLFLOW_TRACKING_TOKEN=\$\(cat \.local/mlflow-token\)", r"NO_PROXY='\*' MLFLOW_TRACKING_URI=\S+"
    (command,) = re.findall(rf"{login} {here} \.venv/bin/mlflow (.*)$", text)
    assert command == f"experiments restore --experiment-id {experiment}"
    subprocess.run([sys.executable, "-m", "mlflow", *command.split()], check=True)
    assert Run.open("digest-deleted").id == run_id


def test_the_experiment_may_have_another_name(kfp_run, monkeypatch):
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "of our hospital")
    run = Run.open("digest-named")
    assert mlflow.get_experiment(run.client.get_run(run.id).info.experiment_id).name == "of our hospital"
    assert _close_tracking(kfp_run, "KILLED")
    assert run.client.get_run(run.id).info.status == "KILLED"


def test_epochs_are_logged_once_and_in_order(kfp_run):
    run = Run.open("digest-f")
    run.log_epochs(epochs(2))
    run.log_epochs(epochs(5))
    run.log_epochs(epochs(5))
    for name in ("train_loss", "val_dice"):
        logged = run.client.get_metric_history(run.id, name)
        assert [m.step for m in logged] == [1, 2, 3, 4, 5]
        assert [m.value for m in logged] == [0.1, 0.2, 0.3, 0.4, 0.5]


def test_a_parameter_keeps_its_first_value_with_a_warning(kfp_run, caplog):
    run = Run.open("digest-g")
    run.log_params({"epochs": 5})
    run.log_params({"epochs": 6, "batch_size": 2})
    assert run.client.get_run(run.id).data.params == {"epochs": "5", "batch_size": "2"}
    assert "MLflow keeps epochs=5" in caplog.text


def test_lineage_variables_become_tags(kfp_run, monkeypatch):
    monkeypatch.setenv("GIT_COMMIT", "abc")
    monkeypatch.setenv("IMAGE_TAG", "image:1")
    run = Run.open("digest-h")
    tags = run.client.get_run(run.id).data.tags
    assert (tags["git_commit"], tags["image_tag"], tags["kfp_run_id"]) == ("abc", "image:1", kfp_run)


CASES = make_cases([make_case(name) for name in "abcde"])
SPLIT = make_split({"train": ["a", "b", "c"], "val": ["d"], "test": ["e"]})


def logged_datasets(run: Run) -> dict[str, tuple[str, str, str]]:
    """Return the datasets of a run: context to name, digest and address."""
    inputs = run.client.get_run(run.id).inputs.dataset_inputs
    assert len(inputs) == len({tag.value for used in inputs for tag in used.tags})
    return {
        used.tags[0].value: (used.dataset.name, used.dataset.digest, json.loads(used.dataset.source)["uri"])
        for used in inputs
    }


def test_the_scans_of_each_subset_are_datasets_of_the_run_once_also_after_a_retry(kfp_run):
    run = Run.open("digest-m")
    for _ in range(2):
        run.log_datasets(dataset_inputs(CASES, SPLIT))
    found = logged_datasets(run)
    assert found.keys() == {"training", "validation", "test"}
    assert {(name, uri) for name, _, uri in found.values()} == {("scans", "s3://bucket/scans")}
    assert len({digest for _, digest, _ in found.values()}) == 3


def test_a_dataset_has_the_same_digest_as_long_as_its_scans_are_the_same():
    digests = [
        subsets_dataset(cases, split, ["test"]).digest
        for cases, split in (
            (CASES, SPLIT),
            (CASES, make_split({"train": ["c", "b"], "val": ["a", "d"], "test": ["e"]})),
            (CASES, make_split({"train": ["b", "c"], "val": ["d"], "test": ["a", "e"]})),
            (CASES.model_copy(update={"data_version": "2"}), SPLIT),
        )
    ]
    assert digests[0] == digests[1] and len(set(digests)) == 3


def test_a_subset_without_scans_is_no_dataset():
    split = make_split({"train": ["a", "b"], "val": [], "test": ["e"]})
    assert [used.tags[0].value for used in dataset_inputs(CASES, split)] == ["training", "test"]


def test_the_folds_of_a_cross_validation_are_one_test_dataset():
    split = make_split({"fold-1": ["a", "b"], "fold-2": ["c"], "fold-3": ["d", "e"]})
    (used,) = dataset_inputs(CASES, split)
    assert used.tags[0].value == "test"
    profile = json.loads(used.dataset.profile)
    assert (profile["scans"], profile["patients"]) == (5, 5)
    single = make_split({"train": [], "val": [], "test": ["a", "b", "c", "d", "e"]})
    assert used.dataset.digest == subsets_dataset(CASES, single, ["test"]).digest


def test_the_metrics_of_the_test_are_linked_to_the_logged_model_and_its_dataset_and_stay_once_in_the_run(
    proxy, kfp_run
):
    run = Run.open("digest-n")
    run.log_datasets(dataset_inputs(CASES, SPLIT))
    run.log_metrics({"test_dice_mean": 0.5, "threshold": 0.4} | {f"test_{n}": n for n in range(150)})
    number = run.client.get_run(run.id).info.experiment_id
    model = run.client.create_logged_model(number, name="model", source_run_id=run.id)
    proxy.plan = lose_the_answer_to("/runs/log-batch")
    for _ in range(2):
        run.link_model(model.model_id)
    assert proxy.counts["lost"] == 1
    linked, *others = sorted(run.client.get_logged_model(model.model_id).metrics, key=lambda metric: -len(metric.key))
    assert len(others) == 150
    assert (linked.key, linked.value, linked.run_id) == ("test_dice_mean", 0.5, run.id)
    assert (linked.dataset_name, linked.dataset_digest) == logged_datasets(run)["test"][:2]
    assert len(run.client.get_metric_history(run.id, "test_dice_mean")) == 1


def test_the_experiment_says_what_it_is_and_has_our_columns_and_a_persons_note_stays(kfp_run, monkeypatch):
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", f"described {kfp_run}")
    run = Run.open("digest-o")
    number = run.client.get_run(run.id).info.experiment_id
    tags = run.client.get_experiment(number).tags
    assert "Research use only" in tags[NOTE] and tags[KIND] == "custom_model_development"
    columns = json.loads(tags[VIEW_TAG])["selectedColumns"]
    assert "attributes.`Dataset`" in columns and "metrics.`test_lesion_dice_mean`" in columns
    run.client.set_experiment_tag(number, NOTE, "a person's")
    run.client.set_experiment_tag(number, VIEW_TAG, "of an older version")
    Run.open("digest-o")
    assert run.client.get_experiment(number).tags == tags | {NOTE: "a person's"}


def test_a_run_has_a_source_a_note_that_a_person_may_replace_and_the_seconds_of_its_steps(kfp_run, monkeypatch):
    monkeypatch.setenv("GIT_COMMIT", "0123abc")
    run = Run.open("digest-p")
    run.add_note("first")
    run.add_note("second")
    run.log_seconds("train", 12.345)
    data = run.client.get_run(run.id).data
    assert (data.tags["mlflow.source.name"], data.tags["mlflow.source.git.commit"]) == (
        "dwi-stroke pipeline", "0123abc",
    )  # fmt: skip
    assert (data.tags[NOTE], data.metrics) == ("first", {"step_seconds_train": 12.3})


def test_a_finished_run_gets_no_seconds(kfp_run):
    run = Run.open("digest-q")
    run.set_tags({"evaluation_digest": "e"})
    run.finish()
    again = Run.open("digest-q", "e")
    again.log_seconds("evaluate", 1)
    assert again.finished_at and not run.client.get_run(run.id).data.metrics


def test_a_lost_answer_makes_no_second_dataset(proxy, kfp_run):
    run = Run.open("digest-r")
    proxy.plan = lose_the_answer_to("/runs/log-inputs")
    run.log_datasets(dataset_inputs(CASES, SPLIT))
    assert proxy.counts["lost"] == 1 and len(logged_datasets(run)) == 3


def test_a_lost_answer_makes_no_second_run(proxy, kfp_run, monkeypatch):
    Run.open("another digest").finish()
    digest = uuid.uuid4().hex
    monkeypatch.setenv("KFP_RUN_ID", kfp_run + "-lost")
    proxy.plan = lose_the_answer_to("runs/create")
    run = Run.open(digest)
    assert proxy.counts["lost"] == 1
    experiment = run.client.get_run(run.id).info.experiment_id
    found = run.client.search_runs([experiment], f"tags.training_digest = '{digest}'")
    assert [r.info.run_id for r in found] == [run.id]


def test_a_lost_answer_makes_no_second_version(registry, proxy):
    registry = mlflow.MlflowClient()
    proxy.plan = lose_the_answer_to("registered-models/create")

    def models():
        return next(iter(registry.search_registered_models(f"name = '{MODEL_NAME}'")), None)

    def versions():
        return next(iter(registry.search_model_versions(f"name = '{MODEL_NAME}'")), None)

    find_or_create(models, lambda: registry.create_registered_model(MODEL_NAME))
    proxy.plan = lose_the_answer_to("model-versions/create")
    find_or_create(versions, lambda: registry.create_model_version(MODEL_NAME, "s3://dwi-stroke/mlflow/model"))
    assert proxy.counts["lost"] == 2
    assert len(registry.search_model_versions(f"name = '{MODEL_NAME}'")) == 1


def test_a_run_that_cannot_be_created_is_tried_again_and_then_refused(proxy, kfp_run):
    proxy.plan = lambda request: "500" if request.path.endswith("runs/create") else None
    with pytest.raises(StepError, match=r"MLflow at .* nothing is registered twice") as error:
        Run.open("digest-i")
    assert proxy.counts["500"] >= 2
    assert "\n" not in str(error.value)


def test_during_an_outage_training_continues_and_its_epochs_are_logged_later_in_order_and_once(proxy, kfp_run):
    run = Run.open("digest-j")
    run.log_epochs_in_background(epochs(1))
    run.sender.join()
    proxy.gone = True
    began = time.monotonic()
    for count in (2, 3, 4):
        run.log_epochs_in_background(epochs(count))
    assert time.monotonic() - began < 1
    run.sender.join()
    proxy.gone = False
    run.log_epochs_in_background(epochs(5))
    run.log_epochs(epochs(6))
    assert set(map(tuple, steps_logged(run).values())) == {(1, 2, 3, 4, 5, 6)}


def test_an_epoch_whose_answer_is_lost_is_not_logged_twice(proxy, kfp_run):
    run = Run.open("digest-k")
    proxy.plan = lose_the_answer_to("runs/log-batch")
    run.log_epochs(epochs(3))
    assert proxy.counts["lost"] == 1
    assert set(map(tuple, steps_logged(run).values())) == {(1, 2, 3)}


def test_an_outage_of_mlflow_gives_one_sentence_everywhere(proxy, kfp_run, tmp_path):
    run = Run.open("digest-l")
    proxy.gone = True
    for call in (
        lambda: Run.open("digest-l"),
        lambda: run.log_params({"epochs": 1}),
        lambda: run_records.record_training(run, tmp_path),
        lambda: run_records.record_comparison(run, tmp_path),
        lambda: run_records.record_inputs(run, CASES, SPLIT, tmp_path, tmp_path),
        lambda: run.log_seconds("train", 1),
    ):
        with pytest.raises(StepError, match="MLflow at http") as error:
            call()
        assert "\n" not in str(error.value)


# The networks of a cross-validation


def parent_of(run: Run) -> str:
    return run.client.get_run(run.id).data.tags[tracking.PARENT]


def test_the_run_of_each_network_is_below_the_run_of_the_ensemble(kfp_run):
    ensemble, *networks = (uuid.uuid4().hex for _ in range(4))
    runs = [Run.open_network(ensemble, digest, fold, 3) for fold, digest in enumerate(networks, start=1)]
    assert len({run.id for run in runs}) == 3
    (parent,) = {parent_of(run) for run in runs}
    names = [run.client.get_run(run.id).info.run_name for run in runs]
    assert names == ["fold 1 of 3", "fold 2 of 3", "fold 3 of 3"]
    assert Run.open(ensemble, "an evaluation").id == parent, "evaluate and register never take that of a network"


def test_the_network_of_a_killed_run_is_continued_in_its_own_run(kfp_run, monkeypatch):
    ensemble, network = uuid.uuid4().hex, uuid.uuid4().hex
    killed = Run.open_network(ensemble, network, 2, 3)
    assert _close_tracking(kfp_run, "KILLED")
    statuses = {run: killed.client.get_run(run).info.status for run in (killed.id, parent_of(killed))}
    assert set(statuses.values()) == {"KILLED"}
    monkeypatch.setenv("KFP_RUN_ID", kfp_run + "-again")
    again = Run.open_network(ensemble, network, 2, 3)
    assert (again.id, parent_of(again)) == (killed.id, parent_of(killed))


def test_networks_that_start_at_the_same_moment_share_the_run_of_the_ensemble(kfp_run, monkeypatch):
    """On a cluster all folds start together: two of them may create a run before either sees the other's."""
    ensemble = uuid.uuid4().hex
    first = Run.open_network(ensemble, uuid.uuid4().hex, 1, 3)
    with monkeypatch.context() as patch:
        patch.setattr(tracking, "_find_run", lambda *_: None)
        second = Run.open_network(ensemble, uuid.uuid4().hex, 2, 3)
    assert parent_of(second) == parent_of(first)
    found = first.client.search_runs([first.client.get_run(first.id).info.experiment_id],
                                     f"tags.kfp_run_id = '{kfp_run}'")  # fmt: skip
    assert len([run for run in found if tracking.FOLD not in run.data.tags]) == 1
