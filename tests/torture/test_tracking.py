"""MLflow that comes and goes: no metric lost or doubled, one run, one version, whichever answer was lost."""

import json
import time

import mlflow
import pytest

from components.core.errors import StepError
from components.register.register import register
from components.registry.tracking import EPOCH_METRICS, MODEL_NAME
from tests.faults import steps


def logged(run_id: str) -> dict[str, list[int]]:
    client = mlflow.MlflowClient()
    return {name: [m.step for m in client.get_metric_history(run_id, name)] for name in EPOCH_METRICS}


@pytest.mark.parametrize("back", ["in time", "too late"])
def test_gone_in_the_middle_of_training(campaign, faulty, undisturbed, scans, tmp_path, monkeypatch, back):
    """It answers until epoch 2, and again from epoch 5, or only once training is over."""
    monkeypatch.setitem(steps.SETTINGS, "epochs", 7)
    for number in campaign.rounds(most=6):
        steps.forget()
        name = f"gone {back} {number}"
        monkeypatch.setenv("KFP_RUN_ID", name)
        monkeypatch.setenv("SCRATCH_DIR", str(tmp_path))
        monkeypatch.setitem(steps.SETTINGS, "random_seed", number)
        from components.train import learn as training

        kept = training._log_epochs

        def log(run, history, kept=kept):
            if len(history) == 2:
                faulty.mlflow.gone = True
            if len(history) == 5 and back == "in time":
                faulty.mlflow.gone = False
            kept(run, history)

        monkeypatch.setattr(training, "_log_epochs", log)
        calls = steps.steps(scans, tmp_path / f"{number}")
        for step in ("upload and fingerprint", "ingest", "preprocess", "split", "train"):
            calls[step]()
        monkeypatch.setattr(training, "_log_epochs", kept)
        if back == "too late":
            with pytest.raises(StepError, match="MLflow at"):
                calls["evaluate"]()
        campaign.count(f"requests to MLflow unanswered, {back}", faulty.mlflow.counts["gone"])
        faulty.heal()
        calls["evaluate"]()
        calls["register"]()
        (run,) = steps.runs_of(name)
        assert logged(run.info.run_id) == {name: [1, 2, 3, 4, 5, 6, 7] for name in EPOCH_METRICS}
        assert run.info.status == "FINISHED"
        rows = json.loads((tmp_path / f"{number}" / "model" / "history.json").read_text())
        values = mlflow.MlflowClient().get_metric_history(run.info.run_id, "val_dice")
        assert [m.value for m in values] == [row["val_dice"] for row in rows]
        campaign.count(f"trainings that went on, every epoch logged once and in order, {back}")


@pytest.mark.parametrize("how", ["gone", "lost"])
def test_registration_registers_once_whichever_request_fails(campaign, faulty, undisturbed, monkeypatch, how):
    """From a request on MLflow is gone, that request carried out or not; then it is back, and the step tried again."""
    monkeypatch.setattr("components.registry.mlflow_requests.CREATE_SECONDS", 0.5)
    steps.forget()
    before = len(faulty.mlflow.requests)
    register(undisturbed / "model", undisturbed / "evaluation")
    count = len(faulty.mlflow.requests) - before
    campaign.count(f"requests of a quiet registration: {count}", 0)
    for number in campaign.rounds(most=count):
        steps.forget()
        monkeypatch.setenv("KFP_RUN_ID", f"{how} {number}")
        first = len(faulty.mlflow.requests)
        moment = first + campaign.random.randrange(count)

        def plan(request, moment=moment):
            if request.number >= moment:
                return "lost" if request.number == moment and how == "lost" else "reset"
            return None

        faulty.mlflow.plan = plan
        began = time.monotonic()
        try:
            register(undisturbed / "model", undisturbed / "evaluation")
            campaign.count("went through at once")
        except StepError as error:
            assert "MLflow at" in str(error) and "\n" not in str(error)
            campaign.count("failed in one sentence")
        assert time.monotonic() - began < 120
        faulty.heal()
        register(undisturbed / "model", undisturbed / "evaluation")
        (version,) = steps.versions()
        client = mlflow.MlflowClient()
        aliases = client.get_registered_model(MODEL_NAME).aliases
        assert {name: str(v) for name, v in aliases.items()} == {"challenger": version.version}, "one test patient"
        (run,) = steps.runs_of(f"{how} {number}")
        assert run.info.status == "FINISHED"
        assert version.run_id == run.info.run_id
        assert version.tags["ledger_entry"]
        campaign.count(f"registered once after MLflow was {how} at a random request")


def test_one_answer_in_five_is_lost(campaign, faulty, undisturbed, monkeypatch):
    """The request was carried out, and its sender does not know."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "4")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")
    for number in campaign.rounds(most=20):
        steps.forget()
        monkeypatch.setenv("KFP_RUN_ID", f"deaf {number}")
        faulty.mlflow.counts.clear()
        faulty.mlflow.plan = lambda request: (
            "lost"
            if campaign.random.random() < 0.2 and not request.path.startswith("/api/2.0/mlflow-artifacts")
            else None
        )
        for _ in range(3):
            try:
                register(undisturbed / "model", undisturbed / "evaluation")
                break
            except StepError:
                campaign.count("steps that failed in words and were tried again")
        faulty.heal()
        assert len(steps.versions()) == 1
        assert [run.info.status for run in steps.runs_of(f"deaf {number}")] == ["FINISHED"]
        campaign.count("answers lost", faulty.mlflow.counts["lost"])
        campaign.count("registered once")
