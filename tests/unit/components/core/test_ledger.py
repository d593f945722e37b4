"""The ledger: what it keeps, what it notices, and who is champion by it. With S3: see tests/integration."""

import hashlib
import json

import pytest

from components.core.ledger import BY_PERSON, BY_POLICY, FIRST, MARK, REFUSED, ROLLED_BACK, Ledger, champions
from components.core.storage import Object


class Bucket:
    """A bucket in memory."""

    uri = "s3://bucket/ledger"

    def __init__(self):
        self.blobs: dict[str, bytes] = {}

    def list(self) -> list[Object]:
        return [Object(key, len(blob), "") for key, blob in sorted(self.blobs.items())]

    def find(self, key: str) -> Object | None:
        return next((o for o in self.list() if o.key == key), None)

    def get(self, key: str) -> bytes:
        return self.blobs[key]

    def put(self, key: str, blob: bytes) -> None:
        assert key == MARK or key not in self.blobs, "an entry is never written again"
        self.blobs[key] = blob


@pytest.fixture
def bucket() -> Bucket:
    return Bucket()


@pytest.fixture
def ledger(bucket) -> Ledger:
    return Ledger(bucket)


def told(ledger: Ledger, *decisions: tuple[str, str | None, str]) -> None:
    for decision, before, after in decisions:
        ledger.append({"decision": decision, "from": before, "to": after, "version": after})


def test_what_is_appended_is_read_back_in_order_and_whole(ledger):
    told(ledger, (FIRST, None, "1"), (BY_POLICY, "1", "2"), (REFUSED, "2", "2"))
    entries = ledger.entries()
    assert [e.facts["number"] for e in entries] == [1, 2, 3]
    assert [e.facts["previous"] for e in entries] == [[], [entries[0].sha256], [entries[1].sha256]]
    assert ledger.faults == []


def test_its_mark_is_no_decision(ledger):
    assert ledger.mark() is None
    ledger.set_mark("ab12")
    told(ledger, (FIRST, None, "1"))
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
    told(ledger, *decisions)
    assert champions(ledger.entries()) == stack


def test_an_entry_that_was_altered_is_named_and_not_believed(ledger, bucket):
    told(ledger, (FIRST, None, "1"), (BY_POLICY, "1", "2"), (REFUSED, "2", "2"))
    key = ledger.entries()[1].key
    bucket.blobs[key] = bucket.blobs[key].replace(b'"to": "2"', b'"to": "9"')
    assert champions(ledger.entries()) == ["1"]
    assert ledger.faults == [f"s3://bucket/ledger/{key} was altered"]


def test_an_entry_that_was_removed_is_missed_by_the_one_after_it(ledger, bucket):
    told(ledger, (FIRST, None, "1"), (BY_POLICY, "1", "2"), (REFUSED, "2", "2"))
    del bucket.blobs[ledger.entries()[1].key]
    ledger.entries()
    (fault,) = ledger.faults
    assert fault.startswith("an entry before decision 3 ") and fault.endswith("was removed")


def test_two_that_were_written_at_once_are_both_kept_and_both_named_by_the_next(ledger, bucket):
    told(ledger, (FIRST, None, "1"))
    there = dict(bucket.blobs)
    told(ledger, (REFUSED, "1", "1"))
    elsewhere = Bucket()
    elsewhere.blobs = there
    told(Ledger(elsewhere), (BY_POLICY, "1", "3"))
    bucket.blobs |= elsewhere.blobs
    told(ledger, (REFUSED, "3", "3"))
    entries = ledger.entries()
    assert [e.facts["number"] for e in entries] == [1, 2, 2, 3]
    assert sorted(entries[3].facts["previous"]) == sorted(e.sha256 for e in entries[1:3])
    assert ledger.faults == []


def test_what_is_no_entry_is_left_alone(ledger, bucket):
    told(ledger, (FIRST, None, "1"))
    bucket.blobs["README.txt"] = b"the ledger"
    assert len(ledger.entries()) == 1 and ledger.faults == []


def test_an_entry_is_json_that_a_person_can_read(ledger, bucket):
    ledger.append({"decision": BY_PERSON, "from": "1", "to": "2", "words": "ดีกว่า"})
    (blob,) = bucket.blobs.values()
    assert "ดีกว่า" in blob.decode() and json.loads(blob)["when"].endswith("+00:00")


@pytest.mark.parametrize(
    "content",
    ["[1]", "{}", '{"number": [], "decision": "first", "from": null, "to": "1"}', "[" * 100_000, "\udcff",
     '{"number": 1, "decision": "first", "from": null, "to": {}, "previous": []}'],
    ids=["a list", "empty", "a number that is none", "nested", "no text", "a version that is none"],
)  # fmt: skip
def test_an_entry_of_another_form_is_named_whoever_wrote_it(ledger, bucket, content):
    told(ledger, (FIRST, None, "1"))
    blob = content.encode("utf-8", "surrogateescape")
    bucket.put(f"20260101T000000.000000Z-{hashlib.sha256(blob).hexdigest()[:16]}.json", blob)
    assert [entry.facts["to"] for entry in ledger.entries()] == ["1"]
    assert [fault.endswith("is no decision, whoever wrote it") for fault in ledger.faults] == [True]
