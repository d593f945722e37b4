"""Who becomes champion, against a real registry and a real ledger."""

import json
import os
from types import SimpleNamespace
from unittest import mock

import mlflow
import pytest
import torch

from components.artifacts.evaluation import Comparison, ScanResult
from components.artifacts.split_file import split_digest
from components.artifacts.synthetic import TAG
from components.core.errors import StepError
from components.core.storage import Storage, file_sha256, work_bucket
from components.evaluate.champion_comparison import compare_with_champion
from components.model.network import AttentionUNet
from components.register import register as step
from components.register.decision import decide
from components.register.policy import Policy, load
from components.registry.authentication import KEY_TAG
from components.registry.ledger import (
    BY_PERSON,
    BY_POLICY,
    FIRST,
    HEAD,
    NAMES_ENTRY,
    REFUSED,
    ROLLED_BACK,
    Ledger,
    champion_stack,
)
from components.registry.ledger_entry import CODE, new_entry
from components.registry.ledger_pairing import RENEW
from components.registry.ledger_pairing import TAG as TAG_OF_MARK
from components.registry.tracking import MODEL_NAME, Run
from pipelines.models import promotion
from pipelines.predict.registered_model import RegisteredSegmenter
from tests.support.scan_results import scan_result

pytestmark = pytest.mark.usefixtures("servers_here")

TEST = [f"T{i}" for i in range(12)]
PATIENTS = {"train": ["A", "B"], "val": ["C"], "test": TEST}
NON_INFERIOR = Policy.model_validate(
    {
        "floors": {"minimum_patients": 10, "better_than_rule": True, "false_volume_ml": 1},
        "minimum_patients": 10, "confidence": 0.95, "metrics": {"dice": {"test": "non-inferiority", "margin": 0.01}},
    }
)  # fmt: skip
SUMMARY = {"test_patients": 12, "test_dice_mean": 0.6, "test_rule_dice_mean": 0.37, "test_better_than_rule": 1.0,
           "test_false_positive_ml_lesion_free_mean": 0.2}  # fmt: skip
WORSE_THAN_RULE = SUMMARY | {"test_dice_mean": 0.24, "test_better_than_rule": 0.0}
FIRST_WORDS = (
    "the first champion, without a comparison: 12 test patients of at least 10; Dice 0.600, better than the rule "
    "without a network (0.370); 0.20 mL predicted on a lesion-free scan on average, at most 1 mL"
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

    def make(seed: int, patients: dict = PATIENTS, synthetic: bool = False, **facts):
        torch.manual_seed(seed)
        weights = tmp_path / f"weights-{seed}"
        weights.mkdir(exist_ok=True)
        torch.save(AttentionUNet(4).state_dict(), weights / "best_model.pth")
        known = {
            "image_size": 32, "normalization": "slice", "base_channels": 4, "threshold": 0.5, "best_epoch": seed,
        }  # fmt: skip
        (weights / "model.json").write_text(json.dumps(known | facts))
        run = client.create_run("0")
        client.log_artifacts(run.info.run_id, str(weights), "model/artifacts/weights")
        client.log_text(
            run.info.run_id, json.dumps({"patients": patients, "digest": split_digest(patients)}), "split.json"
        )
        tags = {
            "weights_sha256": file_sha256(weights / "best_model.pth"), "git_commit": "abc",
            "facts_sha256": file_sha256(weights / "model.json"), "split_digest": split_digest(patients),
            "test_dice_mean": "0.6", "test_dice_ci_low": "0.5", "test_dice_ci_high": "0.7",
            "test_lesion_f1_mean": "0.8", "test_patients": "12", **(TAG if synthetic else {}),
        }  # fmt: skip
        source = f"{run.info.artifact_uri}/model"
        return client.create_model_version(MODEL_NAME, source, run.info.run_id, tags)

    return make


def measured(dice: float) -> list[ScanResult]:
    """The results of the test patients; no two are equal."""
    known = {
        "absolute_volume_difference_ml": 1.0, "relative_volume_difference": 0.2, "lesion_f1": 0.8,
        "lesion_f1_matched": 0.7, "surface_distance_95_mm": 3.0,
    }  # fmt: skip
    return [scan_result(p, dice=dice + i / 100, iou=dice / 2, **known) for i, p in enumerate(TEST)]


def compared(ours: float, theirs: float, patients: dict = PATIENTS, synthetic: bool = False) -> Comparison:
    """The comparison of a model with the Dice `ours`, where the champion gets `theirs`."""
    return compare_with_champion(measured(ours), patients, lambda *_: measured(theirs), synthetic)


def settle(client, version, comparison: Comparison, policy: Policy | None = None, summary: dict = SUMMARY) -> str:
    """The register step's decision about a version, looked up again as the step does."""
    version = client.get_model_version(MODEL_NAME, version.version)
    return decide(client, version, comparison, summary, policy or load(), Ledger())


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


def test_the_first_version_is_champion_by_the_floors_alone_and_that_is_on_record(client, register):
    comparison = compared(0.5, 0.0)
    assert (comparison.champion, comparison.reason) == (None, "there was no champion to compare with")
    assert settle(client, register(1), comparison) == FIRST_WORDS
    assert (champion(client), decisions()) == ("1", [FIRST])
    assert Ledger().entries()[0].facts["evidence"]["floors"] == {
        "minimum_patients": {"patients": 12, "passed": True},
        "better_than_rule": {"dice": 0.6, "rule": 0.37, "passed": True},
        "false_volume_ml": {"mean": 0.2, "passed": True},
    }


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("short", "text"),
    [
        ({"test_patients": 5}, "5 test patients of at least 10"),
        (WORSE_THAN_RULE, "Dice 0.240, not better than the rule without a network (0.370)"),
        ({"test_false_positive_ml_lesion_free_mean": 2.5},
         "2.50 mL predicted on a lesion-free scan on average, more than 1 mL"),
    ],
    ids=["patients", "rule", "false volume"],
)  # fmt: skip
def test_a_first_version_below_a_floor_is_no_champion_and_the_commands_say_how_to_name_one(
    client, register, tmp_path, capsys, short, text
):
    words = settle(client, register(1), compared(0.5, 0.0), summary=SUMMARY | short)
    assert words == f"there is no champion: {text}"
    assert (champion(client), decisions()) == (None, [FIRST])
    assert promotion.champion(tmp_path) == 0
    shown = capsys.readouterr().out
    assert f"no version of {MODEL_NAME} is champion. Version 1: {words}" in shown
    assert "The ledger is complete, and agrees with the registry." in shown
    with pytest.raises(StepError, match=rf"make promote MODEL=models:/{MODEL_NAME}/1 REASON="):
        RegisteredSegmenter(f"models:/{MODEL_NAME}@champion", tmp_path)
    promotion.promote(f"models:/{MODEL_NAME}/1", "seen by us", tmp_path)
    assert champion(client) == "1"


@pytest.mark.slow
def test_after_a_first_version_below_the_floors_the_next_is_judged_by_them_too(client, register):
    for seed in (1, 2):
        settle(client, register(seed), compared(0.5, 0.0), summary=WORSE_THAN_RULE)
    assert champion(client) is None
    assert settle(client, register(3), compared(0.5, 0.0)) == FIRST_WORDS
    assert champion(client) == "3" == champion_stack(Ledger().entries())[-1]
    assert decisions() == [FIRST, REFUSED, BY_POLICY]


def test_a_better_challenger_below_a_floor_is_refused(client, two):
    text = settle(client, two[1], compared(0.56, 0.5), summary=WORSE_THAN_RULE)
    assert text == "champion stays version 1: Dice 0.240, not better than the rule without a network (0.370)"
    assert champion(client) == "1"


class TestSyntheticVersions:
    """They keep `make predict` working after the demo, and stand before no version from patients."""

    @pytest.fixture
    def demo(self, client, register):
        """Version 1, from synthetic scans alone, with no better numbers than any."""
        version = register(1, synthetic=True)
        settle(client, version, compared(0.2, 0.0, synthetic=True), summary=WORSE_THAN_RULE)
        return version

    def test_the_first_synthetic_version_is_champion_and_every_command_marks_it(self, client, demo, tmp_path, capsys):
        assert champion(client) == "1"
        assert "the first version from patients that passes" in Ledger().entries()[0].facts["words"]
        assert promotion.champion(tmp_path) == 0
        assert "WARNING  it learnt from SYNTHETIC scans alone" in capsys.readouterr().out

    def test_the_first_from_patients_that_passes_the_floors_replaces_it_without_a_comparison(
        self, client, demo, register
    ):
        comparison = compared(0.2, 0.9)
        assert comparison.reason == "version 1 learnt from synthetic scans alone" and comparison.pairs == {}
        text = settle(client, register(2), comparison)
        assert text.startswith("promoted over version 1, which learnt from synthetic scans alone: 12 test patients of")
        assert champion(client) == "2" and decisions() == [FIRST, BY_POLICY]

    @pytest.mark.slow
    def test_one_from_patients_below_the_floors_does_not(self, client, demo, register):
        text = settle(client, register(2), compared(0.2, 0.9), summary=WORSE_THAN_RULE)
        assert text.startswith("champion stays version 1: Dice 0.240, not better") and champion(client) == "1"
        settle(client, register(3), compared(0.2, 0.9))
        assert champion(client) == "3"

    def test_it_never_replaces_one_that_learnt_from_patients(self, client, two, register):
        comparison = compared(0.99, 0.5, synthetic=True)
        assert comparison.reason == "version 1 learnt from patients, and these are synthetic scans"
        text = settle(client, register(3, synthetic=True), comparison)
        assert text == "champion stays version 1: it learnt from synthetic scans alone, and version 1 from patients"
        assert champion(client) == "1"

    @pytest.mark.slow
    def test_it_does_not_become_champion_if_a_version_from_patients_failed(self, client, register):
        settle(client, register(1), compared(0.5, 0.0), summary=WORSE_THAN_RULE)
        text = settle(client, register(2, synthetic=True), compared(0.9, 0.0, synthetic=True))
        assert text.startswith("there is no champion: it learnt from synthetic scans alone, and there are versions")
        assert champion(client) is None

    @pytest.mark.slow
    def test_two_of_them_are_compared_by_the_policy_and_not_by_the_floors(self, client, demo, register):
        settle(client, register(2, synthetic=True), compared(0.56, 0.5, synthetic=True), summary=WORSE_THAN_RULE)
        assert champion(client) == "2"

    @pytest.mark.slow
    def test_only_a_person_makes_a_rolled_back_version_champion_again_over_it(self, client, demo, register, tmp_path):
        second = register(2)
        settle(client, second, compared(0.5, 0.0))
        promotion.rollback("wrong scanner", tmp_path)
        assert champion(client) == "1"
        assert "rolled this version back" in settle(client, second, compared(0.5, 0.0), NON_INFERIOR)
        assert champion(client) == "1"

    @pytest.mark.slow
    def test_where_it_lost_its_alias_the_floors_decide(self, client, demo, register):
        client.delete_registered_model_alias(MODEL_NAME, "champion")
        settle(client, register(2), compared(0.5, 0.0))
        assert champion(client) == "2"


class Overtaken(mlflow.MlflowClient):
    """Another run's version of the same evaluation is there a moment before its own."""

    def create_model_version(self, *about, **more):
        tags = {"evaluation_digest": "e"}
        theirs = super().create_model_version(MODEL_NAME, "s3://dwi-stroke/mlflow/theirs", tags=tags)
        assert theirs.version == "1"
        return super().create_model_version(*about, **more)


def test_of_two_versions_that_two_runs_make_at_the_same_moment_the_older_stays(client, monkeypatch):
    monkeypatch.setattr(step, "logged_model", lambda *_: (None, "s3://dwi-stroke/mlflow/ours"))
    monkeypatch.setattr(Run, "link_model", lambda *_: None)
    monkeypatch.setattr(step, "stored_model_digest", lambda *_: "0" * 64)
    run = Run(Overtaken(), client.create_run("0").info.run_id)
    assert step._create_version(run, None, {"evaluation_digest": "e"}, "") == "1"
    assert [v.version for v in client.search_model_versions(f"name = '{MODEL_NAME}'")] == ["1"]


def test_a_better_challenger_is_promoted(client, two):
    text = settle(client, two[1], compared(0.56, 0.5))
    start = "promoted over version 1: Dice, all patients +0.060 (95 % 0.060 to 0.060), better; lesion F1, touched"
    assert text.startswith(start)
    assert champion(client) == "2"
    assert client.get_model_version(MODEL_NAME, "2").tags["decision"] == text


def test_a_worse_challenger_is_refused_and_its_numbers_are_on_record(client, two):
    text = settle(client, two[1], compared(0.45, 0.5))
    assert text.startswith(
        "champion stays version 1: Dice, all patients -0.050 (95 % -0.050 to -0.050), not shown to be better"
    )
    assert champion(client) == "1"
    entry = Ledger().entries()[-1].facts
    assert (entry["decision"], entry["from"], entry["to"], entry["version"]) == (REFUSED, "1", "1", "2")
    assert entry["evidence"]["differences"]["dice"]["mean"] == pytest.approx(-0.05)
    assert entry["lineage"]["git_commit"] == "abc" and entry["lineage"]["split_digest"] == split_digest(PATIENTS)


@pytest.mark.parametrize(("policy", "holder"), [(load(), "1"), (NON_INFERIOR, "2")], ids=["superior", "non-inferior"])
def test_an_equal_challenger_is_handled_as_the_policy_says(client, two, policy, holder):
    settle(client, two[1], compared(0.5, 0.5), policy)
    assert champion(client) == holder


@pytest.mark.slow
def test_a_champion_that_learnt_from_the_test_patients_refuses_every_challenger(client, two):
    others = {"train": ["A"], "val": ["B"], "test": ["C", *TEST[1:]]}
    text = settle(client, two[1], compared(0.9, 0.5, others))
    assert text == "champion stays version 1: version 1 was trained or tuned on 1 of these 12 test patients"
    assert Ledger().entries()[-1].facts["evidence"]["differences"]["dice"]["mean"] == pytest.approx(0.4)
    assert champion(client) == "1"


@pytest.mark.slow
def test_a_champion_of_another_frozen_test_refuses_every_challenger(client, two):
    text = settle(client, two[1], compared(0.9, 0.5, PATIENTS | {"test": TEST[1:]}))
    assert "these are not the frozen test patients: 1 of version 1's are not among them" in text
    assert champion(client) == "1"


def test_the_champion_is_evaluated_with_its_own_weights_and_facts(two):
    seen = {}

    def measure(network, facts, patients):
        seen.update(dict(facts), first=next(network.parameters()).flatten()[0].item())
        return measured(0.5)

    compare_with_champion(measured(0.5), PATIENTS, measure, False)
    torch.manual_seed(1)
    assert seen["best_epoch"] == 1
    assert seen["first"] == next(AttentionUNet(4).parameters()).flatten()[0].item()


@pytest.mark.slow
@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("tags", "facts", "why"),
    [
        ({"weights_sha256": "0" * 64}, {}, "best_model.pth is not what was registered (tag weights_sha256)"),
        ({"facts_sha256": "0" * 64}, {}, "model.json is not what was registered (tag facts_sha256)"),
        ({"facts_sha256": None, "model_sha256": "0" * 64}, {}, "a file of its model is not what was registered"),
        (
            {"facts_sha256": None},
            {},
            "registered without the tag model_sha256: changes of a file of its model cannot be detected",
        ),
        ({}, {"base_channels": 8}, "best_model.pth cannot be loaded"),
        ({"split_digest": "another"}, {}, "are unknown: its MLflow run has no split.json of its own"),
    ],
    ids=["other weights", "other facts", "another file", "no digest of its facts", "another network", "other patients"],
)
def test_a_champion_that_cannot_be_compared_stays_and_the_reason_is_given(client, register, tags, facts, why):
    first = register(1, **facts)
    settle(client, first, compared(0.5, 0.0))
    for name, value in tags.items():
        if value is None:
            client.delete_model_version_tag(MODEL_NAME, "1", name)
        else:
            client.set_model_version_tag(MODEL_NAME, "1", name, value)
    text = settle(client, register(2), compared(0.9, 0.5))
    assert text.startswith("champion stays version 1: ") and why in text
    assert champion(client) == "1"


@pytest.mark.slow
def test_a_comparison_with_another_champion_than_the_present_one_decides_nothing(client, two, register):
    old = compared(0.56, 0.5)
    settle(client, register(3), compared(0.6, 0.5))
    text = settle(client, two[1], old)
    assert "compared with version 1, and the champion has changed since" in text
    assert champion(client) == "3"


@pytest.mark.slow
def test_a_retry_takes_no_decision_twice(client, two):
    for dice in (0.45, 0.56):
        comparison = compared(dice, 0.5)
        text = [settle(client, two[1], comparison) for _ in range(3)]
        assert len(set(text)) == 1
    assert len(decisions()) == 3 and champion(client) == "2"


def test_a_decision_that_a_kill_cut_short_is_carried_out_by_the_retry(client, two, monkeypatch):
    comparison = compared(0.56, 0.5)
    with monkeypatch.context() as killed:
        interrupt = mock.Mock(side_effect=KeyboardInterrupt)
        killed.setattr("components.register.decision.apply_to_registry", interrupt)
        with pytest.raises(KeyboardInterrupt):
            settle(client, two[1], comparison)
    assert champion(client) == "1" and champion_stack(Ledger().entries()) == ["1", "2"]
    settle(client, two[1], comparison)
    assert champion(client) == "2" and len(decisions()) == 2


@pytest.mark.slow
def test_where_the_champion_was_taken_away_by_hand_a_person_names_the_next(client, two, tmp_path):
    client.delete_registered_model_alias(MODEL_NAME, "champion")
    text = settle(client, two[1], compared(0.9, 0.5))
    assert text == "there is no champion: version 1 is no longer champion, and no other was named"
    assert champion(client) is None
    settle(client, two[1], compared(0.91, 0.5))
    assert champion(client) is None
    with pytest.raises(StepError, match=rf"make promote MODEL=models:/{MODEL_NAME}/2"):
        RegisteredSegmenter(f"models:/{MODEL_NAME}@champion", tmp_path)


@pytest.mark.slow
def test_a_new_registry_with_an_old_ledger_starts_again(client, two, register):
    settle(client, two[1], compared(0.56, 0.5))
    client.delete_registered_model(MODEL_NAME)
    client.create_registered_model(MODEL_NAME)
    settle(client, register(1), compared(0.5, 0.0))
    assert champion(client) == "1" == champion_stack(Ledger().entries())[-1]


def test_a_person_promotes_with_a_reason_and_rolls_back(client, two, tmp_path, capsys, monkeypatch):
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.setenv(name, "mallory")
    monkeypatch.setattr("pwd.getpwuid", lambda uid: SimpleNamespace(pw_name={os.getuid(): "somchai"}[uid]))
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
    assert "The ledger is complete, and agrees with the registry." in out


@pytest.mark.slow
def test_only_a_person_makes_a_rolled_back_version_champion_again(client, two, tmp_path, register):
    better = compared(0.56, 0.5)
    settle(client, two[1], better)
    promotion.rollback("", tmp_path)
    settle(client, two[1], better)
    assert champion(client) == "1"
    assert "rolled this version back" in settle(client, two[1], compared(0.6, 0.5))
    assert champion(client) == "1"
    promotion.promote(f"models:/{MODEL_NAME}/2", "mended the scanner", tmp_path)
    settle(client, register(3), compared(0.6, 0.5))
    settle(client, two[1], compared(0.7, 0.6))
    assert champion(client) == "2"


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    ("model", "reason", "text"),
    [
        (f"models:/{MODEL_NAME}/2", " ", "needs a reason"),
        (f"models:/{MODEL_NAME}/7", "why", "there is no models:/dwi-attention-unet/7 in the registry"),
        (f"models:/{MODEL_NAME}@champion", "why", "version 1 is champion already"),
        ("models:/another/1", "why", "is no version of dwi-attention-unet"),
        ("2", "why", "is no version of dwi-attention-unet"),
    ],
)
def test_a_persons_mistake_gives_a_clear_error_and_changes_nothing(client, two, tmp_path, model, reason, text):
    with pytest.raises(StepError, match=text):
        promotion.promote(model, reason, tmp_path)
    assert (champion(client), decisions()) == ("1", [FIRST])


@pytest.mark.slow
def test_there_is_nothing_to_go_back_to_before_the_first(client, two, tmp_path):
    with pytest.raises(StepError, match="there was no champion before version 1"):
        promotion.rollback("", tmp_path)


@pytest.mark.slow
def test_an_alias_that_was_moved_by_hand_is_noticed_and_can_be_put_on_record(client, two, tmp_path, capsys):
    client.set_registered_model_alias(MODEL_NAME, "champion", "2")
    assert promotion.champion(tmp_path) == 1
    assert "in the registry version 2 is champion, the ledger ends with version 1" in capsys.readouterr().out
    with pytest.raises(StepError, match="Record which one should be champion"):
        promotion.rollback("", tmp_path)
    promotion.promote(f"models:/{MODEL_NAME}/2", "meant so", tmp_path)
    assert promotion.champion(tmp_path) == 0


@pytest.mark.slow
def test_the_last_decision_is_missed_too_where_it_was_removed(client, two, tmp_path, capsys):
    settle(client, two[1], compared(0.45, 0.5))
    Ledger().storage.delete([Ledger().entries()[-1].key])
    assert promotion.champion(tmp_path) == 1
    assert "WRONG: the decision about version 2, s3://" in capsys.readouterr().out


def put_into_bucket(facts: dict, **other) -> None:
    """As somebody who can write the bucket alone: an entry after the last one, of these facts."""
    entry, blob = new_entry(facts | {"number": facts["number"] + 1, "previous": [], **other})
    Ledger().storage.put(entry.key, blob)


@pytest.mark.slow
@pytest.mark.sampled(2)
@pytest.mark.parametrize("coded", [True, False], ids=["with the last one's code", "without a code"])
def test_a_decision_that_the_bucket_alone_makes_is_not_carried_out(client, two, tmp_path, capsys, coded):
    settle(client, two[1], compared(0.45, 0.5))
    facts = Ledger().entries()[-1].facts
    put_into_bucket(
        {name: value for name, value in facts.items() if coded or name != CODE},
        **{"decision": BY_PERSON, "from": "1", "to": "2", "words": "promoted by somebody", "subject": "x"},
    )
    settle(client, two[1], compared(0.44, 0.5))
    assert champion(client) == "1" and decisions() == [FIRST, REFUSED, REFUSED]
    assert promotion.champion(tmp_path) == 1
    out = capsys.readouterr().out
    assert "does not belong to this registry: its authentication code is missing or invalid. Not used" in out
    assert "somebody" not in out and "The ledger is complete" not in out


@pytest.mark.slow
def test_without_a_decision_that_was_removed_nothing_is_decided_until_a_person_gives_it_up(
    client, two, tmp_path, capsys
):
    settle(client, two[1], compared(0.56, 0.5))
    promotion.rollback("it misses the small ones", tmp_path)
    Ledger().storage.delete([Ledger().entries()[-1].key])
    for act in (
        lambda: settle(client, two[1], compared(0.6, 0.5)),
        lambda: promotion.promote(f"models:/{MODEL_NAME}/2", "why not", tmp_path),
        lambda: promotion.rollback("", tmp_path),
    ):
        with pytest.raises(StepError, match=r"which the registry names, was removed .* No decision was made"):
            act()
    assert champion(client) == "1" and decisions() == [FIRST, BY_POLICY]
    capsys.readouterr()
    assert promotion.champion(tmp_path) == 1 and "The ledger is complete" not in capsys.readouterr().out
    client.set_registered_model_tag(MODEL_NAME, TAG_OF_MARK, RENEW)
    promotion.promote(f"models:/{MODEL_NAME}/1", "its record is lost", tmp_path)
    out = capsys.readouterr().out
    assert "not checked: 1 decisions of s3://" in out and "The ledger is complete" not in out
    assert "not checked: the tags of version 2: the decision that they name, " in out
    assert "What was checked of the ledger agrees with the registry." in out


@pytest.mark.slow
def test_a_ledger_without_codes_is_adopted_and_continued(client, two, tmp_path, capsys):
    settle(client, two[1], compared(0.45, 0.5))
    storage = Ledger().storage
    before: list = []
    for entry in Ledger().entries():
        facts = entry.content | {"previous": [e.sha256 for e in before[-1:]]}
        storage.delete([entry.key])
        before.append(new_entry(facts)[0])
        storage.put(before[-1].key, new_entry(facts)[1])
        client.set_model_version_tag(MODEL_NAME, facts["version"], NAMES_ENTRY, before[-1].key)
    for name in client.get_registered_model(MODEL_NAME).tags:
        if name == HEAD or name.startswith(KEY_TAG):
            client.delete_registered_model_tag(MODEL_NAME, name)
    assert promotion.champion(tmp_path) == 0
    promotion.promote(f"models:/{MODEL_NAME}/2", "as it was", tmp_path)
    assert decisions() == [FIRST, REFUSED, BY_PERSON] and champion(client) == "2"
    assert "The ledger is complete, and agrees with the registry." in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    "alter",
    [
        lambda client: client.set_model_version_tag(MODEL_NAME, "1", "test_dice_mean", "0.9"),
        lambda client: client.set_model_version_tag(MODEL_NAME, "1", "test_better_than_rule", "1.0"),
        lambda client: client.delete_model_version_tag(MODEL_NAME, "1", "split_digest"),
        lambda client: client.set_model_version_tag(MODEL_NAME, "1", "data", "synthetic demo scans, no patients"),
        lambda client: client.set_model_version_tag(MODEL_NAME, "2", "decision", "promoted over version 1"),
        lambda client: client.delete_model_version_tag(MODEL_NAME, "2", "ledger_entry"),
    ],
    ids=["a number", "one more", "one less", "what it learnt from", "why", "by which decision"],
)
def test_changes_in_the_registry_are_named(client, two, tmp_path, capsys, alter):
    settle(client, two[1], compared(0.45, 0.5))
    assert promotion.champion(tmp_path) == 0
    alter(client)
    capsys.readouterr()
    assert promotion.champion(tmp_path) == 1
    out = capsys.readouterr().out
    assert out.count("WRONG: ") == 1 and "The ledger is complete" not in out


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("ending", "alter", "why"),
    [
        ("weights/model.json", lambda facts: facts | {"threshold": 0.9999}, "model.json is not what was registered"),
        ("split.json", lambda split: split | {"patients": PATIENTS | {"train": ["B"], "test": ["A", *TEST]}},
         "the training patients of version 1 are unknown"),
    ],
    ids=["its threshold", "its patients"],
)  # fmt: skip
def test_a_champion_that_was_altered_in_the_bucket_supports_no_promotion(client, two, ending, alter, why):
    storage = Storage(f"s3://{work_bucket()}")
    (key,) = (o.key for o in storage.list() if two[0].run_id in o.key and o.key.endswith(ending))
    storage.put(key, json.dumps(alter(json.loads(storage.get(key)))).encode())
    comparison = compared(0.9, 0.5)
    assert why in comparison.reason
    assert settle(client, two[1], comparison).startswith("champion stays version 1: ") and champion(client) == "1"


@pytest.mark.slow
def test_the_ledger_replays_to_the_registry_after_any_decisions(client, two, tmp_path, register):
    settle(client, two[1], compared(0.56, 0.5))
    for seed, dice in ((3, 0.5), (4, 0.6), (5, 0.55)):
        settle(client, register(seed), compared(dice, 0.56))
        assert champion_stack(Ledger().entries())[-1] == champion(client)
    promotion.promote(f"models:/{MODEL_NAME}/1", "try", tmp_path)
    promotion.rollback("", tmp_path)
    promotion.rollback("", tmp_path)
    assert champion_stack(Ledger().entries())[-1] == champion(client) == "2"
    assert Ledger().faults == []


def test_without_a_champion_the_command_explains_how_to_get_one(client, tmp_path, capsys):
    assert promotion.champion(tmp_path) == 0
    assert "there is no champion: no model is registered. Make one: make pipeline-run" in capsys.readouterr().out
