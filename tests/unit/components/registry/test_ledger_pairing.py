"""Which registry and which ledger may be used together, and how they are marked."""

import hashlib
import logging
from types import SimpleNamespace

import pytest

from components.core.errors import StepError
from components.registry.ledger import BY_PERSON, BY_POLICY, FIRST, HEAD, MARK, NAMES_ENTRY, Ledger
from components.registry.ledger_pairing import RENEW, TAG, ensure_pair, pairing_problem, require_pair
from tests.unit.components.registry.test_ledger import Bucket, Registry, decision_facts, without_code


class Place:
    """A registry and its own ledger, and how decisions came about there before there were marks."""

    def __init__(self, name: str, born: int):
        self.name, self.registry, self.bucket = name, Registry(born), Bucket()
        self.ledger = Ledger(self.bucket, self.registry)

    def decide(self, decision: str, into: Bucket | None = None) -> "Place":
        """A new version, and the decision that it is champion, in the own bucket or `into` another."""
        number = str(len(self.registry.versions) + 1)
        source = f"models:/m-{self.name}-{number}"
        before = self.registry.model.aliases.get("champion")
        bucket = into or self.bucket
        blobs = [blob for name, blob in sorted(bucket.blobs.items()) if name != MARK]
        last = [hashlib.sha256(blob).hexdigest() for blob in blobs[-1:]]
        key = without_code(bucket, decision_facts(decision, before, number) | {"model": source}, last, len(blobs) + 1)
        version = SimpleNamespace(version=number, source=source, tags={NAMES_ENTRY: key})
        self.registry.versions.append(version)
        self.registry.model.aliases["champion"] = number
        return self

    @property
    def marks(self) -> tuple:
        return self.registry.model.tags.get(TAG), self.ledger.mark()


@pytest.fixture
def here() -> Place:
    return Place("here", 1)


@pytest.fixture
def there() -> Place:
    return Place("there", 2)


def refused(registry: Registry, bucket: Bucket, match: str = "do not belong together") -> str:
    """The words of the refusal; neither side is written to."""
    tags, blobs = dict(registry.model.tags), dict(bucket.blobs)
    with pytest.raises(StepError, match=match) as error:
        ensure_pair(Ledger(bucket, registry))
    assert (registry.model.tags, bucket.blobs) == (tags, blobs)
    return str(error.value)


def test_a_new_pair_gets_one_mark_once(here, monkeypatch):
    ensure_pair(here.ledger)
    ours, theirs = here.marks
    assert ours and ours == theirs
    monkeypatch.setattr(here.bucket, "put", None)  # no second writing
    ensure_pair(here.ledger)


def test_two_places_are_refused_both_ways_and_nothing_is_written(here, there):
    for place in (here, there):
        ensure_pair(place.ledger)
    assert here.marks != there.marks
    for registry, bucket in ((here.registry, there.bucket), (there.registry, here.bucket)):
        words = refused(registry, bucket)
        assert "their marks differ. Nothing was written." in words and "TARGET=local, kind or cluster" in words


def test_a_marked_registry_needs_a_person_to_use_a_new_ledger(here, there):
    ensure_pair(here.ledger)
    assert "the registry's decisions are in another ledger" in refused(here.registry, there.bucket)
    here.registry.model.tags[TAG] = RENEW
    ensure_pair(Ledger(there.bucket, here.registry))
    assert here.registry.model.tags[TAG] == there.ledger.mark() != RENEW


def test_an_older_pair_without_marks_gets_one(here, caplog):
    here.decide(FIRST).decide(BY_POLICY)
    with caplog.at_level(logging.INFO):
        ensure_pair(here.ledger)
    assert "agree on their decisions: both get the mark" in caplog.text
    assert here.marks[0] == here.marks[1] is not None


@pytest.mark.parametrize("decided_there", [True, False], ids=["of another registry", "empty"])
def test_a_registry_from_before_the_marks_is_refused_beside_a_foreign_ledger(here, there, decided_there):
    here.decide(FIRST).decide(BY_POLICY)
    if decided_there:
        there.decide(FIRST).decide(BY_POLICY)
    assert "about other versions" in refused(here.registry, there.bucket)


def test_one_decision_in_the_wrong_ledger_does_not_part_a_pair_nor_make_one(here, there):
    here.decide(FIRST).decide(BY_POLICY)
    there.decide(FIRST).decide(BY_POLICY)
    here.decide(BY_PERSON, into=there.bucket)
    there.registry.versions.append(SimpleNamespace(version="3", source="models:/m-there-3", tags={}))
    refused(here.registry, there.bucket)
    for place in (here, there):
        ensure_pair(place.ledger)
        assert place.marks[0] == place.marks[1] is not None


def test_a_new_registry_continues_the_ledger_of_an_earlier_one(here, there, caplog):
    there.decide(FIRST)
    ensure_pair(there.ledger)
    with caplog.at_level(logging.INFO):
        ensure_pair(Ledger(there.bucket, here.registry))
    assert "holds decisions of an earlier registry" in caplog.text
    assert here.registry.model.tags[TAG] == there.ledger.mark()
    refused(there.registry, there.bucket)


def test_a_mark_that_a_kill_kept_from_the_registry_is_put_there_the_next_time(here):
    here.decide(FIRST)
    ensure_pair(here.ledger)
    del here.registry.model.tags[TAG]
    here.registry.versions[0].source = "models:/m-there-1"  # so that the decisions alone would part them
    ensure_pair(here.ledger)
    assert here.marks[0] == here.marks[1] is not None


def test_where_no_model_is_registered_yet_nothing_is_refused(here, there):
    there.decide(FIRST)
    ensure_pair(there.ledger)
    here.registry.model = None
    ledger = Ledger(there.bucket, here.registry)
    assert pairing_problem(ledger) == ""
    require_pair(ledger)


def test_a_marked_pair_whose_ledger_lacks_decisions_is_refused_until_a_person_gives_them_up(here):
    here.decide(FIRST).decide(BY_POLICY)
    ensure_pair(here.ledger)
    del here.bucket.blobs[here.ledger.entries()[1].key]
    words = refused(here.registry, here.bucket, "which the registry names, was removed")
    assert f"set the tag {TAG} of the registered model" in words and f'to "{RENEW}"' in words
    here.registry.model.tags[TAG] = RENEW
    ensure_pair(here.ledger)
    assert here.marks[0] == here.marks[1] != RENEW
    ensure_pair(here.ledger)


def test_a_marked_pair_from_before_there_were_codes_is_taken_over_only_where_nothing_is_missing(here):
    here.decide(FIRST).decide(BY_POLICY)
    ensure_pair(here.ledger)
    del here.registry.model.tags[HEAD]
    (first, blob), *_ = sorted(here.bucket.blobs.items())
    del here.bucket.blobs[first]
    refused(here.registry, here.bucket, "was removed")
    here.bucket.blobs[first] = blob
    ensure_pair(here.ledger)
    assert HEAD in here.registry.model.tags
