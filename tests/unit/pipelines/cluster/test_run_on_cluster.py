"""`make pipeline-run` on a cluster, against stand-ins for the APIs of KFP and Kubernetes and a real MLflow store."""

import datetime
import io
import json
import os
import signal
import sys

import pytest

from pipelines.cluster import argo_retries, run_on_cluster, watch
from pipelines.image_tags import sources_tag
from pipelines.pipeline import STEPS
from tests.support.kubeflow_stand_in import RUN_ID, Workflow
from tests.support.kubernetes_stand_in import AFTER_A_STEP

N = len(STEPS)


def begun(*steps: str, **last) -> Workflow:
    """A workflow in which all but the last of these steps have succeeded."""
    workflow = Workflow()
    for step in steps[:-1]:
        workflow.step(step)
    return workflow.step(steps[-1], **last)


def test_a_run_shows_each_step_and_ends_with_the_summary(kind_run, kubeflow, capsys, last_run, tmp_path):
    kubeflow.stages = [
        *[("RUNNING", begun(*STEPS[: n + 1], phase="Running")) for n in range(len(STEPS))],
        ("SUCCEEDED", begun(*STEPS)),
    ]
    assert kind_run("--set", "epochs=2") == 0
    out = capsys.readouterr().out
    assert out.splitlines()[0] == f"kube context kind-dwi-stroke, Kubeflow Pipelines {kubeflow.url}"
    at = [out.index(f"[{n}/{N}] {step}\n      succeeded in 12.0 s\n") for n, step in enumerate(STEPS, start=1)]
    assert at == sorted(at)
    assert "dwi-attention-unet version 1 (challenger)\n  champion stays, says now\n  on 5 held-out patients" in out
    assert "Dice, all patients 0.500 (95 % interval 0.500 to 0.500)" in out
    assert f"{kubeflow.url}/#/runs/details/{RUN_ID}" in out and "these numbers say nothing about patients" in out
    summary = last_run()
    assert summary["status"] == "succeeded" and summary["target"] == "kind" and summary["preset"] == "demo"
    assert summary["kfp_run_id"] == RUN_ID and summary["kube_context"] == "kind-dwi-stroke"
    assert summary["model"] == {"name": "dwi-attention-unet", "version": "1", "aliases": "challenger"}
    assert summary["decision"] == "champion stays, says now"
    assert summary["data_version"] == "d1" and summary["synthetic"] is True and summary["new_version"] is True
    assert summary["steps"]["train"] == {"state": "succeeded", "seconds": 12.0, "cached": False}
    assert "val_dice" not in summary["metrics"] and summary["metrics"]["test_patients"] == 5
    assert json.loads((tmp_path / ".local" / "runs" / summary["run_id"] / "summary.json").read_text()) == summary


def test_the_run_gets_the_arguments_of_a_local_one(kind_run, kubeflow):
    kind_run("--set", "epochs=2")
    (run,) = kubeflow.runs
    assert run.display_name.endswith("-demo") and run.experiment_id == "e-1"
    assert run.runtime_config["parameters"]["data_uri"] == "s3://dwi-stroke/scans"
    assert run.runtime_config["parameters"]["epochs"] == 2
    assert run.pipeline_version_reference == {"pipeline_id": "p-1", "pipeline_version_id": "v-1"}
    assert not run.plugins_output  # KFP's own MLflow plugin would fail at each run
    assert [e.display_name for e in kubeflow.experiments] == ["dwi-stroke-segmentation"]


def test_only_a_change_makes_a_new_version_of_the_one_pipeline(kind_run, kubeflow, capsys, monkeypatch):
    for number in range(5):  # more than a page of other versions
        kubeflow.add_version(f"older-{number}")
    kind_run()
    assert "(uploaded)" in capsys.readouterr().out
    kind_run()
    assert "(unchanged)" in capsys.readouterr().out
    assert len(kubeflow.uploaded) == 1 and len(kubeflow.pipelines) == 1
    assert kubeflow.runs[-1].pipeline_version_reference["pipeline_version_id"] == "v-6"
    monkeypatch.setenv("REGISTRY", "registry.example.org/team")
    kind_run()
    assert len(kubeflow.uploaded) == 2 and len(kubeflow.pipelines) == 1
    assert b"registry.example.org/team/components" in kubeflow.uploaded[-1]


def test_pipeline_and_version_say_on_kubeflows_page_what_they_are(kind_run, kubeflow, monkeypatch):
    monkeypatch.setattr(run_on_cluster, "commit", lambda: "0123abc")
    kind_run()
    (pipeline,), (version,) = kubeflow.pipelines, kubeflow.versions
    for said in (pipeline.description, version.description):
        assert "stroke lesions" in said and "README.md" in said
    assert f"Images {sources_tag()}, commit 0123abc" in version.description


def test_with_nothing_changed_it_says_so(kind_run, kubeflow, capsys, last_run):
    kubeflow.created_at = datetime.datetime(2100, 1, 1, tzinfo=datetime.UTC)  # the version is older than the run
    workflow = Workflow().step("fingerprint")
    for step in STEPS[1:5]:
        workflow.step(step, cached=True, seconds=0)
    kubeflow.stages = [("SUCCEEDED", workflow.step("evaluate").step("register"))]
    assert kind_run() == 0
    out = capsys.readouterr().out
    assert f"[5/{N}] train\n      from cache\n" in out
    assert "Nothing changed: every step came from cache, dwi-attention-unet stays at version 1." in out
    assert {name for name, step in last_run()["steps"].items() if step["cached"]} == set(STEPS[1:5])


@pytest.mark.slow
def test_the_last_line_is_a_command_that_works_as_it_stands(kind_run, cluster, kubeflow, tracking, monkeypatch, capsys):
    assert kind_run() == 0
    assert capsys.readouterr().out.endswith("  next   make predict TARGET=kind INPUT=scan.nii.gz OUTPUT=mask.nii.gz\n")
    monkeypatch.setenv("KFP_HOST", kubeflow.url)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking)
    monkeypatch.setenv("KUBE_CONTEXT", "hospital")
    assert cluster("run", "--target", "cluster", "--data", "s3://dwi-stroke/scans") == 0
    there = f"TARGET=cluster KUBE_CONTEXT=hospital MLFLOW_TRACKING_URI={tracking}"
    assert f"next   make predict {there} INPUT=scan.nii.gz" in capsys.readouterr().out


def test_what_came_from_cache_is_named_beside_a_new_version(kind_run, kubeflow, capsys):
    kubeflow.stages = [("SUCCEEDED", begun("fingerprint", "ingest", cached=True, seconds=0).step("register"))]
    kind_run()
    assert "From cache: ingest." in capsys.readouterr().out


def test_steps_side_by_side_are_told_apart(kind_run, kubeflow, capsys):
    def side_by_side(first, second):
        workflow = begun("fingerprint", "ingest").step("preprocess", phase=first, seconds=30)
        return workflow.step("split", phase=second, seconds=5, after=-29)

    kubeflow.stages = [
        ("RUNNING", side_by_side("Running", "Running")),
        ("RUNNING", side_by_side("Running", "Succeeded")),
        ("SUCCEEDED", side_by_side("Succeeded", "Succeeded")),
    ]
    kind_run()
    lines = f"[3/{N}] preprocess\n[4/{N}] split\n      succeeded in 5.0 s\n      preprocess succeeded in 30.0 s\n"
    assert lines in capsys.readouterr().out


def test_a_failure_ends_with_the_pods_log_its_events_and_the_steps_own_words(
    kind_run, kubeflow, kubernetes, capsys, last_run
):
    log = "3 labelled patients\nERROR split: 3 patients with a lesion are needed: 2 found.\nAdd scans with masks.\n"
    log += 'I1105 07:00:12.000000 1 launcher.go:1] exit status 1\n{"time":"2024-11-05","msg":"sub-process exited"}\n'
    pod = kubernetes.add_pod("split", "Failed", log, terminated={"exit_code": 1})
    kubernetes.add_event(pod, "BackOff", "Back-off restarting failed container")
    for n in range(13):
        kubernetes.add_event(pod, "Pulled", f"Container image {n} already present on machine", "Normal")
    kubeflow.stages = [("FAILED", begun("fingerprint", "ingest", "preprocess", "split", phase="Failed"))]
    assert kind_run() == 1
    out, err = capsys.readouterr()
    assert f"[4/{N}] split\n      failed in 12.0 s\n" in out
    assert "      3 labelled patients\n" in out
    assert "Warning BackOff: Back-off restarting failed container" in out and "Normal" not in out
    assert not any(noise in out for noise in ("launcher", "level=INFO", "KFP Executor", "parameterValues", "warnings"))
    assert f"make pipeline-logs RUN={last_run()['run_id']} STEP=split" in out
    assert err.strip() == ("split: 3 patients with a lesion are needed: 2 found.\nAdd scans with masks.")
    assert last_run()["status"] == "failed" and last_run()["steps"]["split"]["state"] == "failed"


def test_the_last_epochs_are_shown_however_much_kfp_writes_after_them(kind_run, kubeflow, kubernetes, capsys):
    log = "".join(f"epoch {n}/90  train loss 0.5\n" for n in range(1, 61)) + AFTER_A_STEP * 5
    kubernetes.add_pod("train", "Failed", log, terminated={"exit_code": 137})
    kubeflow.stages = [("FAILED", begun("train", phase="Failed"))]
    assert kind_run() == 1
    out = capsys.readouterr().out
    assert "epoch 60/90" in out and "epoch 31/90" in out and "epoch 30/90" not in out and "launcher" not in out


def test_of_a_pod_that_never_started_every_event_is_shown(kind_run, kubeflow, kubernetes, capsys):
    pod = kubernetes.add_pod("train", "Failed", waiting={"reason": "ContainerCreating"})
    kubernetes.add_event(pod, "Scheduled", "Successfully assigned", "Normal")
    kubeflow.stages = [("FAILED", begun("train", phase="Failed"))]
    assert kind_run() == 1
    assert "Normal Scheduled: Successfully assigned" in capsys.readouterr().out


def test_a_step_out_of_memory_says_so(kind_run, kubeflow, kubernetes, capsys):
    kubernetes.add_pod("train", "Failed", "epoch 1\n", terminated={"exit_code": 137, "reason": "OOMKilled"})
    kubeflow.stages = [("FAILED", begun("train", phase="Failed"))]
    assert kind_run() == 1
    assert "train: container main ran out of memory" in capsys.readouterr().err


def test_after_a_failed_training_the_last_line_says_where_the_same_command_goes_on(
    kind_run, kubeflow, kubernetes, capsys, mlflow_run
):
    kubernetes.add_pod("train", "Failed", "epoch 3/20\n", terminated={"exit_code": 137})
    kubeflow.stages = [("FAILED", begun("train", phase="Failed"))]
    assert kind_run() == 1
    assert "continues after" not in capsys.readouterr().err  # nothing was learnt yet
    for epoch in (1, 2, 3):
        mlflow_run.client.log_metric(mlflow_run.id, "learning_rate", 0.001, step=epoch)
    assert kind_run() == 1
    assert capsys.readouterr().err.strip().endswith("\nThe same command continues after epoch 3.")


def test_a_failed_driver_is_the_failure_of_its_step(kind_run, kubeflow, kubernetes, capsys):
    kubernetes.add_pod("ingest", "Failed", "driver: no MLMD\n", driver=True, terminated={"exit_code": 1})
    kubeflow.stages = [("FAILED", begun("fingerprint", "ingest", driver="Failed"))]
    assert kind_run() == 1
    out, err = capsys.readouterr()
    assert "driver: no MLMD" in out and "ingest: container main failed with exit code 1" in err


def test_where_the_pod_is_gone_it_says_what_to_do(kind_run, kubeflow, capsys):
    kubeflow.stages = [("FAILED", begun("fingerprint", "ingest", phase="Failed"))]
    assert kind_run() == 1
    assert "ingest failed, and its pod and log are gone" in capsys.readouterr().err


def test_a_step_tried_again_says_why(kind_run, kubeflow, kubernetes, capsys):
    kubernetes.add_pod("ingest", "Failed", "ERROR ingest: s3://b: access was denied.\n", terminated={"exit_code": 1})
    kubernetes.add_pod("ingest", "Running", "going\n", running={})
    kubeflow.stages = [
        ("RUNNING", begun("fingerprint", "ingest", phase="Running")),
        ("RUNNING", begun("fingerprint", "ingest", phase="Running", tries=2)),
        ("SUCCEEDED", begun("fingerprint", "ingest", tries=2)),
    ]
    assert kind_run() == 0
    out = capsys.readouterr().out
    assert (
        f"[2/{N}] ingest\n      try 2; the previous try failed: s3://b: access was denied.\n      succeeded in" in out
    )


def test_why_a_pod_waits_is_told_once_while_it_waits(kind_run, kubeflow, kubernetes, capsys):
    waiting = {"reason": "CreateContainerConfigError", "message": 'secret "dwi-stroke-s3" not found'}
    kubernetes.add_pod("fingerprint", "Pending", waiting=waiting)
    kubeflow.stages = [("RUNNING", begun("fingerprint", phase="Running"))] * 8 + [("SUCCEEDED", begun("fingerprint"))]
    assert kind_run() == 0
    out = capsys.readouterr().out
    assert out.count('fingerprint waits: container main cannot be set up: secret "dwi-stroke-s3" not found') == 1


DEFAULTS = "spec: {{ttlStrategy: {{secondsAfterCompletion: 3600}}, templateDefaults: {}}}"


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("data", "said"),
    [
        (
            DEFAULTS.format("{retryStrategy: {limit: '2', retryPolicy: OnError}}"),
            "A step that fails or is killed is not",
        ),
        (DEFAULTS.format("{}"), "A step whose pod is deleted or whose node is lost is not"),
        ("", "A step whose pod is deleted or whose node is lost is not"),
        (DEFAULTS.format("{retryStrategy: {retryPolicy: OnTransientError}}"), "Failed steps are not"),
        (DEFAULTS.format("{retryStrategy: {retryPolicy: Always}}"), None),
        (DEFAULTS.format("{retryStrategy: {expression: 'asInt(lastRetry.exitCode) > 0'}}"), None),
        ("{damaged", None),
        ("damaged", None),
    ],
)
def test_what_the_cluster_does_not_try_again_is_said_in_a_line_with_what_mends_it(
    kind_run, kubernetes, capsys, data, said
):
    kubernetes.config_maps["kubeflow/workflow-controller-configmap"] = {"workflowDefaults": data}
    assert kind_run() == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "retried on this cluster" in line]
    assert len(lines) == bool(said)
    for line in lines:
        assert said in line and "ConfigMap workflow-controller-configmap (namespace kubeflow)" in line
        assert "retryPolicy: 'Always', expression: 'lastRetry.status == \"Error\" ||" in line


def test_what_cannot_be_read_of_its_retries_stops_no_run(kind_run, kubernetes, capsys):
    assert kind_run() == 0
    assert "retried on this cluster" not in capsys.readouterr().out


def test_the_change_that_is_written_into_the_config_map_is_taken_for_well():
    stock = {"workflowDefaults": DEFAULTS.format("{retryStrategy: {limit: '2', retryPolicy: OnError}}")}
    assert (argo_retries.policy(stock), argo_retries.policy(argo_retries.with_retries(stock))) == ("OnError", "Always")
    assert argo_retries.policy(argo_retries.with_retries({})) == "Always"
    assert argo_retries.policy(
        {"config": f"workflowDefaults: {stock['workflowDefaults']}".replace("spec", "{spec") + "}"}
    ) == ("OnError")


def test_a_run_that_does_not_begin_is_remarked_on(kind_run, kubeflow, monkeypatch, capsys):
    monkeypatch.setattr(watch, "SILENCE_SECONDS", 0)
    kubeflow.stages = [("PENDING", Workflow())] * 4 + [("SUCCEEDED", begun("fingerprint"))]
    kind_run()
    assert capsys.readouterr().out.count("no step has begun yet: do the workflow-controller") == 1


def interrupt(state, workflow):
    def look():
        os.kill(os.getpid(), signal.SIGINT)
        return state, workflow

    return look


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("answer", "status", "said"),
    [
        ("stop\n", "stopped", "stopped. Run the same command again"),
        ("leave\n", "running", "the run continues on the cluster. Follow it: make pipeline-logs RUN="),
        ("", "running", "the run continues on the cluster"),
    ],
)
def test_ctrl_c_asks_whether_to_leave_the_run_or_stop_it(
    kind_run, kubeflow, monkeypatch, capsys, last_run, mlflow_run, answer, status, said
):
    mlflow_run.client.update_run(mlflow_run.id, status="RUNNING")
    monkeypatch.setattr(sys, "stdin", Terminal(answer))
    running = begun("fingerprint", phase="Running")
    kubeflow.stages = [("RUNNING", running), interrupt("RUNNING", running)]
    assert kind_run() == 130
    assert said in capsys.readouterr().out
    assert last_run()["status"] == status
    assert (kubeflow.runs[-1].state == "CANCELING") == (status == "stopped")
    assert mlflow_run.status() == ("KILLED" if status == "stopped" else "RUNNING")


def test_ctrl_c_without_a_terminal_leaves_the_run_going(kind_run, kubeflow, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    kubeflow.stages = [interrupt("RUNNING", begun("fingerprint", phase="Running"))]
    assert kind_run() == 130
    out = capsys.readouterr().out
    assert "[leave/stop]" not in out
    assert f"Stop it: Terminate on {kubeflow.url}/#/runs/details/{RUN_ID}" in out
    assert kubeflow.runs[-1].state != "CANCELING"


def test_a_run_terminated_on_the_cluster_was_stopped_and_did_not_fail(
    kind_run, kubeflow, kubernetes, capsys, last_run, mlflow_run
):
    kubernetes.add_pod("ingest", "Failed", "case 3 of 20\n", terminated={"exit_code": 143})
    mlflow_run.client.update_run(mlflow_run.id, status="RUNNING")
    kubeflow.stages = [
        ("RUNNING", begun("fingerprint", "ingest", phase="Running")),
        ("CANCELING", begun("fingerprint", "ingest", phase="Failed")),
        ("FAILED", begun("fingerprint", "ingest", phase="Failed")),
    ]
    assert kind_run() == 1
    out, err = capsys.readouterr()
    assert "the run was stopped on the cluster" in err
    assert f"[2/{N}] ingest\n      stopped in 12.0 s\n" in out and f"[3/{N}]" not in out
    assert "case 3 of 20" not in out and "SIGTERM" not in out + err
    assert last_run()["status"] == "stopped" and last_run()["steps"].keys() == {"fingerprint", "ingest"}
    assert last_run()["steps"]["ingest"]["state"] == "stopped"
    assert mlflow_run.status() == "KILLED"


def test_a_run_that_failed_is_failed_in_mlflow_and_lists_no_step_that_never_began(
    kind_run, kubeflow, capsys, last_run, mlflow_run
):
    mlflow_run.client.update_run(mlflow_run.id, status="RUNNING")
    kubeflow.stages = [("FAILED", begun("fingerprint", "ingest", phase="Failed"))]
    assert kind_run() == 1
    assert f"[3/{N}]" not in capsys.readouterr().out and last_run()["steps"].keys() == {
        "fingerprint",
        "ingest",
    }
    assert last_run()["status"] == "failed" and mlflow_run.status() == "FAILED"


def test_a_server_that_vanishes_leaves_the_run_going_and_says_how_to_look_again(kind_run, kubeflow, capsys, last_run):
    def vanish():
        import threading

        threading.Thread(target=kubeflow.vanish).start()
        return "RUNNING", begun("fingerprint", phase="Running")

    kubeflow.stages = [vanish]
    assert kind_run() == 1
    err = capsys.readouterr().err
    assert "does not answer" in err and "tried for 1 s" in err
    assert f"The run itself continues. Follow it: make pipeline-logs RUN={last_run()['run_id']} FOLLOW=1" in err
    assert last_run()["status"] == "running"


def test_a_lost_answer_does_not_start_a_second_run(kind_run, kubeflow):
    route = kubeflow.route
    lost = []

    def lose(method, path, body):
        answer = route(method, path, body)
        if method == "POST" and "/runs" in path and not lost:
            lost.append(path)
            return 502, "<html>bad gateway</html>"
        return answer

    kubeflow.route = lose
    assert kind_run() == 0
    assert lost and len(kubeflow.runs) == 1


def test_results_that_mlflow_does_not_have_are_asked_for_by_name(kind_run, mlflow_run, capsys, last_run):
    mlflow_run.client.set_model_version_tag("dwi-attention-unet", "1", "pipeline_runs", "another")
    assert kind_run() == 1
    err = capsys.readouterr().err
    assert "the run succeeded, but its results cannot be read" in err and f"has {RUN_ID} in its tag" in err
    assert last_run()["status"] == "succeeded"


def test_a_run_that_came_to_an_earlier_runs_version_gets_that_ones_results(kind_run, mlflow_run, capsys):
    mlflow_run.client.set_tag(mlflow_run.id, "kfp_run_id", "an earlier run")  # a finished run keeps its tags
    assert kind_run() == 0
    assert "dwi-attention-unet version 1 (challenger)" in capsys.readouterr().out
