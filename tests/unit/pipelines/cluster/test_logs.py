"""`make pipeline-logs`: of a run on a cluster, and of one here."""

import fcntl
import threading
import time

import pytest

from pipelines.cluster.step_log_lines import own_lines
from tests.support.kubeflow_stand_in import RUN_ID, Workflow


@pytest.fixture
def ran(kind_run, kubernetes, capsys):
    """A run of which two steps left a log, the first one after a failed try."""
    kind_run()
    kubernetes.add_pod("train", "Succeeded", "epoch 1\nepoch 2\n", terminated={"exit_code": 0})
    kubernetes.add_pod("ingest", "Failed", "no network\n", terminated={"exit_code": 1})
    kubernetes.add_pod("ingest", "Succeeded", '3 cases\n{"a": 1}\n', terminated={"exit_code": 0})
    kubernetes.add_pod("train", "Succeeded", "cache missed\n", driver=True, terminated={"exit_code": 0})
    capsys.readouterr()


def test_the_last_run_is_shown_step_by_step_each_try_of_it(cluster, ran, capsys):
    assert cluster("logs") == 0
    out = capsys.readouterr().out
    parts = [out.index(text) for text in ("=== ingest", "no network", "3 cases", '{"a": 1}', "=== train", "epoch 2\n")]
    assert parts == sorted(parts) and "cache missed" not in out and "2024-11-05" not in out
    assert out.startswith("kube context kind-dwi-stroke")


def test_the_steps_own_lines_are_shown_and_with_raw_all(cluster, ran, capsys):
    assert cluster("logs", "--step", "train") == 0
    own = capsys.readouterr().out.splitlines()
    assert own[2:] == ["epoch 1", "epoch 2"]
    assert cluster("logs", "--step", "train", "--raw", "1") == 0
    every = capsys.readouterr().out
    for noise in ("launcher_v2.go", "capturing logs", "[KFP Executor", '"parameterValues"', "FutureWarning"):
        assert noise in every


@pytest.mark.parametrize(
    "line",
    [
        "epoch 3/20  train loss 0.5", '{"a": 1}', "[0.1, 0.2]", "  File 'x.py', line 3, in <module>", "Traceback:",
        "1105 scans", "time is short", "  12 scans", "ERROR train: out of memory",
    ],
)  # fmt: skip
def test_a_line_of_ones_own_is_not_taken_for_kfps(line):
    assert list(own_lines([line])) == [line]


def test_a_pod_with_nothing_of_its_own_says_where_the_rest_is(cluster, ran, kubernetes, capsys):
    kubernetes.add_pod("evaluate", "Running", "\n", running={})
    cluster("logs", "--step", "evaluate")
    assert "no line of the step yet; RAW=1 shows the lines of KFP" in capsys.readouterr().out


def test_interrupting_a_follower_stops_nothing_and_does_not_advise_to_run_again(cluster, ran, kubeflow, capsys):
    def pressed():
        raise KeyboardInterrupt

    kubeflow.stages = [("RUNNING", Workflow())]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipelines.cluster.pod_logs.time.sleep", lambda _: pressed())
        assert cluster("logs", "--follow", "1") == 130
    out, err = capsys.readouterr()
    assert "stopped following the log. The run itself continues" in out and "continue from here" not in out + err


def test_one_step_alone(cluster, ran, capsys):
    cluster("logs", "--step", "train")
    out = capsys.readouterr().out
    assert "epoch 1\nepoch 2\n" in out and "cases" not in out


def test_a_run_by_its_name_or_by_its_kfp_id(cluster, ran, last_run, capsys):
    assert cluster("logs", "--run", last_run()["run_id"], "--step", "train") == 0
    assert cluster("logs", "--run", RUN_ID, "--target", "kind", "--step", "train") == 0
    assert capsys.readouterr().out.count("epoch 2\n") == 2


def test_followed_it_goes_on_until_the_run_is_over(cluster, ran, kubeflow, kubernetes, capsys):
    def next_pod():
        kubernetes.add_pod("evaluate", "Succeeded", "measured\n", terminated={"exit_code": 0})
        return "RUNNING", Workflow().step("evaluate")

    kubeflow.stages = [("RUNNING", Workflow().step("train")), next_pod, ("SUCCEEDED", Workflow().step("evaluate"))]
    assert cluster("logs", "--follow", "1") == 0
    out = capsys.readouterr().out
    assert out.count("epoch 1\n") == 1 and out.count("measured\n") == 1


def test_a_stream_that_breaks_off_goes_on_where_it_was(cluster, ran, kubeflow, kubernetes, capsys):
    pod = kubernetes.add_pod("evaluate", "Running", "case 1\n", running={})
    route = kubernetes.route

    def break_off(method, path, body):
        answer = route(method, path, body)
        if f"{pod.metadata.name}/log" in path:
            kubernetes.logs[pod.metadata.name] += "case 2\n"
            pod.status.phase = "Succeeded" if "case 2" in answer[1] else "Running"
        return answer

    kubernetes.route = break_off
    kubeflow.stages = [("RUNNING", Workflow()), ("SUCCEEDED", Workflow())]
    assert cluster("logs", "--step", "evaluate", "--follow", "1") == 0
    assert capsys.readouterr().out.endswith(")\ncase 1\ncase 2\n")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--step", "trian"], "unknown STEP 'trian'. Steps: fingerprint,"),
        (["--step", "evaluate"], "there are no pods of evaluate in namespace kubeflow"),
        (["--run", "never"], "there was no run 'never' here"),
    ],
)
def test_what_is_not_there_is_said(cluster, ran, capsys, arguments, said):
    assert cluster("logs", *arguments) == 1
    assert said in capsys.readouterr().err


def test_before_any_run_it_says_how_to_start_one(cluster, capsys):
    assert cluster("logs") == 1
    assert "there was no run here yet. Start one: make pipeline-run" in capsys.readouterr().err


@pytest.fixture
def local_log(tmp_path):
    """The log of a run here, as LocalRun writes it."""
    folder = tmp_path / ".local" / "runs" / "20261105-070000-demo"
    folder.mkdir(parents=True)
    (folder / "log.txt").write_text("=== fingerprint\nd1\n=== ingest\n3 cases\n=== of our own\n=== train\nepoch 1\n")
    (tmp_path / ".local" / "last-run.json").write_text('{"run_id": "20261105-070000-demo", "target": "local"}')
    return folder / "log.txt"


def test_of_a_local_run_the_log_file_is_shown_and_cut_to_a_step(cluster, local_log, capsys):
    assert cluster("logs") == 0
    assert capsys.readouterr().out == local_log.read_text()
    assert cluster("logs", "--step", "ingest") == 0
    assert capsys.readouterr().out == "=== ingest\n3 cases\n=== of our own\n"
    assert cluster("logs", "--step", "evaluate") == 1
    assert "has no line of evaluate" in capsys.readouterr().err


def test_a_local_run_that_goes_on_is_followed(cluster, local_log, capsys):
    def go_on():
        time.sleep(0.3)
        with local_log.open("a") as log:
            log.write("epoch 2\n")
        fcntl.flock(lock, fcntl.LOCK_UN)

    with (local_log.parents[2] / "run.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        writer = threading.Thread(target=go_on)
        writer.start()
        assert cluster("logs", "--step", "train", "--follow", "1") == 0
        writer.join()
    assert capsys.readouterr().out == "=== train\nepoch 1\nepoch 2\n"
