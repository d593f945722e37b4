"""Who became champion, when and why: every decision an object of its own in S3 that is never written again.

The registry follows the ledger: a decision is written down first, then the alias moves. Each entry names the
digests of those before it and its own key holds its digest, so one that was altered or removed is missed.
"""

import datetime
import hashlib
import json
import logging
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from components.core.storage import PARALLEL_TRANSFERS, Storage, work_bucket
from components.core.tracking import MODEL_NAME

KEY = re.compile(r"^\d{8}T\d{6}\.\d{6}Z-([0-9a-f]{16})\.json$")
MARK = "id"
FIRST, BY_POLICY, BY_PERSON, ROLLED_BACK, REFUSED = (
    "first",
    "promoted",
    "promoted by a person",
    "rolled back",
    "refused",
)
LINEAGE = (
    "git_commit", "image_tag", "data_version", "cases_sha256", "split_digest", "training_digest", "weights_sha256",
    "evaluation_digest", "card_sha256", "data",
)  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """A decision: its key, the SHA-256 of its bytes, and what it says (see `Ledger.append`)."""

    key: str
    sha256: str
    facts: dict


class Ledger:
    """`s3://<S3_BUCKET>/ledger/<UTC time>-<digest>.json`, one object a decision; beside them the mark, `id`."""

    def __init__(self, storage: Storage | None = None):
        self.storage = storage or Storage(f"s3://{work_bucket()}/ledger")
        self.faults: list[str] = []

    @property
    def uri(self) -> str:
        return self.storage.uri

    def mark(self) -> str | None:
        """Return the id by which a registry knows its ledger; None before there is one."""
        return self.storage.get(MARK).decode(errors="replace").strip() if self.storage.find(MARK) else None

    def set_mark(self, mark: str) -> None:
        self.storage.put(MARK, mark.encode())

    def entries(self) -> list[Entry]:
        """Every whole entry, in order; `faults` then says, in words, what was altered or removed."""
        keys = [o.key for o in self.storage.list() if KEY.match(o.key)]
        with ThreadPoolExecutor(PARALLEL_TRANSFERS) as pool:
            blobs = list(pool.map(self.storage.get, keys))
        found, self.faults = [], []
        for key, blob in zip(keys, blobs, strict=True):
            digest = hashlib.sha256(blob).hexdigest()
            if not digest.startswith(KEY.match(key)[1]):
                self.faults.append(f"{self.storage.uri}/{key} was altered")
            elif (facts := _decision(blob)) is None:
                self.faults.append(f"{self.storage.uri}/{key} is no decision, whoever wrote it")
            else:
                found.append(Entry(key, digest, facts))
        there = {KEY.match(key)[1] for key in keys}
        for entry in found:
            if not {digest[:16] for digest in entry.facts["previous"]} <= there:
                self.faults.append(f"an entry before decision {entry.facts['number']} ({entry.key}) was removed")
        return sorted(found, key=lambda e: (e.facts["number"], e.key))

    def append(self, facts: dict) -> Entry:
        """Write a decision down.

        facts: decision (one of FIRST, ... REFUSED), who, version (which it is about), model (that version's
        source), from and to (the champion before and after), words, reason, evidence, lineage, subject.
        Added to them: number, when (UTC), previous (digests of the entries that none names yet; mostly one).
        """
        known, now = self.entries(), datetime.datetime.now(datetime.UTC)
        named = {digest for entry in known for digest in entry.facts["previous"]}
        facts = {
            "number": 1 + max((e.facts["number"] for e in known), default=0),
            "when": now.isoformat(),
            **facts,
            "previous": [e.sha256 for e in known if e.sha256 not in named],
        }
        blob = json.dumps(facts, indent=1, ensure_ascii=False).encode()
        digest = hashlib.sha256(blob).hexdigest()
        entry = Entry(f"{now:%Y%m%dT%H%M%S.%f}Z-{digest[:16]}.json", digest, facts)
        self.storage.put(entry.key, blob)
        return entry


def _decision(blob: bytes) -> dict | None:
    """What an entry says; None where it is not of the form that `append` writes."""
    try:
        facts = json.loads(blob)
        texts = [facts["decision"], facts["to"], facts["from"], *facts["previous"]]
        whole = isinstance(facts["number"], int) and isinstance(facts["previous"], list)
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return facts if whole and all(isinstance(text, str | None) for text in texts) else None


def champions(entries: list[Entry]) -> list[str]:
    """The ledger replayed: the champions' versions one upon the other, the present one last."""
    stack: list[str] = []
    for facts in (e.facts for e in entries):
        if facts["decision"] == FIRST:  # of a new registry; no champion where it missed the policy's floors
            stack = [facts["to"]] if facts["to"] else []
        elif facts["decision"] == ROLLED_BACK:
            while stack and stack.pop() != facts["from"]:
                pass
        elif facts["decision"] in (BY_POLICY, BY_PERSON) and stack[-1:] != [facts["to"]]:
            stack.append(facts["to"])
    return stack


def enact(client, entry: Entry) -> None:
    """Make the registry what the entry says; again and again if need be."""
    facts = entry.facts
    if facts["to"] != facts["from"]:
        client.set_registered_model_alias(MODEL_NAME, "champion", facts["to"])
    client.set_model_version_tag(MODEL_NAME, facts["version"], "decision", facts["words"])
    client.set_model_version_tag(MODEL_NAME, facts["version"], "ledger_entry", entry.key)
    logging.info("version %s: %s", facts["version"], facts["words"])


def about(version) -> dict:
    """What an entry says of a model version: which one, what it was made of, what it was measured to be worth."""
    return {
        "version": str(version.version),
        "model": version.source,
        "lineage": {name: version.tags[name] for name in LINEAGE if name in version.tags} | {"run_id": version.run_id},
        "metrics": {name: value for name, value in version.tags.items() if name.startswith("test_")},
    }
