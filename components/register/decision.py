"""Decide whether a new version becomes champion: the policy decides, the ledger records it, the registry follows."""

import hashlib
import json
import os

from components.artifacts.evaluation import Comparison
from components.artifacts.synthetic import is_synthetic
from components.register.policy import Policy, Verdict, judge_comparison, judge_floors
from components.registry import tracking
from components.registry.ledger import (
    BY_PERSON,
    BY_POLICY,
    FIRST,
    NAMES_ENTRY,
    REFUSED,
    ROLLED_BACK,
    Ledger,
    apply_to_registry,
    champion_stack,
)
from components.registry.ledger_entry import Entry, version_facts
from components.registry.ledger_pairing import ensure_pair
from components.registry.tracking import MODEL_NAME

SYNTHETIC_ONLY, WITHOUT_COMPARISON = "it learnt from synthetic scans alone", "the first champion, without a comparison"


def decide(client, version, comparison: Comparison, summary: dict[str, float], policy: Policy, ledger: Ledger) -> str:
    """Decide about a registered version, and return the decision as a sentence.

    The same decision is made only once. A decision that a kill interrupted is applied first.

    Raises:
        StepError: the registry and the ledger do not belong together.
    """
    ensure_pair(ledger)
    number, entries = str(version.version), ledger.entries()
    if entries and entries[-1].facts["model"] == version.source and version.tags.get(NAMES_ENTRY) != entries[-1].key:
        apply_to_registry(client, entries[-1])
        return entries[-1].facts["words"]
    champion = tracking.champion(client)
    if champion is not None and str(champion.version) == number:
        return version.tags.get("decision", "champion already")
    before = champion and str(champion.version)
    floors = judge_floors(policy.floors, summary)
    compared = comparison.model_dump(mode="json", exclude={"format_version"})
    subject = _digest([version.source, champion and champion.source, compared, floors.numbers, policy.model_dump()])
    if earlier := next((e for e in reversed(entries) if e.facts["subject"] == subject), None):
        return earlier.facts["words"]
    versions = {str(v.version): v for v in client.search_model_versions(f"name = '{MODEL_NAME}'")}
    first = before is None and int(number) == min(map(int, versions))
    if first:
        entries = []  # they belong to an earlier registry
    if champion is None:
        verdict = _judge_without_champion(version, versions, floors, entries)
    else:
        verdict = _judge_against_champion(version, champion, comparison, floors, policy, entries)
    entry = ledger.append({
        "decision": FIRST if first else BY_POLICY if verdict.passed else REFUSED,
        "who": f"pipeline run {os.environ.get('KFP_RUN_ID') or version.run_id}",
        **version_facts(version), "from": before, "to": number if verdict.passed else before,
        "words": verdict.explanation, "reason": "the policy",
        "evidence": {"policy": policy.model_dump(), "differences": verdict.numbers, "floors": floors.numbers},
        "subject": subject,
    })  # fmt: skip
    apply_to_registry(client, entry)
    return verdict.explanation


def _judge_without_champion(version, versions: dict, floors: Verdict, entries: list[Entry]) -> Verdict:
    """Judge a version by the floors. Refuse it if a person removed the last champion."""

    def refuse(reason: str) -> Verdict:
        return Verdict(False, f"there is no champion: {reason}", {})

    removed = versions.get(next(iter(champion_stack(entries)[-1:]), ""))
    if removed is not None and not is_synthetic(removed.tags):
        return refuse(f"version {removed.version} is no longer champion, and no other was named")
    if reason := _rollback_reason(version, entries):
        return refuse(reason)
    if is_synthetic(version.tags):
        if not all(is_synthetic(v.tags) for v in versions.values()):
            return refuse(f"{SYNTHETIC_ONLY}, and there are versions that learnt from patients")
        explanation = (
            f"{WITHOUT_COMPARISON}; {SYNTHETIC_ONLY}, and the first version from patients that passes the policy's "
            "floors replaces it"
        )
        return Verdict(True, explanation, {})
    if not floors.passed:
        return refuse(floors.explanation)
    return Verdict(True, f"{WITHOUT_COMPARISON}: {floors.explanation}", {})


def _judge_against_champion(
    version, champion, comparison: Comparison, floors: Verdict, policy: Policy, entries: list[Entry]
) -> Verdict:
    """Judge a version while another one is champion."""
    stays, promoted = f"champion stays version {champion.version}: ", f"promoted over version {champion.version}"
    synthetic, champion_synthetic = is_synthetic(version.tags), is_synthetic(champion.tags)
    if reason := _rollback_reason(version, entries):
        return Verdict(False, stays + reason, {})
    if synthetic and not champion_synthetic:
        return Verdict(False, f"{stays}{SYNTHETIC_ONLY}, and version {champion.version} from patients", {})
    if champion_synthetic and not synthetic:
        start = f"{promoted}, which learnt from synthetic scans alone: " if floors.passed else stays
        return Verdict(floors.passed, start + floors.explanation, {})
    if comparison.model != champion.source:
        other = f"version {comparison.champion}" if comparison.champion else "none"
        reason = f"this version was compared with {other}, and the champion has changed since. Run again"
        return Verdict(False, stays + reason, {})
    verdicts = [judge_comparison(policy, comparison)] + [floors] * (not synthetic)
    passed = all(v.passed for v in verdicts)
    reasons = "; ".join(v.explanation for v in verdicts if passed or not v.passed)
    return Verdict(passed, (f"{promoted}: " if passed else stays) + reasons, verdicts[0].numbers)


def _rollback_reason(version, entries: list[Entry]) -> str:
    """Return who rolled this model back; "" without a rollback, or if a person promoted it again later."""
    by_people = [e.facts for e in entries if e.facts["decision"] in (BY_PERSON, ROLLED_BACK)]
    weights = version.tags.get("weights_sha256")
    same_model = [facts for facts in by_people if facts["lineage"].get("weights_sha256") == weights]
    if same_model and same_model[-1]["decision"] == ROLLED_BACK:
        return f"{same_model[-1]['who']} rolled this version back; only a person can make it champion again"
    return ""


def _digest(content: list) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
