"""`make champion`, `make promote`, `make rollback`: who is champion, and a person's decision about it."""

import getpass
from pathlib import Path

from components.core import tracking
from components.core.headline import against_rule, in_words
from components.core.ledger import BY_PERSON, REFUSED, ROLLED_BACK, Entry, Ledger, about, champions, enact
from components.core.step import StepError
from components.core.synthetic import WARNING, is_synthetic
from components.core.tracking import MODEL_NAME
from pipelines import registry

EXAMPLE = f'make promote MODEL=models:/{MODEL_NAME}/3 REASON="..."'
SHOWN = 5


def promote(model: str, reason: str, state: Path) -> None:
    """Make `model` (models:/NAME/VERSION or models:/NAME@ALIAS) champion, and write down who did and why.

    Raises:
        StepError: no such version, no reason given, or it is champion already, by the ledger too.
    """
    if not reason.strip():
        raise StepError(f"A promotion past the policy needs a reason. {EXAMPLE}")
    client = registry.connect(state)
    version, present, ledger = registry.version(client, model, EXAMPLE), tracking.champion(client), Ledger()
    number, before = str(version.version), present and str(present.version)
    if number == before and champions(ledger.entries())[-1:] == [number]:
        raise StepError(f"version {number} is champion already. Name another: {EXAMPLE}")
    who = _person()
    over = f" over version {before}" if before not in (None, number) else ""
    enact(client, ledger.append({
        "decision": BY_PERSON, "who": who, **about(version), "from": before, "to": number,
        "words": f"promoted{over} by {who}: {reason.strip()}", "reason": reason.strip(),
        "evidence": {"policy": version.tags.get("decision", "")}, "subject": "",
    }))  # fmt: skip
    _show(client, ledger)


def rollback(reason: str, state: Path) -> None:
    """Make the champion before the present one champion again, and write down who did.

    Raises:
        StepError: there was none before, it is gone, or the registry and the ledger disagree on the present one.
    """
    client = registry.connect(state)
    present, ledger = tracking.champion(client), Ledger()
    stack = champions(ledger.entries())
    if present is None or stack[-1:] != [str(present.version)]:
        raise StepError(f"{_disagreement(present, stack)} Only then is it clear what was before.")
    if len(stack) < 2:
        raise StepError(f"there was no champion before version {present.version}. Name one: {EXAMPLE}")
    number, back, who = str(present.version), stack[-2], _person()
    registry.version(client, f"models:/{MODEL_NAME}/{back}", EXAMPLE)
    why = f": {reason.strip()}" if reason.strip() else ""
    enact(client, ledger.append({
        "decision": ROLLED_BACK, "who": who, **about(present), "from": number, "to": back,
        "words": f"rolled back to version {back} by {who}{why}", "reason": reason.strip(),
        "evidence": {}, "subject": "",
    }))  # fmt: skip
    _show(client, ledger)


def champion(state: Path) -> int:
    """Print which version is champion, why, and the last decisions; 1 where the ledger does not say the same."""
    return _show(registry.connect(state), Ledger())


def _show(client, ledger: Ledger) -> int:
    entries, present = ledger.entries(), tracking.champion(client)
    stack, faults = champions(entries), list(ledger.faults)
    if present is None:
        print(registry.no_champion(client))
        if not entries:
            return 0
    else:
        number = str(present.version)
        print(f"{MODEL_NAME} version {number} is champion ({registry.CHAMPION})")
        if is_synthetic(present.tags):
            print(f"  WARNING  it {WARNING}")
        made = [e for e in entries if e.facts["decision"] != REFUSED and e.facts["to"] == number]
        if made and stack[-1:] == [number]:
            print(f"  why      {_said(made[-1])}")
            print(f"  who      {_who_and_when(made[-1])}")
        try:
            print(f"  numbers  {_numbers({k: float(v) for k, v in about(present)['metrics'].items()})}")
        except (KeyError, ValueError):
            print("  numbers  its registry entry does not hold them")
        for name, value in about(present)["lineage"].items():
            print(f"  {name:<16} {value}")
    if stack[-1:] != ([str(present.version)] if present else []):
        faults.append(_disagreement(present, stack))
    known = {e.key for e in entries}
    for version in client.search_model_versions(f"name = '{MODEL_NAME}'"):
        if (key := version.tags.get("ledger_entry")) and key not in known:
            faults.append(f"the decision about version {version.version}, {ledger.storage.uri}/{key}, is not there")
    print(f"decisions: {len(entries)} in {ledger.storage.uri}" + (", the last:" if len(entries) > SHOWN else ""))
    for entry in entries[-SHOWN:]:
        print(f"  {entry.facts['number']:>3}  {_said(entry)}  [{_who_and_when(entry)}]")
    for fault in faults:
        print(f"WRONG: {fault}")
    if not faults:
        print("The ledger is whole, and replays to what the registry says.")
    return 1 if faults else 0


def _numbers(tags: dict[str, float]) -> str:
    dice, f1, patients = in_words(tags, "test_dice"), tags["test_lesion_f1_mean"], tags["test_patients"]
    said = f"Dice {dice}, lesion F1 (any touch) {f1:.3f}, {patients:.0f} test patients"
    return ". ".join(filter(None, (said, against_rule(tags))))


def _disagreement(present, stack: list[str]) -> str:
    says = f"version {present.version} is champion" if present else "no version is champion"
    return (
        f"in the registry {says}, the ledger ends with {f'version {stack[-1]}' if stack else 'none'}: the alias was "
        f"moved without it. Put on record which one it is to be: {EXAMPLE}"
    )


def _said(entry: Entry) -> str:
    return f"version {entry.facts['version']}: {entry.facts['words']}"


def _who_and_when(entry: Entry) -> str:
    return f"{entry.facts['who']}, {entry.facts['when'][:16].replace('T', ' ')} UTC"


def _person() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        raise StepError("whose decision is it? This login has no name: set USER to yours.") from None
