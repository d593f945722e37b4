"""`make pipeline-run` on a cluster, against stand-ins for the APIs of KFP and Kubernetes and a real MLflow store."""

import datetime
import io
import json
import os
import signal
import sys

import pytest

from pipelines.cluster import target, watch
from pipelines.cluster.kubernetes import sources_tag
from tests.cluster_stand_in import RUN_ID, Workflow

ALL = ("fingerprint", "ingest", "preprocess", "split", "train", "evaluate", "register")


def begun(*steps: str, **last) -> Workflow:
    """A workflow in which all but the last of these steps have succeeded."""
    workflow = Workflow()
    for step in steps[:-1]:
        workflow.step(step)
    return workflow.step(steps[-1], **last)


def test_a_run_shows_each_step_and_ends_with_the_summary(kind_run, kubeflow, capsys, last_run, tmp_path):
    kubeflow.stages = [
        *[("RUNNING", begun(*ALL[: n + 1], phase="Running")) for n in range(len(ALL))],
        ("SUCCEEDED", begun(*ALL)),
    ]
    assert kind_run("--set", "epochs=2") == 0
    out = capsys.readouterr().out
    assert out.splitlines()[0] == f"kube context kind-dwi-stroke, Kubeflow Pipelines {kubeflow.url}"
    at = [out.index(f"[{n}/7] {step}\n      succeeded in 12.0 s\n") for n, step in enumerate(ALL, start=1)]
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
    monkeypatch.setattr(target, "commit", lambda: "0123abc")
    kind_run()
    (pipeline,), (version,) = kubeflow.pipelines, kubeflow.versions
    for said in (pipeline.description, version.description):
        assert "stroke lesions" in said and "README.md" in said
    assert f"Images {sources_tag()}, commit 0123abc" in version.description


def test_with_nothing_changed_it_says_so(kind_run, kubeflow, capsys, last_run):
    kubeflow.created_at = datetime.datetime(2100, 1, 1, tzinfo=datetime.UTC)  # the version is older than the run
    workflow = Workflow().step("fingerprint")
    for step in ALL[1:5]:
        workflow.step(step, cached=True, seconds=0)
    kubeflow.stages = [("SUCCEEDED", workflow.step("evaluate").step("register"))]
    assert kind_run() == 0
    out = capsys.readouterr().out
    assert "[5/7] train\n      from cache\n" in out
    assert "Nothing changed: every step came from cache, dwi-attention-unet stays at version 1." in out
    assert {name for name, step in last_run()["steps"].items() if step["cached"]} == set(ALL[1:5])


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
    lines = "[3/7] preprocess\n[4/7] split\n      succeeded in 5.0 s\n      preprocess succeeded in 30.0 s\n"
    assert lines in capsys.readouterr().out


def test_a_failure_ends_with_the_pods_log_its_events_and_the_steps_own_words(
    kind_run, kubeflow, kubernetes, capsys, last_run
):
    log = "3 labelled patients\nERROR split: 3 patients with a lesion are needed: 2 found.\nAdd scans with masks.\n"
    log += 'I1105 07:00:12.000000 1 launcher.go:1] exit status 1\n{"time":"2024-11-05","msg":"sub-process exited"}\n'
    pod = kubernetes.add_pod("split", "Failed", log, terminated={"exit_code": 1})
    kubernetes.add_event(pod, "BackOff", "Back-off restarting failed container")
    kubeflow.stages = [("FAILED", begun("fingerprint", "ingest", "preprocess", "split", phase="Failed"))]
    assert kind_run() == 1
    out, err = capsys.readouterr()
    assert "[4/7] split\n      failed in 12.0 s\n" in out
    assert "      3 labelled patients\n" in out
    assert "Warning BackOff: Back-off restarting failed container" in out
    assert f"make pipeline-logs RUN={last_run()['run_id']} STEP=split" in out
    assert err.strip() == ("split: 3 patients with a lesion are needed: 2 found.\nAdd scans with masks.")
    assert last_run()["status"] == "failed" and last_run()["steps"]["split"]["state"] == "failed"


def test_a_step_out_of_memory_says_so(kind_run, kubeflow, kubernetes, capsys):
    kubernetes.add_pod("train", "Failed", "epoch 1\n", terminated={"exit_code": 137, "reason": "OOMKilled"})
    kubeflow.stages = [("FAILED", begun("train", phase="Failed"))]
    assert kind_run() == 1
    assert "train: container main ran out of memory" in capsys.readouterr().err


def test_a_failed_driver_is_the_failure_of_its_step(kind_run, kubeflow, kubernetes, capsys):
    kubernetes.add_pod("ingest", "Failed", "driver: no MLMD\n", driver=True, terminated={"exit_code": 1})
    kubeflow.stages = [("FAILED", begun("fingerprint", "ingest", driver="Failed"))]
    assert kind_run() == 1
    out, err = capsys.readouterr()
    assert "driver: no MLMD" in out and "ingest: container main failed with exit code 1" in err


def test_where_the_pod_is_gone_it_says_what_to_do(kind_run, kubeflow, capsys):
    kubeflow.stages = [("FAILED", begun("fingerprint", "ingest", phase="Failed"))]
    assert kind_run() == 1
    assert "ingest failed, and its pod is gone" in capsys.readouterr().err


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
    assert "[2/7] ingest\n      try 2; the one before failed: s3://b: access was denied.\n      succeeded in" in out


def test_why_a_pod_waits_is_told_once_while_it_waits(kind_run, kubeflow, kubernetes, capsys):
    waiting = {"reason": "CreateContainerConfigError", "message": 'secret "dwi-stroke-s3" not found'}
    kubernetes.add_pod("fingerprint", "Pending", waiting=waiting)
    kubeflow.stages = [("RUNNING", begun("fingerprint", phase="Running"))] * 8 + [("SUCCEEDED", begun("fingerprint"))]
    assert kind_run() == 0
    out = capsys.readouterr().out
    assert out.count('fingerprint waits: container main cannot be set up: secret "dwi-stroke-s3" not found') == 1


def test_a_run_that_does_not_begin_is_remarked_on(kind_run, kubeflow, monkeypatch, capsys):
    monkeypatch.setattr(watch, "SILENCE_SECONDS", 0)
    kubeflow.stages = [("PENDING", Workflow())] * 4 + [("SUCCEEDED", begun("fingerprint"))]
    kind_run()
    assert capsys.readouterr().out.count("nothing has begun yet: is the workflow-controller up") == 1


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
        ("leave\n", "running", "left going on the cluster. See it: make pipeline-logs RUN="),
        ("", "running", "left going on the cluster"),
    ],
)
def test_ctrl_c_asks_whether_to_leave_the_run_or_stop_it(
    kind_run, kubeflow, monkeypatch, capsys, last_run, answer, status, said
):
    monkeypatch.setattr(sys, "stdin", Terminal(answer))
    running = begun("fingerprint", phase="Running")
    kubeflow.stages = [("RUNNING", running), interrupt("RUNNING", running)]
    assert kind_run() == 130
    assert said in capsys.readouterr().out
    assert last_run()["status"] == status
    assert (kubeflow.runs[-1].state == "CANCELING") == (status == "stopped")


def test_ctrl_c_without_a_terminal_leaves_the_run_going(kind_run, kubeflow, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    kubeflow.stages = [interrupt("RUNNING", begun("fingerprint", phase="Running"))]
    assert kind_run() == 130
    out = capsys.readouterr().out
    assert "[leave/stop]" not in out
    assert f"Stop it: Terminate on {kubeflow.url}/#/runs/details/{RUN_ID}" in out
    assert kubeflow.runs[-1].state != "CANCELING"


def test_a_run_stopped_on_the_cluster_is_not_a_success(kind_run, kubeflow, capsys, last_run):
    kubeflow.stages = [("CANCELED", begun("fingerprint", "ingest", phase="Running"))]
    assert kind_run() == 1
    assert "the run was stopped on the cluster" in capsys.readouterr().err
    assert last_run()["steps"]["ingest"]["state"] == "stopped"


def test_a_server_that_vanishes_leaves_the_run_going_and_says_how_to_look_again(kind_run, kubeflow, capsys, last_run):
    def vanish():
        import threading

        threading.Thread(target=kubeflow.vanish).start()
        return "RUNNING", begun("fingerprint", phase="Running")

    kubeflow.stages = [vanish]
    assert kind_run() == 1
    err = capsys.readouterr().err
    assert "does not answer" in err and "tried for 1 s" in err
    assert f"The run itself goes on. See it: make pipeline-logs RUN={last_run()['run_id']} FOLLOW=1" in err
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


def test_results_that_mlflow_does_not_have_are_asked_for_by_name(kind_run, kubeflow, tracking, capsys, last_run):
    import mlflow

    client = mlflow.MlflowClient(tracking)
    (run,) = client.search_runs([client.get_experiment_by_name("dwi-stroke-segmentation").experiment_id])
    client.set_tag(run.info.run_id, "kfp_run_id", "another")
    assert kind_run() == 1
    err = capsys.readouterr().err
    assert "the run succeeded, but its results cannot be read" in err and f"kfp_run_id={RUN_ID}" in err
    assert last_run()["status"] == "succeeded"
