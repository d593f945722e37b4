"""Does the new version become champion? The policy decides, the ledger keeps it, the registry follows."""

import hashlib
import json
import os

from components.artifacts.synthetic import is_synthetic
from components.register.policy import Policy, Verdict, judge_floors, verdict
from components.registry import tracking
from components.registry.ledger import (
    BY_PERSON,
    BY_POLICY,
    FIRST,
    NAMES_ENTRY,
    REFUSED,
    ROLLED_BACK,
    Ledger,
    champions,
    enact,
)
from components.registry.ledger_entry import Entry, about
from components.registry.ledger_pairing import pair
from components.registry.tracking import MODEL_NAME

ALONE, UNCOMPARED = "it learnt from synthetic scans alone", "the first champion, without a comparison"


def decide(client, version, comparison: dict, summary: dict[str, float], policy: Policy, ledger: Ledger) -> str:
    """Decide once about a version (as the registry describes it) and these numbers; the decision in words.

    A decision that was taken before is not taken again; one that a kill cut short is carried out.

    Args:
        comparison: The content of `comparison.json`.
        summary: The summary of `test_metrics.json`.

    Raises:
        StepError: the registry and the ledger do not belong together.
    """
    pair(ledger)
    number, known = str(version.version), ledger.entries()
    if known and known[-1].facts["model"] == version.source and version.tags.get(NAMES_ENTRY) != known[-1].key:
        enact(client, known[-1])
        return known[-1].facts["words"]
    champion = tracking.champion(client)
    if champion is not None and str(champion.version) == number:
        return version.tags.get("decision", "champion already")
    before = champion and str(champion.version)
    floors = judge_floors(policy.floors, summary)
    decided = [version.source, champion and champion.source, comparison, floors.numbers, policy.model_dump()]
    subject = hashlib.sha256(json.dumps(decided, sort_keys=True).encode()).hexdigest()
    if taken := next((e for e in reversed(known) if e.facts["subject"] == subject), None):
        return taken.facts["words"]
    versions = {str(v.version): v for v in client.search_model_versions(f"name = '{MODEL_NAME}'")}
    first = before is None and int(number) == min(map(int, versions))
    if first:
        known = []  # of an earlier registry
    if champion is None:
        found = _without_champion(version, versions, floors, known)
    else:
        found = _against(version, champion, comparison, floors, policy, known)
    entry = ledger.append({
        "decision": FIRST if first else BY_POLICY if found.passed else REFUSED,
        "who": f"pipeline run {os.environ.get('KFP_RUN_ID') or version.run_id}",
        **about(version), "from": before, "to": number if found.passed else before,
        "words": found.words, "reason": "the policy",
        "evidence": {"policy": policy.model_dump(), "differences": found.numbers, "floors": floors.numbers},
        "subject": subject,
    })  # fmt: skip
    enact(client, entry)
    return found.words


def _without_champion(version, versions: dict, floors: Verdict, known: list[Entry]) -> Verdict:
    """Judge a version where none is champion: by the floors, unless a person has taken the champion away."""

    def no(words: str) -> Verdict:
        return Verdict(False, f"there is no champion: {words}", {})

    withdrawn = versions.get(next(iter(champions(known)[-1:]), ""))
    if withdrawn is not None and not is_synthetic(withdrawn.tags):
        return no(f"version {withdrawn.version} is no longer champion, and no other was named")
    if rolled_back := _rolled_back(version, known):
        return no(rolled_back)
    if is_synthetic(version.tags):
        if not all(is_synthetic(v.tags) for v in versions.values()):
            return no(f"{ALONE}, and there are versions that learnt from patients")
        return Verdict(True, f"{UNCOMPARED}; {ALONE}, and gives way to the first from patients that passes the "
                             "policy's floors", {})  # fmt: skip
    return Verdict(True, f"{UNCOMPARED}: {floors.words}", {}) if floors.passed else no(floors.words)


def _against(version, champion, comparison: dict, floors: Verdict, policy: Policy, known: list[Entry]) -> Verdict:
    """Judge a version where another is champion."""
    stays, over = f"champion stays version {champion.version}: ", f"promoted over version {champion.version}"
    mine, theirs = is_synthetic(version.tags), is_synthetic(champion.tags)
    if rolled_back := _rolled_back(version, known):
        return Verdict(False, stays + rolled_back, {})
    if mine and not theirs:
        return Verdict(False, f"{stays}{ALONE}, and version {champion.version} from patients", {})
    if theirs and not mine:
        words = f"{over}, which learnt from synthetic scans alone: " if floors.passed else stays
        return Verdict(floors.passed, words + floors.words, {})
    if comparison["model"] != champion.source:
        other = f"version {comparison['champion']}" if comparison["champion"] else "none"
        words = f"this one was compared with {other}, and the champion has changed since. Run again"
        return Verdict(False, stays + words, {})
    judged = [verdict(policy, comparison)] + [floors] * (not mine)
    passed = all(v.passed for v in judged)
    said = "; ".join(v.words for v in judged if passed or not v.passed)
    return Verdict(passed, (f"{over}: " if passed else stays) + said, judged[0].numbers)


def _rolled_back(version, known: list[Entry]) -> str:
    """Who took this very model back, in words; "" where nobody has, or a person made it champion again."""
    by_people = [e.facts for e in known if e.facts["decision"] in (BY_PERSON, ROLLED_BACK)]
    about_it = [f for f in by_people if f["lineage"].get("weights_sha256") == version.tags.get("weights_sha256")]
    if about_it and about_it[-1]["decision"] == ROLLED_BACK:
        return f"{about_it[-1]['who']} rolled this one back; only a person makes it champion again"
    return ""
