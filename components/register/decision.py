"""Does the new version become champion? The policy decides, the ledger keeps it, the registry follows."""

import hashlib
import json
import os

from components.core import tracking
from components.core.ledger import BY_PERSON, BY_POLICY, FIRST, REFUSED, ROLLED_BACK, Entry, Ledger, about, enact
from components.core.tracking import MODEL_NAME
from components.register.policy import Policy, Verdict, verdict


def decide(client, version, comparison: dict, policy: Policy, ledger: Ledger) -> str:
    """Decide once about a version (as the registry describes it) and this comparison; the decision in words.

    A decision that was taken before is not taken again; one that a kill cut short is carried out.
    """
    number, known = str(version.version), ledger.entries()
    if known and known[-1].facts["model"] == version.source and version.tags.get("ledger_entry") != known[-1].key:
        enact(client, known[-1])
        return known[-1].facts["words"]
    champion = tracking.champion(client)
    if champion is not None and str(champion.version) == number:
        return version.tags.get("decision", "champion already")
    before = champion and str(champion.version)
    decided = [version.source, champion and champion.source, comparison, policy.model_dump()]
    subject = hashlib.sha256(json.dumps(decided, sort_keys=True).encode()).hexdigest()
    if taken := next((e for e in reversed(known) if e.facts["subject"] == subject), None):
        return taken.facts["words"]
    if before is None and _is_oldest(client, number):
        decision, words, numbers = FIRST, "the first one is champion without a comparison", {}
    else:
        found = _verdict(version, champion, comparison, policy, known)
        decision, numbers = (BY_POLICY if found.passed else REFUSED), found.numbers
        if found.passed:
            words = f"promoted over version {before}: {found.words}"
        else:
            words = f"{f'champion stays version {before}' if before else 'there is no champion'}: {found.words}"
    entry = ledger.append({
        "decision": decision, "who": f"pipeline run {os.environ.get('KFP_RUN_ID') or version.run_id}",
        **about(version), "from": before, "to": before if decision == REFUSED else number,
        "words": words, "reason": "the policy", "evidence": {"policy": policy.model_dump(), "differences": numbers},
        "subject": subject,
    })  # fmt: skip
    enact(client, entry)
    return words


def _verdict(version, champion, comparison: dict, policy: Policy, known: list[Entry]) -> Verdict:
    def no(words: str) -> Verdict:
        return Verdict(False, words, {})

    if champion is None:
        return no("older versions are there, and none is champion. Name one: make promote MODEL=... REASON=...")
    if comparison["model"] != champion.source:
        other = comparison["champion"] and f"version {comparison['champion']}"
        return no(f"this one was compared with {other or 'none'}, and the champion has changed since. Run again")
    by_people = [e.facts for e in known if e.facts["decision"] in (BY_PERSON, ROLLED_BACK)]
    about_it = [f for f in by_people if f["lineage"].get("weights_sha256") == version.tags.get("weights_sha256")]
    if about_it and about_it[-1]["decision"] == ROLLED_BACK:
        return no(f"{about_it[-1]['who']} rolled this one back; only a person makes it champion again")
    return verdict(policy, comparison)


def _is_oldest(client, number: str) -> bool:
    return int(number) == min(int(v.version) for v in client.search_model_versions(f"name = '{MODEL_NAME}'"))
