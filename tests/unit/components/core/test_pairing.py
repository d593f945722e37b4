"""Which registry and which ledger may be used together, and how they are marked."""

import logging
from types import SimpleNamespace

import pytest

from components.core.ledger import BY_PERSON, BY_POLICY, FIRST, MARK, Ledger
from components.core.pairing import RENEW, TAG, pair, require_pair, strangers
from components.core.step import StepError
from components.core.tracking import MODEL_NAME
from tests.unit.components.core.test_ledger import Bucket


class Registry:
    """A registry in memory: one registered model, made at `born`, and its versions."""

    def __init__(self, born: int):
        self.model = SimpleNamespace(name=MODEL_NAME, creation_timestamp=born, tags={}, aliases={})
        self.versions: list[SimpleNamespace] = []

    def search_registered_models(self, _) -> list:
        return [self.model] if self.model else []

    def search_model_versions(self, _) -> list:
        return self.versions

    def set_registered_model_tag(self, name: str, key: str, value: str) -> None:
        self.model.tags[key] = value


class Place:
    """A registry and its own ledger, and how decisions came about there before there were marks."""

    def __init__(self, name: str, born: int):
        self.name, self.registry, self.bucket = name, Registry(born), Bucket()
        self.ledger = Ledger(self.bucket)

    def decide(self, decision: str, into: Ledger | None = None) -> "Place":
        """A new version, and the decision that it is champion, in the own ledger or `into` another."""
        number = str(len(self.registry.versions) + 1)
        source = f"models:/m-{self.name}-{number}"
        before = self.registry.model.aliases.get("champion")
        entry = (into or self.ledger).append(
            {"decision": decision, "version": number, "model": source, "from": before, "to": number}
        )
        version = SimpleNamespace(version=number, source=source, tags={"ledger_entry": entry.key})
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


def refused(registry: Registry, ledger: Ledger) -> str:
    """The words of the refusal; neither side is written to."""
    tags, blobs = dict(registry.model.tags), dict(ledger.storage.blobs)
    with pytest.raises(StepError, match="do not belong together") as error:
        pair(registry, ledger)
    assert (registry.model.tags, ledger.storage.blobs) == (tags, blobs)
    return str(error.value)


def test_a_new_pair_gets_one_mark_once(here, monkeypatch):
    pair(here.registry, here.ledger)
    ours, theirs = here.marks
    assert ours and ours == theirs
    monkeypatch.setattr(here.bucket, "put", None)  # no second writing
    pair(here.registry, here.ledger)


def test_two_places_are_refused_both_ways_and_nothing_is_written(here, there):
    for place in (here, there):
        pair(place.registry, place.ledger)
    assert here.marks != there.marks
    for registry, ledger in ((here.registry, there.ledger), (there.registry, here.ledger)):
        said = refused(registry, ledger)
        assert "each is marked as another's. Nothing was written." in said and "TARGET=local, kind or cluster" in said


def test_a_marked_registry_takes_no_new_ledger_without_a_persons_word(here, there):
    pair(here.registry, here.ledger)
    assert "its decisions are in another ledger" in refused(here.registry, there.ledger)
    here.registry.model.tags[TAG] = RENEW
    pair(here.registry, there.ledger)
    assert here.registry.model.tags[TAG] == there.ledger.mark() != RENEW


def test_a_pair_from_before_the_marks_adopts_one_in_words(here, caplog):
    here.decide(FIRST).decide(BY_POLICY)
    with caplog.at_level(logging.INFO):
        pair(here.registry, here.ledger)
    assert "agree on their decisions: both get one mark" in caplog.text
    assert here.marks[0] == here.marks[1] is not None


@pytest.mark.parametrize("decided_there", [True, False], ids=["of another registry", "empty"])
def test_a_registry_from_before_the_marks_is_refused_beside_a_foreign_ledger(here, there, decided_there):
    here.decide(FIRST).decide(BY_POLICY)
    if decided_there:
        there.decide(FIRST).decide(BY_POLICY)
    assert "about other versions" in refused(here.registry, there.ledger)


def test_one_decision_in_the_wrong_ledger_does_not_part_a_pair_nor_make_one(here, there):
    here.decide(FIRST).decide(BY_POLICY)
    there.decide(FIRST).decide(BY_POLICY)
    here.decide(BY_PERSON, into=there.ledger)
    there.registry.versions.append(SimpleNamespace(version="3", source="models:/m-there-3", tags={}))
    refused(here.registry, there.ledger)
    for place in (here, there):
        pair(place.registry, place.ledger)
        assert place.marks[0] == place.marks[1] is not None


def test_a_new_registry_takes_over_the_ledger_of_an_earlier_one_and_says_so(here, there, caplog):
    there.decide(FIRST)
    pair(there.registry, there.ledger)
    with caplog.at_level(logging.INFO):
        pair(here.registry, there.ledger)
    assert "holds decisions of an earlier registry" in caplog.text
    assert here.registry.model.tags[TAG] == there.ledger.mark()
    refused(there.registry, there.ledger)


def test_a_mark_that_a_kill_kept_from_the_registry_is_put_there_the_next_time(here):
    here.decide(FIRST)
    pair(here.registry, here.ledger)
    del here.registry.model.tags[TAG]
    here.bucket.blobs = {MARK: here.bucket.blobs[MARK]}
    pair(here.registry, here.ledger)
    assert here.marks[0] == here.marks[1] is not None


def test_where_no_model_is_registered_yet_nothing_is_refused(here, there):
    there.decide(FIRST)
    pair(there.registry, there.ledger)
    here.registry.model = None
    assert strangers(here.registry, there.ledger) == ""
    require_pair(here.registry, there.ledger)
