from types import SimpleNamespace

import pytest
from mlflow.system_metrics import system_metrics_monitor

from components.train.system_metrics import SWITCH, log_system_metrics

RUN = SimpleNamespace(id="run")


@pytest.fixture
def calls(monkeypatch) -> list:
    """What is asked of MLflow's monitor, in order."""
    made = []

    class Monitor:
        def __init__(self, run_id, resume_logging):
            made.append((run_id, resume_logging))

        def start(self):
            made.append("start")

        def finish(self):
            made.append("finish")

    monkeypatch.setattr(system_metrics_monitor, "SystemMetricsMonitor", Monitor)
    return made


@pytest.mark.parametrize(
    ("value", "run"), [(None, RUN), ("", RUN), ("false", RUN), ("0", RUN), ("true", None)], ids=str
)
def test_the_load_is_not_logged_unless_the_switch_says_so_nor_by_other_processes(calls, monkeypatch, value, run):
    monkeypatch.delenv(SWITCH, raising=False)
    if value is not None:
        monkeypatch.setenv(SWITCH, value)
    with log_system_metrics(run):
        pass
    assert calls == []


@pytest.mark.parametrize("value", ["true", "True", "1"])
def test_the_load_is_logged_while_training_runs_after_what_an_earlier_try_logged(calls, monkeypatch, value):
    monkeypatch.setenv(SWITCH, value)
    with log_system_metrics(RUN):
        assert calls == [("run", True), "start"]
    assert calls[2:] == ["finish"]


def test_the_logging_ends_with_a_training_that_fails(calls, monkeypatch):
    monkeypatch.setenv(SWITCH, "true")
    with pytest.raises(KeyError), log_system_metrics(RUN):
        raise KeyError
    assert calls[-1] == "finish"


def test_a_monitor_that_cannot_start_does_not_end_the_training(monkeypatch, caplog):
    def fail(*_, **__):
        raise OSError("MLflow does not answer")

    monkeypatch.setenv(SWITCH, "true")
    monkeypatch.setattr(system_metrics_monitor, "SystemMetricsMonitor", fail)
    with log_system_metrics(RUN):
        trained = True
    assert trained and "the load of the machine is not logged: MLflow does not answer" in caplog.text
