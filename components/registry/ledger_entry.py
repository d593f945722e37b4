"""One decision of the ledger: a JSON object in S3, named after its time and its digest."""

import datetime
import hashlib
import json
import re
from dataclasses import dataclass

KEY = re.compile(r"^\d{8}T\d{6}\.\d{6}Z-([0-9a-f]{16})\.json$")
CODE = "authentication"
"""The field with the authentication code. Entries of the first ledger format do not have it."""
TEXT_FIELDS = ("decision", "who", "when", "version", "model", "words", "subject")
COPIED_TAGS = (
    "git_commit", "image_tag", "data_version", "cases_sha256", "split_digest", "split_lineage", "training_digest",
    "weights_sha256", "facts_sha256", "model_sha256", "code_sha256", "threshold", "evaluation_digest", "metrics_sha256",
    "card_sha256", "description_sha256", "data",
)  # fmt: skip
"""Tags of a version that an entry copies if they exist. Entries without a code have fewer of them."""


@dataclass(frozen=True)
class Entry:
    """A decision: its key, the SHA-256 of its bytes, and its fields (see `Ledger.append`)."""

    key: str
    sha256: str
    facts: dict

    @property
    def content(self) -> dict:
        """Return the fields that the authentication code covers."""
        return {name: value for name, value in self.facts.items() if name != CODE}


def new_entry(facts: dict) -> tuple[Entry, bytes]:
    """Return the entry with these fields, and its bytes."""
    blob = json.dumps(facts, indent=1, ensure_ascii=False).encode()
    digest = hashlib.sha256(blob).hexdigest()
    return Entry(_key(facts["when"], digest), digest, facts), blob


def parse_entry(key: str, blob: bytes) -> Entry | str:
    """Return the entry in an object, or the reason why the object is invalid or a copy of another entry."""
    digest = hashlib.sha256(blob).hexdigest()
    if not digest.startswith(digest_prefix(key)):
        return "was altered"
    facts = _parse_fields(blob)
    if facts is None:
        return "is not a complete decision"
    if key != _key(facts["when"], digest):
        return "is a copy or forged: the time in its name differs from the time in its content"
    return Entry(key, digest, facts)


def is_entry_key(key: str) -> bool:
    """Return whether an object with this key is an entry of a ledger."""
    return KEY.match(key) is not None


def digest_prefix(key: str) -> str:
    """Return the first 16 digits of the SHA-256 of an entry, from its key.

    Raises:
        ValueError: this is not the key of an entry.
    """
    match = KEY.match(key)
    if match is None:
        raise ValueError(f"{key} is not the key of a decision")
    return match[1]


def _key(when: str, digest: str) -> str:
    utc = datetime.datetime.fromisoformat(when).astimezone(datetime.UTC)
    return f"{utc:%Y%m%dT%H%M%S.%f}Z-{digest[:16]}.json"


def _parse_fields(blob: bytes) -> dict | None:
    """Return the fields of an entry, None if they are not in the form that `Ledger.append` writes."""
    try:
        facts = json.loads(blob)
        _key(facts["when"], "")
        complete = isinstance(facts["number"], int) and isinstance(facts["previous"], list)
        complete &= all(isinstance(text, str) for text in [*(facts[name] for name in TEXT_FIELDS), *facts["previous"]])
        complete &= all(isinstance(facts[name], str | None) for name in ("from", "to"))
        tags = {**facts["lineage"], **facts.get("metrics", {})}
        complete &= all(isinstance(text, str) for name, text in tags.items() if name != "run_id")
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return None
    return facts if complete else None


def version_facts(version) -> dict:
    """Return the fields of an entry that describe a model version: its number, source, lineage and test metrics."""
    lineage = {name: version.tags[name] for name in COPIED_TAGS if name in version.tags}
    return {
        "version": str(version.version),
        "model": version.source,
        "lineage": lineage | {"run_id": version.run_id},
        "metrics": {name: value for name, value in version.tags.items() if name.startswith("test_")},
    }


def changes_since(entry: Entry, version) -> list[str]:
    """Return what changed in a version since its entry: names of tags, `model`, `run_id`, `decision`."""
    now, then = version_facts(version), entry.facts
    names = (*COPIED_TAGS, "run_id") if CODE in then else then["lineage"]
    found = [name for name in names if now["lineage"].get(name) != then["lineage"].get(name)]
    measured = then.get("metrics", now["metrics"])
    found += [name for name in sorted(now["metrics"] | measured) if now["metrics"].get(name) != measured.get(name)]
    if version.source != then["model"]:
        found.append("model")
    if version.tags.get("decision") != then["words"]:
        found.append("decision")
    return found
