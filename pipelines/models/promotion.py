"""`make champion`, `make promote`, `make rollback`: who is champion, and a person's decision about it."""

import os
import pwd
from pathlib import Path

from components.artifacts.headline import against_rule, in_words
from components.artifacts.synthetic import WARNING, is_synthetic
from components.core.errors import StepError
from components.registry import tracking
from components.registry.ledger import BY_PERSON, REFUSED, ROLLED_BACK, Ledger, apply_to_registry, champion_stack
from components.registry.ledger_entry import Entry, version_facts
from components.registry.ledger_pairing import ensure_pair, pairing_problem, require_pair
from components.registry.tracking import MODEL_NAME
from pipelines.models import registry, registry_check
from pipelines.target_name import as_argument

SHOWN = 5


def promote(model: str, reason: str, state: Path, place: str = "local") -> None:
    """Make `model` (models:/NAME/VERSION or models:/NAME@ALIAS) champion, and write down who did and why.

    `place` is the target with the registry and the ledger.

    Raises:
        StepError: no such version, no reason given, it is champion already, by the ledger too, or the registry and
            the ledger do not belong together.
    """
    example = _example(place)
    if not reason.strip():
        raise StepError(f"A promotion past the policy needs a reason. {example}")
    with registry.connect(place, state) as client:
        version, present, ledger = registry.version(client, model, example), tracking.champion(client), Ledger()
        require_pair(ledger)
        number, before = str(version.version), present and str(present.version)
        if number == before and champion_stack(ledger.entries())[-1:] == [number]:
            raise StepError(f"version {number} is champion already. Name another: {example}")
        who = _person()
        over = f" over version {before}" if before not in (None, number) else ""
        ensure_pair(ledger)
        apply_to_registry(client, ledger.append({
            "decision": BY_PERSON, "who": who, **version_facts(version), "from": before, "to": number,
            "words": f"promoted{over} by {who}: {reason.strip()}", "reason": reason.strip(),
            "evidence": {"policy": version.tags.get("decision", "")}, "subject": "",
        }))  # fmt: skip
        _show(client, ledger, place)


def rollback(reason: str, state: Path, place: str = "local") -> None:
    """Make the champion before the present one champion again, and write down who did.

    Raises:
        StepError: there was none before, it is gone, or the registry and the ledger disagree on the present one, or do
            not belong together.
    """
    example = _example(place)
    with registry.connect(place, state) as client:
        present, ledger = tracking.champion(client), Ledger()
        require_pair(ledger)
        stack = champion_stack(ledger.entries())
        if present is None or stack[-1:] != [str(present.version)]:
            raise StepError(f"{_disagreement(present, stack, place)} Only then is it clear what was before.")
        if len(stack) < 2:
            raise StepError(f"there was no champion before version {present.version}. Name one: {example}")
        number, back, who = str(present.version), stack[-2], _person()
        registry.version(client, f"models:/{MODEL_NAME}/{back}", example)
        why = f": {reason.strip()}" if reason.strip() else ""
        ensure_pair(ledger)
        apply_to_registry(client, ledger.append({
            "decision": ROLLED_BACK, "who": who, **version_facts(present), "from": number, "to": back,
            "words": f"rolled back to version {back} by {who}{why}", "reason": reason.strip(),
            "evidence": {}, "subject": "",
        }))  # fmt: skip
        _show(client, ledger, place)


def champion(state: Path, place: str = "local") -> int:
    """Print which version is champion, why, and the last decisions; return 1 if ledger and registry differ."""
    with registry.connect(place, state) as client:
        return _show(client, Ledger(), place)


def _show(client, ledger: Ledger, place: str) -> int:
    present = tracking.champion(client)
    if why := pairing_problem(ledger):
        print(f"{MODEL_NAME}: {f'version {present.version}' if present else 'no version'} is champion in the registry")
        print(f"WRONG: {why}")
        return 1
    entries = ledger.entries()
    stack, faults, unchecked = champion_stack(entries), list(ledger.faults), list(ledger.unchecked)
    whole = not unchecked
    if present is None:
        print(registry.no_champion(client, place))
        if not (entries or faults or unchecked):
            return 0
    else:
        number = str(present.version)
        print(f"{MODEL_NAME} version {number} is champion ({registry.CHAMPION})")
        if is_synthetic(present.tags):
            print(f"  WARNING  it {WARNING}")
        made = [e for e in entries if e.facts["decision"] != REFUSED and e.facts["to"] == number]
        if made and stack[-1:] == [number]:
            print(f"  why      {_sentence(made[-1])}")
            print(f"  who      {_who_and_when(made[-1])}")
        try:
            print(f"  numbers  {_numbers({k: float(v) for k, v in version_facts(present)['metrics'].items()})}")
        except (KeyError, ValueError):
            print("  numbers  its registry entry does not hold them")
        for name, value in version_facts(present)["lineage"].items():
            print(f"  {name:<16} {value}")
        wrong, not_compared = registry_check.against_card(present)
        faults += wrong
        unchecked += not_compared
    if stack[-1:] != ([str(present.version)] if present else []):
        faults.append(_disagreement(present, stack, place))
    for version in client.search_model_versions(f"name = '{MODEL_NAME}'"):
        wrong, not_compared = registry_check.against_ledger(version, entries, ledger)
        faults += wrong
        unchecked += not_compared
    print(f"decisions: {len(entries)} in {ledger.storage.uri}" + (", the last:" if len(entries) > SHOWN else ""))
    for entry in entries[-SHOWN:]:
        print(f"  {entry.facts['number']:>3}  {_sentence(entry)}  [{_who_and_when(entry)}]")
    for fault in faults:
        print(f"WRONG: {fault}")
    for what in unchecked:
        print(f"not checked: {what}")
    if not faults and whole:
        print("The ledger is complete, and agrees with the registry.")
    elif not faults:
        print("What was checked of the ledger agrees with the registry.")
    return 1 if faults else 0


def _numbers(tags: dict[str, float]) -> str:
    dice, f1, patients = in_words(tags, "test_dice"), tags["test_lesion_f1_mean"], tags["test_patients"]
    text = f"Dice {dice}, lesion F1 (any touch) {f1:.3f}, {patients:.0f} test patients"
    if folds := tags.get("test_folds"):
        text += f", out-of-fold (the mean of the {folds:.0f} networks was never tested itself)"
    return ". ".join(filter(None, (text, against_rule(tags))))


def _example(place: str) -> str:
    return f'make promote{as_argument(place)} MODEL=models:/{MODEL_NAME}/3 REASON="..."'


def _disagreement(present, stack: list[str], place: str) -> str:
    says = f"version {present.version} is champion" if present else "no version is champion"
    return (
        f"in the registry {says}, the ledger ends with {f'version {stack[-1]}' if stack else 'none'}: the alias was "
        f"moved without it. Record which one should be champion: {_example(place)}"
    )


def _sentence(entry: Entry) -> str:
    return f"version {entry.facts['version']}: {entry.facts['words']}"


def _who_and_when(entry: Entry) -> str:
    return f"{entry.facts['who']}, {entry.facts['when'][:16].replace('T', ' ')} UTC"


def _person() -> str:
    """Return the user's login from the operating system, not from LOGNAME or USER; its number if it has no name."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"user id {os.getuid()}"
