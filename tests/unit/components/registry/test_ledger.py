"""The ledger: what it keeps, what it notices, and who is champion by it. With S3: see tests/integration."""

import datetime
import hashlib
import json
import logging
from types import SimpleNamespace

import pytest

from components.core.errors import StepError
from components.core.storage import Object
from components.registry.authentication import KEY_TAG
from components.registry.ledger import (
    BY_PERSON,
    BY_POLICY,
    FIRST,
    HEAD,
    MARK,
    NAMES_ENTRY,
    REFUSED,
    ROLLED_BACK,
    Ledger,
    champion_stack,
)
from components.registry.ledger_entry import CODE, new_entry
from components.registry.tracking import MODEL_NAME


class Bucket:
    """A bucket in memory."""

    uri = "s3://bucket/ledger"

    def __init__(self):
        self.blobs: dict[str, bytes] = {}

    def list(self) -> list[Object]:
        return [Object(key, len(blob), hashlib.md5(blob).hexdigest()) for key, blob in sorted(self.blobs.items())]

    def find(self, key: str) -> Object | None:
        return next((o for o in self.list() if o.key == key), None)

    def get(self, key: str) -> bytes:
        return self.blobs[key]

    def put(self, key: str, blob: bytes) -> None:
        assert key == MARK or key not in self.blobs, "an entry is never written again"
        self.blobs[key] = blob


class Registry:
    """A registry in memory: one registered model, made at `born`, and its versions."""

    def __init__(self, born: int = 1):
        self.model = SimpleNamespace(name=MODEL_NAME, creation_timestamp=born, tags={}, aliases={})
        self.versions: list[SimpleNamespace] = []

    def search_registered_models(self, _) -> list:
        return [self.model] if self.model else []

    def search_model_versions(self, _) -> list:
        return self.versions

    def set_registered_model_tag(self, name: str, key: str, value: str) -> None:
        self.model.tags[key] = value


def decision_facts(decision: str, before: str | None, after: str | None) -> dict:
    """What a decision says."""
    return {
        "decision": decision, "who": "somchai", "version": after or "1", "model": f"models:/m-{after}", "from": before,
        "to": after, "words": "because", "reason": "", "evidence": {}, "lineage": {}, "metrics": {}, "subject": "",
    }  # fmt: skip


def without_code(bucket: Bucket, facts: dict, previous: list[str], number: int) -> str:
    """Put an entry there as the first version of the ledger did, and as who can write the bucket alone can: its key."""
    when = datetime.datetime.now(datetime.UTC).isoformat()
    entry, blob = new_entry({"number": number, "when": when, **facts, "previous": previous})
    bucket.put(entry.key, blob)
    return entry.key


@pytest.fixture
def bucket() -> Bucket:
    return Bucket()


@pytest.fixture
def registry() -> Registry:
    return Registry()


@pytest.fixture
def ledger(bucket, registry) -> Ledger:
    return Ledger(bucket, registry)


def append_all(ledger: Ledger, *decisions: tuple[str, str | None, str]) -> None:
    for decision in decisions:
        ledger.append(decision_facts(*decision))


THREE = (FIRST, None, "1"), (BY_POLICY, "1", "2"), (REFUSED, "2", "2")


def test_entries_are_read_back_in_order_and_complete(ledger):
    append_all(ledger, *THREE)
    entries = ledger.entries()
    assert [e.facts["number"] for e in entries] == [1, 2, 3]
    assert [e.facts["previous"] for e in entries] == [[], [entries[0].sha256], [entries[1].sha256]]
    assert ledger.faults == []


def test_the_mark_is_not_an_entry(ledger):
    assert ledger.mark() is None
    ledger.set_mark("ab12")
    append_all(ledger, (FIRST, None, "1"))
    assert (ledger.mark(), len(ledger.entries()), ledger.faults) == ("ab12", 1, [])


@pytest.mark.parametrize(
    ("decisions", "stack"),
    [
        ([], []),
        ([(FIRST, None, "1")], ["1"]),
        ([(FIRST, None, "1"), (REFUSED, "1", "1")], ["1"]),
        ([(FIRST, None, "1"), (BY_POLICY, "1", "2"), (BY_PERSON, "2", "5")], ["1", "2", "5"]),
        ([(FIRST, None, "1"), (BY_POLICY, "1", "2"), (ROLLED_BACK, "2", "1")], ["1"]),
        ([(FIRST, None, "1"), (BY_PERSON, "1", "2"), (BY_PERSON, "2", "1"), (ROLLED_BACK, "1", "2")], ["1", "2"]),
        ([(FIRST, None, "1"), (BY_PERSON, "1", "1")], ["1"]),
        ([(FIRST, None, "1"), (BY_POLICY, "1", "2"), (FIRST, None, "1")], ["1"]),
        ([(FIRST, None, "1"), (REFUSED, "7", "7")], ["1"]),
        ([(FIRST, None, "1"), (FIRST, None, None)], []),
        ([(FIRST, None, None), (REFUSED, None, None), (BY_POLICY, None, "3")], ["3"]),
    ],
    ids=[
        "none",
        "first",
        "refused",
        "promoted",
        "back",
        "to and fro",
        "on record",
        "a new registry",
        "moved by hand",
        "below the floors",
        "a later one above them",
    ],
)
def test_who_is_champion_by_the_ledger(ledger, decisions, stack):
    append_all(ledger, *decisions)
    assert champion_stack(ledger.entries()) == stack


def test_an_altered_entry_is_named_and_not_used(ledger, bucket):
    append_all(ledger, *THREE)
    key = ledger.entries()[1].key
    bucket.blobs[key] = bucket.blobs[key].replace(b'"to": "2"', b'"to": "9"')
    assert champion_stack(ledger.entries()) == ["1"]
    assert ledger.faults == ledger.gaps == [f"s3://bucket/ledger/{key} was altered"]
    with pytest.raises(StepError, match=rf"{key} was altered\. No decision was made\. Restore .* lost for good"):
        ledger.append(decision_facts(BY_POLICY, "2", "3"))
    assert len(bucket.blobs) == 3


def test_a_removed_entry_is_detected_by_the_next_one(ledger, bucket):
    append_all(ledger, *THREE)
    del bucket.blobs[ledger.entries()[1].key]
    ledger.entries()
    (fault,) = ledger.gaps
    assert fault.startswith("an entry before decision 3 ") and fault.endswith("was removed")


@pytest.mark.parametrize("left", [2, 0])
def test_removed_last_entries_are_detected_too(ledger, bucket, left):
    append_all(ledger, *THREE)
    for entry in ledger.entries()[left:]:
        del bucket.blobs[entry.key]
    assert len(ledger.entries()) == left
    assert "which the registry names, was removed from s3://bucket/ledger" in ledger.gaps[0]
    with pytest.raises(StepError, match="No decision was made"):
        ledger.append(decision_facts(BY_POLICY, "2", "3"))


class Meanwhile(Registry):
    """Where somebody else does something just before the head is written."""

    def meanwhile(self) -> None:
        """Set by a test; once."""

    def set_registered_model_tag(self, name: str, key: str, value: str) -> None:
        if key == HEAD:
            act, self.meanwhile = self.meanwhile, lambda: None
            act()
        super().set_registered_model_tag(name, key, value)


def test_two_entries_that_were_written_together_are_both_kept_and_named(bucket):
    registry = Meanwhile()
    ledger, other = Ledger(bucket, registry), Ledger(bucket, registry)
    append_all(ledger, (FIRST, None, "1"))
    known = other.entries()
    other.entries = lambda: known  # as it was before the other one wrote
    registry.meanwhile = lambda: append_all(other, (BY_POLICY, "1", "3"))
    append_all(ledger, (REFUSED, "1", "1"))
    assert json.loads(registry.model.tags[HEAD])["last"] == sorted(e.sha256 for e in ledger.entries()[1:])
    append_all(ledger, (REFUSED, "3", "3"))
    entries = ledger.entries()
    assert [e.facts["number"] for e in entries] == [1, 2, 2, 3]
    assert sorted(entries[3].facts["previous"]) == sorted(e.sha256 for e in entries[1:3])
    assert ledger.faults == []


def test_other_objects_are_ignored(ledger, bucket):
    append_all(ledger, (FIRST, None, "1"))
    bucket.blobs["README.txt"] = b"the ledger"
    assert len(ledger.entries()) == 1 and ledger.faults == []


def test_an_entry_is_json_that_a_person_can_read(ledger, bucket):
    ledger.append(decision_facts(BY_PERSON, "1", "2") | {"words": "ดีกว่า"})
    (blob,) = bucket.blobs.values()
    assert "ดีกว่า" in blob.decode() and json.loads(blob)["when"].endswith("+00:00")


@pytest.mark.parametrize(
    "content",
    ["[1]", "{}", "[" * 100_000, "\udcff",
     *(json.dumps({"number": 1, "when": "2026-01-01T00:00:00+00:00", "previous": [],
                   **decision_facts(FIRST, None, "1"), **other})
       for other in ({"number": []}, {"to": {}}, {"who": None}, {"when": "now"}, {"metrics": {"test_dice_mean": 1}})),
     json.dumps({"number": 2, "decision": "refused", "to": "1", "from": "1", "previous": []})],
    ids=["a list", "empty", "nested", "no text", "a number that is none", "a version that is none", "nobody's",
         "of no time", "a metric that is no text", "incomplete"],
)  # fmt: skip
def test_an_entry_of_another_form_is_named(ledger, bucket, content):
    append_all(ledger, (FIRST, None, "1"))
    blob = content.encode("utf-8", "surrogateescape")
    bucket.put(f"20260101T000000.000000Z-{hashlib.sha256(blob).hexdigest()[:16]}.json", blob)
    assert [entry.facts["to"] for entry in ledger.entries()] == ["1"]
    assert [fault.endswith("is not a complete decision") for fault in ledger.faults] == [True]
    assert ledger.gaps == []


def test_the_bucket_alone_makes_no_decision(ledger, bucket):
    append_all(ledger, (FIRST, None, "1"))
    (real,) = ledger.entries()
    forged = real.facts | decision_facts(BY_PERSON, "1", "2")
    keys = [
        without_code(bucket, decision_facts(BY_PERSON, "1", "2"), [real.sha256], 2),
        without_code(bucket, forged, [real.sha256], 2),
        *(without_code(bucket, forged | {CODE: code}, [], 3) for code in ([], {"key": "", "hmac": ""}, {"key": [1]})),
    ]
    assert champion_stack(ledger.entries()) == ["1"]
    why = "does not belong to this registry: its authentication code is missing or invalid. Not used"
    assert ledger.faults == [f"s3://bucket/ledger/{key} {why}" for key in sorted(keys)] and ledger.gaps == []
    append_all(ledger, (REFUSED, "1", "1"))
    assert ledger.entries()[1].facts["previous"] == [real.sha256]


def test_a_copy_of_an_entry_under_another_time_is_named_and_not_used(ledger, bucket):
    append_all(ledger, *THREE)
    key = ledger.entries()[1].key
    bucket.put(f"20990101T000000.000000Z-{key[-21:]}", bucket.blobs[key])
    assert [e.facts["number"] for e in ledger.entries()] == [1, 2, 3]
    (fault,) = ledger.faults
    assert (
        fault.endswith("is a copy or forged: the time in its name differs from the time in its content")
        and ledger.gaps == []
    )
    del bucket.blobs[key]
    assert champion_stack(ledger.entries()) == ["1"] and len(ledger.gaps) == 1


def test_a_decision_of_another_registry_is_not_used(ledger, bucket):
    append_all(ledger, (FIRST, None, "1"))
    theirs = Bucket()
    append_all(Ledger(theirs, Registry()), (BY_POLICY, "1", "2"))
    bucket.blobs |= theirs.blobs
    assert len(ledger.entries()) == 1 and len(ledger.faults) == 1


def test_an_entry_that_a_kill_kept_from_the_registry_is_used_and_named_later(ledger, registry):
    append_all(ledger, (FIRST, None, "1"))
    before = registry.model.tags[HEAD]
    append_all(ledger, (BY_POLICY, "1", "2"))
    registry.model.tags[HEAD] = before
    assert champion_stack(ledger.entries()) == ["1", "2"] and ledger.faults == ledger.unchecked == []
    ledger.update_head()
    assert json.loads(registry.model.tags[HEAD])["last"] == [ledger.entries()[1].sha256]


def test_two_keys_that_were_created_together_are_both_valid(ledger, registry):
    append_all(ledger, (FIRST, None, "1"))
    registry.model.tags[KEY_TAG + "0"] = "0" * 64
    append_all(ledger, (BY_POLICY, "1", "2"))
    del registry.model.tags[HEAD]
    assert {e.facts[CODE]["key"] == "0" for e in ledger.entries()} == {True, False}
    assert champion_stack(ledger.entries()) == ["1", "2"] and ledger.faults == []


def test_the_key_is_in_no_object_of_the_bucket(ledger, bucket, registry):
    append_all(ledger, *THREE)
    (key,) = (value for name, value in registry.model.tags.items() if name.startswith(KEY_TAG))
    assert len(key) == 64 and all(key.encode() not in blob for blob in bucket.blobs.values())


class TestALedgerWithoutCodes:
    @pytest.fixture
    def keys(self, bucket, registry) -> list[str]:
        """Three entries; the registry's versions name the last two, as they did then."""
        keys: list[str] = []
        for number, decision in enumerate(THREE, start=1):
            before = [hashlib.sha256(bucket.blobs[key]).hexdigest() for key in keys[-1:]]
            keys.append(without_code(bucket, decision_facts(*decision), before, number))
        for number, key in (("1", keys[1]), ("2", keys[2])):
            registry.versions.append(SimpleNamespace(version=number, tags={NAMES_ENTRY: key}))
        return keys

    def test_is_adopted_once_with_the_entries_that_the_registry_names(self, ledger, bucket, registry, keys, caplog):
        forged = without_code(
            bucket, decision_facts(BY_PERSON, "2", "9"), [hashlib.sha256(bucket.blobs[keys[2]]).hexdigest()], 4
        )
        assert champion_stack(ledger.entries()) == ["1", "2"]
        assert ledger.unchecked == [f"no version names s3://bucket/ledger/{forged}: not used"]
        with caplog.at_level(logging.WARNING):
            ledger.update_head()
            ledger.update_head()
        assert caplog.text.count("adopts the ledger s3://bucket/ledger: it names 3 decisions there") == 1
        assert f"1 other objects are not used ({forged})" in caplog.text
        append_all(ledger, (BY_POLICY, "2", "3"))
        registry.versions.clear()
        assert champion_stack(ledger.entries()) == ["1", "2", "3"] and ledger.faults == []
        assert ledger.unchecked == ["1 objects of s3://bucket/ledger belong to an earlier registry: not used"]

    def test_accepts_no_other_entry_later(self, ledger, bucket, keys):
        ledger.update_head()
        forged = without_code(bucket, decision_facts(BY_PERSON, "2", "9"), [], 4)
        assert champion_stack(ledger.entries()) == ["1", "2"]
        assert [forged in fault for fault in ledger.faults] == [True]

    @pytest.mark.parametrize("number", [0, 1, 2])
    def test_detects_changes_before_and_after_its_adoption(self, ledger, bucket, keys, number):
        before = bucket.blobs[keys[number]]
        for when in ("before", "after"):
            bucket.blobs[keys[number]] = before.replace(b"because", b"altered")
            ledger.entries()
            assert ledger.gaps == [f"s3://bucket/ledger/{keys[number]} was altered"], when
            bucket.blobs[keys[number]] = before
            ledger.update_head()


def test_a_person_gives_up_lost_entries_and_the_rest_continues(ledger, bucket, registry):
    append_all(ledger, *THREE)
    for entry in ledger.entries()[1:]:
        del bucket.blobs[entry.key]
    ledger.update_head(give_up=True)
    append_all(ledger, (BY_POLICY, "1", "4"))
    assert champion_stack(ledger.entries()) == ["1", "4"] and ledger.faults == []
    assert ledger.unchecked == ["1 decisions of s3://bucket/ledger are lost; a person gave them up"]


def test_an_invalid_head_is_named(ledger, registry):
    append_all(ledger, (FIRST, None, "1"))
    registry.model.tags[HEAD] = '{"count": []}'
    with pytest.raises(StepError, match=r"the tag ledger_head .* cannot be read"):
        ledger.entries()
