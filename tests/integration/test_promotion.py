"""Who becomes champion, against a real registry and a real ledger."""

import json
from types import SimpleNamespace

import mlflow
import pytest
import torch

from components.core.ledger import BY_PERSON, FIRST, REFUSED, ROLLED_BACK, Ledger, champions
from components.core.step import StepError
from components.core.storage import Storage, file_sha256, work_bucket
from components.core.tracking import MODEL_NAME, Run
from components.evaluate.champion import against_champion
from components.register import register as step
from components.register.decision import decide
from components.register.policy import Policy, load
from components.unet.network import AttentionUNet
from pipelines import promotion

pytestmark = pytest.mark.usefixtures("servers_here")

TEST = [f"T{i}" for i in range(12)]
PATIENTS = {"train": ["A", "B"], "val": ["C"], "test": TEST}
NON_INFERIOR = Policy.model_validate(
    {"minimum_patients": 10, "confidence": 0.95, "metrics": {"dice": {"test": "non-inferiority", "margin": 0.01}}}
)


@pytest.fixture
def client(versionless):
    """Of a registry with no version, beside an empty ledger."""
    storage = Storage(f"s3://{work_bucket()}/ledger")
    storage.delete([o.key for o in storage.list()])
    return versionless


@pytest.fixture
def register(client, tmp_path):
    """register(seed) -> a version as the register step leaves it, of a tiny network."""

    def make(seed: int, patients: dict = PATIENTS, **facts):
        torch.manual_seed(seed)
        weights = tmp_path / f"weights-{seed}"
        weights.mkdir(exist_ok=True)
        torch.save(AttentionUNet(4).state_dict(), weights / "best_model.pth")
        (weights / "model.json").write_text(json.dumps({"base_channels": 4, "threshold": 0.5, "seed": seed} | facts))
        run = client.create_run("0")
        client.log_artifacts(run.info.run_id, str(weights), "model/artifacts/weights")
        client.log_text(run.info.run_id, json.dumps({"patients": patients, "digest": "d"}), "split.json")
        tags = {
            "weights_sha256": file_sha256(weights / "best_model.pth"), "split_digest": "d", "git_commit": "abc",
            "test_dice_mean": "0.6", "test_dice_ci_low": "0.5", "test_dice_ci_high": "0.7",
            "test_lesion_f1_mean": "0.8", "test_patients": "12",
        }  # fmt: skip
        source = f"{run.info.artifact_uri}/model"
        return client.create_model_version(MODEL_NAME, source, run.info.run_id, tags)

    return make


def measured(dice: float) -> list[dict]:
    """What evaluate finds on the test patients; no two of them are alike."""
    known = {"absolute_volume_difference_ml": 1.0, "lesion_count_difference": 0, "lesion_f1": 0.8}
    known |= {"lesion_f1_matched": 0.7, "surface_distance_95_mm": 4.0}
    return [{"patient": p, "dice": dice + i / 100, "iou": dice / 2, **known} for i, p in enumerate(TEST)]


def compared(ours: float, theirs: float, patients: dict = PATIENTS) -> dict:
    """`comparison.json` of a model with the Dice `ours`, where the champion gets `theirs`."""
    return against_champion(measured(ours), {"patients": patients}, lambda network, facts: measured(theirs))


def settle(client, version, comparison: dict, policy: Policy | None = None) -> str:
    """The register step's decision about a version, looked up anew as the step does."""
    version = client.get_model_version(MODEL_NAME, version.version)
    return decide(client, version, comparison, policy or load(), Ledger())


def champion(client) -> str | None:
    return client.get_registered_model(MODEL_NAME).aliases.get("champion")


def decisions() -> list[str]:
    return [e.facts["decision"] for e in Ledger().entries()]


@pytest.fixture
def two(client, register):
    """Version 1, champion as the first, and version 2, not decided about yet."""
    first = register(1)
    settle(client, first, compared(0.5, 0.0))
    return first, register(2)


def test_the_first_version_is_champion_without_a_comparison_and_that_is_on_record(client, register):
    comparison = compared(0.5, 0.0)
    assert (comparison["champion"], comparison["reason"]) == (None, "there was no champion to compare with")
    assert settle(client, register(1), comparison) == "the first one is champion without a comparison"
    assert (champion(client), decisions()) == ("1", [FIRST])


class Overtaken(mlflow.MlflowClient):
    """Another run's version of the same evaluation is there a moment before its own."""

    def create_model_version(self, *about, **more):
        theirs = super().create_model_version(MODEL_NAME, "s3://bucket/theirs", tags={"evaluation_digest": "e"})
        assert theirs.version == "1"
        return super().create_model_version(*about, **more)


def test_of_two_versions_that_two_runs_make_at_the_same_moment_the_older_stays(client, monkeypatch):
    monkeypatch.setattr(step, "_log", lambda *_: SimpleNamespace(model_uri="s3://bucket/ours", model_id=None))
    monkeypatch.setattr(step, "_sealed", lambda *_: "0" * 64)
    run = Run(Overtaken(), client.create_run("0").info.run_id)
    assert step._make_version(run, None, "e", {"evaluation_digest": "e"}, str) == "1"
    assert [v.version for v in client.search_model_versions(f"name = '{MODEL_NAME}'")] == ["1"]


def test_a_better_challenger_is_promoted(client, two):
    said = settle(client, two[1], compared(0.56, 0.5))
    assert said.startswith("promoted over version 1: Dice +0.060 (95 % 0.060 to 0.060), better; lesion-wise F1")
    assert champion(client) == "2"
    assert client.get_model_version(MODEL_NAME, "2").tags["decision"] == said


def test_a_worse_challenger_is_refused_and_its_numbers_are_on_record(client, two):
    said = settle(client, two[1], compared(0.45, 0.5))
    assert said.startswith("champion stays version 1: Dice -0.050 (95 % -0.050 to -0.050), not shown to be better")
    assert champion(client) == "1"
    entry = Ledger().entries()[-1].facts
    assert (entry["decision"], entry["from"], entry["to"], entry["version"]) == (REFUSED, "1", "1", "2")
    assert entry["evidence"]["differences"]["dice"]["mean"] == pytest.approx(-0.05)
    assert entry["lineage"]["git_commit"] == "abc" and entry["lineage"]["split_digest"] == "d"


@pytest.mark.parametrize(("policy", "holder"), [(load(), "1"), (NON_INFERIOR, "2")], ids=["superior", "non-inferior"])
def test_an_equal_challenger_is_handled_as_the_policy_says(client, two, policy, holder):
    settle(client, two[1], compared(0.5, 0.5), policy)
    assert champion(client) == holder


def test_a_champion_that_learnt_from_the_test_patients_refuses_every_challenger(client, two):
    others = {"train": ["A"], "val": ["B"], "test": ["C", *TEST[1:]]}
    said = settle(client, two[1], compared(0.9, 0.5, others))
    assert said == "champion stays version 1: version 1 was trained or tuned on 1 of these 12 test patients"
    assert Ledger().entries()[-1].facts["evidence"]["differences"]["dice"]["mean"] == pytest.approx(0.4)
    assert champion(client) == "1"


def test_a_champion_of_another_frozen_test_refuses_every_challenger(client, two):
    said = settle(client, two[1], compared(0.9, 0.5, PATIENTS | {"test": TEST[1:]}))
    assert "these are not the frozen test patients: 1 of version 1's are not among them" in said
    assert champion(client) == "1"


def test_the_champion_is_evaluated_with_its_own_weights_and_facts(two):
    seen = {}

    def measure(network, facts):
        seen.update(facts, first=next(network.parameters()).flatten()[0].item())
        return measured(0.5)

    against_champion(measured(0.5), {"patients": PATIENTS}, measure)
    torch.manual_seed(1)
    assert seen["seed"] == 1
    assert seen["first"] == next(AttentionUNet(4).parameters()).flatten()[0].item()


@pytest.mark.parametrize(
    ("tags", "facts", "why"),
    [
        ({"weights_sha256": "0" * 64}, {}, "not those that were registered"),
        ({}, {"base_channels": 8}, "best_model.pth does not load"),
        ({"split_digest": "another"}, {}, "is not known: its MLflow run holds no split.json of its own"),
    ],
    ids=["other weights", "another network", "other patients"],
)
def test_a_champion_that_cannot_be_compared_is_said_in_words_and_stays(client, register, tags, facts, why):
    first = register(1, **facts)
    settle(client, first, compared(0.5, 0.0))
    for name, value in tags.items():
        client.set_model_version_tag(MODEL_NAME, "1", name, value)
    said = settle(client, register(2), compared(0.9, 0.5))
    assert said.startswith("champion stays version 1: ") and why in said
    assert champion(client) == "1"


def test_a_comparison_with_another_champion_than_the_present_one_decides_nothing(client, two, register):
    old = compared(0.56, 0.5)
    settle(client, register(3), compared(0.6, 0.5))
    said = settle(client, two[1], old)
    assert "compared with version 1, and the champion has changed since" in said
    assert champion(client) == "3"


def test_a_retry_takes_no_decision_twice(client, two):
    for dice in (0.45, 0.56):
        comparison = compared(dice, 0.5)
        said = [settle(client, two[1], comparison) for _ in range(3)]
        assert len(set(said)) == 1
    assert len(decisions()) == 3 and champion(client) == "2"


def test_a_decision_that_a_kill_cut_short_is_carried_out_by_the_retry(client, two, monkeypatch):
    comparison = compared(0.56, 0.5)
    with monkeypatch.context() as killed:
        killed.setattr("components.register.decision.enact", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            settle(client, two[1], comparison)
    assert champion(client) == "1" and champions(Ledger().entries()) == ["1", "2"]
    settle(client, two[1], comparison)
    assert champion(client) == "2" and len(decisions()) == 2


def test_where_the_champion_was_taken_away_by_hand_a_person_names_the_next(client, two):
    client.delete_registered_model_alias(MODEL_NAME, "champion")
    said = settle(client, two[1], compared(0.9, 0.5))
    assert "none is champion. Name one: make promote" in said
    assert champion(client) is None


def test_a_new_registry_beside_an_old_ledger_begins_anew(client, two, register):
    settle(client, two[1], compared(0.56, 0.5))
    client.delete_registered_model(MODEL_NAME)
    client.create_registered_model(MODEL_NAME)
    settle(client, register(1), compared(0.5, 0.0))
    assert champion(client) == "1" == champions(Ledger().entries())[-1]


def test_a_person_promotes_with_a_reason_and_rolls_back(client, two, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("LOGNAME", "somchai")
    settle(client, two[1], compared(0.45, 0.5))
    promotion.promote(f"models:/{MODEL_NAME}/2", "finds the small ones", tmp_path)
    assert champion(client) == "2"
    assert "why      version 2: promoted over version 1 by somchai: finds the small ones" in capsys.readouterr().out
    promotion.rollback("it does not", tmp_path)
    assert champion(client) == "1"
    assert decisions() == [FIRST, REFUSED, BY_PERSON, ROLLED_BACK]
    assert {e.facts["who"] for e in Ledger().entries()[2:]} == {"somchai"}
    out = capsys.readouterr().out
    assert "version 2: rolled back to version 1 by somchai: it does not" in out
    assert "The ledger is whole, and replays to what the registry says." in out


def test_what_a_person_took_back_only_a_person_makes_champion_again(client, two, tmp_path, register):
    better = compared(0.56, 0.5)
    settle(client, two[1], better)
    promotion.rollback("", tmp_path)
    settle(client, two[1], better)
    assert champion(client) == "1"
    assert "rolled this one back" in settle(client, two[1], compared(0.6, 0.5))
    assert champion(client) == "1"
    promotion.promote(f"models:/{MODEL_NAME}/2", "mended the scanner", tmp_path)
    settle(client, register(3), compared(0.6, 0.5))
    settle(client, two[1], compared(0.7, 0.6))
    assert champion(client) == "2"


@pytest.mark.parametrize(
    ("model", "reason", "said"),
    [
        (f"models:/{MODEL_NAME}/2", " ", "needs a reason"),
        (f"models:/{MODEL_NAME}/7", "why", "there is no models:/dwi-attention-unet/7 in the registry"),
        (f"models:/{MODEL_NAME}@champion", "why", "version 1 is champion already"),
        ("models:/another/1", "why", "is no version of dwi-attention-unet"),
        ("2", "why", "is no version of dwi-attention-unet"),
    ],
)
def test_a_mistake_of_a_person_is_answered_in_words_and_changes_nothing(client, two, tmp_path, model, reason, said):
    with pytest.raises(StepError, match=said):
        promotion.promote(model, reason, tmp_path)
    assert (champion(client), decisions()) == ("1", [FIRST])


def test_there_is_nothing_to_go_back_to_before_the_first(client, two, tmp_path):
    with pytest.raises(StepError, match="there was no champion before version 1"):
        promotion.rollback("", tmp_path)


def test_an_alias_that_was_moved_by_hand_is_noticed_and_can_be_put_on_record(client, two, tmp_path, capsys):
    client.set_registered_model_alias(MODEL_NAME, "champion", "2")
    assert promotion.champion(tmp_path) == 1
    assert "in the registry version 2 is champion, the ledger ends with version 1" in capsys.readouterr().out
    with pytest.raises(StepError, match="Put on record"):
        promotion.rollback("", tmp_path)
    promotion.promote(f"models:/{MODEL_NAME}/2", "meant so", tmp_path)
    assert promotion.champion(tmp_path) == 0


def test_the_last_decision_is_missed_too_where_it_was_removed(client, two, tmp_path, capsys):
    settle(client, two[1], compared(0.45, 0.5))
    Ledger().storage.delete([Ledger().entries()[-1].key])
    assert promotion.champion(tmp_path) == 1
    assert "WRONG: the decision about version 2, s3://" in capsys.readouterr().out


def test_the_ledger_replays_to_the_registry_after_any_decisions(client, two, tmp_path, register):
    settle(client, two[1], compared(0.56, 0.5))
    for seed, dice in ((3, 0.5), (4, 0.6), (5, 0.55)):
        settle(client, register(seed), compared(dice, 0.56))
        assert champions(Ledger().entries())[-1] == champion(client)
    promotion.promote(f"models:/{MODEL_NAME}/1", "try", tmp_path)
    promotion.rollback("", tmp_path)
    promotion.rollback("", tmp_path)
    assert champions(Ledger().entries())[-1] == champion(client) == "2"
    assert Ledger().faults == []


def test_without_a_champion_the_command_says_how_one_comes_about(client, tmp_path, capsys):
    assert promotion.champion(tmp_path) == 0
    assert "There is no champion yet: make pipeline-run" in capsys.readouterr().out
