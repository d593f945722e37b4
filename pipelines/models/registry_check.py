"""Compare a version in the registry with the ledger and its model card: MLflow lets people change tags and texts."""

import hashlib
import json
import tempfile
from pathlib import Path

from components.core.storage import file_sha256
from components.register.register import CARD
from components.registry.ledger import NAMES_ENTRY, Ledger
from components.registry.ledger_entry import Entry, changes_since

ENDS = ("mean", "ci_low", "ci_high")
UNREADABLE = (ValueError, KeyError, TypeError, AttributeError)
"""Errors from a JSON file that somebody altered."""


def description_digest(version) -> str:
    """Return the SHA-256 of a version's description as the registry has it now."""
    return hashlib.sha256((version.description or "").encode()).hexdigest()


def other_numbers(tags: dict[str, str], card: dict) -> list[str]:
    """Return the tags of a version whose numbers are not those of its card (`model_card.json`)."""
    numbers = {
        f"{name}_{end}": measured[end]
        for name, measured in card["eval_metrics"].items()
        for end in ENDS
        if measured.get(end) is not None
    }
    numbers["test_patients"] = card["test_patients"]
    return [name for name, number in numbers.items() if name in tags and not _is(tags[name], number)]


def other_measures(tags: dict[str, str], summary: dict[str, float]) -> list[str]:
    """Return the tags of a version whose numbers are not those of its evaluation (`test_metrics.json`)."""
    measured = {name: value for name, value in tags.items() if name.startswith("test_")}
    return [name for name, value in measured.items() if name not in summary or not _is(value, summary[name])]


def against_ledger(version, entries: list[Entry], ledger: Ledger) -> tuple[list[str], list[str]]:
    """Return how a version differs from the last decision about it, and what could not be compared, as sentences.

    entries: The ledger's, as it has just read them.
    """
    name, key = f"version {version.version}", version.tags.get(NAMES_ENTRY)
    of_it = (str(version.version), version.source)
    last = next((e for e in reversed(entries) if (e.facts["version"], e.facts["model"]) == of_it), None)
    named = next((e for e in entries if e.key == key), None)
    if key and named is None and ledger.is_given_up(key):
        return [], [f"the tags of {name}: the decision that they name, {key}, is lost"]
    if key and named is None:
        return [f"the decision about {name}, {ledger.uri}/{key}, is not there, or not this registry's"], []
    if last and last != named:
        return [f"the tags of {name} name {key or 'no decision'}, and the last decision about it is {last.key}"], []
    if named is None:
        return [], [f"the tags of {name}: no decision about it is on record"]
    other = ", ".join(changes_since(named, version))
    return [f"{name} in the registry is not as decision {named.facts['number']} says: {other}"] if other else [], []


def against_card(version) -> tuple[list[str], list[str]]:
    """Return how the registry differs from the version's card, and what could not be compared, as sentences."""
    import mlflow

    name, wrong, unchecked = f"version {version.version}", [], []
    if "description_sha256" not in version.tags:
        unchecked.append(f"the description of {name}: it was registered without a digest of it")
    elif description_digest(version) != version.tags["description_sha256"]:
        wrong.append(f"the description of {name} is not the one that was registered (tag description_sha256)")
    if "card_sha256" not in version.tags:
        return wrong, [*unchecked, f"the numbers of {name}: it was registered without a model card"]
    with tempfile.TemporaryDirectory() as folder:
        try:
            path = mlflow.artifacts.download_artifacts(
                run_id=version.run_id, artifact_path=f"{CARD}/{CARD}.json", dst_path=folder
            )
        except Exception as error:  # of MLflow, of HTTP, of the storage behind: it cannot be reached
            reason = " ".join(str(error).split())[:160]
            return wrong, [*unchecked, f"the numbers of {name}: its model card cannot be reached ({reason})"]
        if file_sha256(Path(path)) != version.tags["card_sha256"]:
            return [*wrong, f"the model card of {name} is not the one that was registered (tag card_sha256)"], unchecked
        try:
            other = other_numbers(version.tags, json.loads(Path(path).read_text()))
        except UNREADABLE as error:
            return wrong, [*unchecked, f"the numbers of {name}: its model card is of another form ({error!r})"]
    return wrong + [f"{tag} of {name} in the registry is not what its model card says" for tag in other], unchecked


def _is(tag: str, number: float) -> bool:
    try:
        return float(tag) == float(number)
    except ValueError:
        return False
