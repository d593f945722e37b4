"""One decision as the ledger keeps it: JSON, under a name that its time and its digest make."""

import datetime
import hashlib
import json
import re
from dataclasses import dataclass

KEY = re.compile(r"^\d{8}T\d{6}\.\d{6}Z-([0-9a-f]{16})\.json$")
CODE = "authentication"
"""The field that holds an entry's authentication code; entries of the first version have none."""
TEXTS = ("decision", "who", "when", "version", "model", "words", "subject")
LINEAGE = (
    "git_commit", "image_tag", "data_version", "cases_sha256", "split_digest", "split_lineage", "training_digest",
    "weights_sha256", "facts_sha256", "model_sha256", "code_sha256", "threshold", "evaluation_digest", "metrics_sha256",
    "card_sha256", "description_sha256", "data",
)  # fmt: skip
"""Tags of a version that an entry repeats, where there are such; entries without a code repeat fewer."""


@dataclass(frozen=True)
class Entry:
    """A decision: its key, the SHA-256 of its bytes, and what it says (see `Ledger.append`)."""

    key: str
    sha256: str
    facts: dict

    @property
    def content(self) -> dict:
        """What its authentication code is of."""
        return {name: value for name, value in self.facts.items() if name != CODE}


def written(facts: dict) -> tuple[Entry, bytes]:
    """Return the entry that says this, and its bytes."""
    blob = json.dumps(facts, indent=1, ensure_ascii=False).encode()
    digest = hashlib.sha256(blob).hexdigest()
    return Entry(_key(facts["when"], digest), digest, facts), blob


def read(key: str, blob: bytes) -> Entry | str:
    """Return the entry of an object; of one that is no entry, or another's copy, what is wrong with it, in words."""
    digest = hashlib.sha256(blob).hexdigest()
    if not digest.startswith(KEY.match(key)[1]):
        return "was altered"
    facts = _decision(blob)
    if facts is None:
        return "is no whole decision, whoever wrote it"
    if key != _key(facts["when"], digest):
        return "is a copy, or forged: its name has another time than its content"
    return Entry(key, digest, facts)


def _key(when: str, digest: str) -> str:
    utc = datetime.datetime.fromisoformat(when).astimezone(datetime.UTC)
    return f"{utc:%Y%m%dT%H%M%S.%f}Z-{digest[:16]}.json"


def _decision(blob: bytes) -> dict | None:
    """What an entry says; None where it is not of the form that `Ledger.append` writes."""
    try:
        facts = json.loads(blob)
        _key(facts["when"], "")
        whole = isinstance(facts["number"], int) and isinstance(facts["previous"], list)
        whole &= all(isinstance(text, str) for text in [*(facts[name] for name in TEXTS), *facts["previous"]])
        whole &= all(isinstance(facts[name], str | None) for name in ("from", "to"))
        tags = {**facts["lineage"], **facts.get("metrics", {})}
        whole &= all(isinstance(text, str) for name, text in tags.items() if name != "run_id")
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return None
    return facts if whole else None


def about(version) -> dict:
    """What an entry says of a model version: which one, what it was made of, what it was measured to be worth."""
    return {
        "version": str(version.version),
        "model": version.source,
        "lineage": {name: version.tags[name] for name in LINEAGE if name in version.tags} | {"run_id": version.run_id},
        "metrics": {name: value for name, value in version.tags.items() if name.startswith("test_")},
    }


def differences(entry: Entry, version) -> list[str]:
    """Return what of a version is not as the entry about it says: names of tags, `model`, `run_id`, `decision`."""
    now, then = about(version), entry.facts
    names = (*LINEAGE, "run_id") if CODE in then else then["lineage"]
    found = [name for name in names if now["lineage"].get(name) != then["lineage"].get(name)]
    measured = then.get("metrics", now["metrics"])
    found += [name for name in sorted(now["metrics"] | measured) if now["metrics"].get(name) != measured.get(name)]
    if version.source != then["model"]:
        found.append("model")
    if version.tags.get("decision") != then["words"]:
        found.append("decision")
    return found
