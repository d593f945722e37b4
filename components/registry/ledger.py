"""The ledger of champions: each decision is an object in S3 that is written once and never changed.

The registry follows the ledger: a decision is written first, then the alias moves. Write access to the bucket is not
enough to decide: an entry is valid if its authentication code is by a key of the registry, or if the registry or a
later valid entry names it. The registry names the last entries and their count (see `Head`), so an entry that was
removed, altered or renamed is detected.
"""

import datetime
import hashlib
import json
import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace

from components.core.errors import StepError
from components.core.storage import PARALLEL_TRANSFERS, Storage, work_bucket
from components.registry import authentication
from components.registry.ledger_entry import CODE, Entry, digest_prefix, is_entry_key, new_entry, parse_entry
from components.registry.mlflow_requests import explain_mlflow_errors
from components.registry.tracking import MODEL_NAME

MARK = "id"
HEAD, NAMES_ENTRY = "ledger_head", "ledger_entry"
"""Tag of the registered model with the `Head`; tag of a version with the key of the last decision about it."""
FIRST, BY_POLICY, BY_PERSON, ROLLED_BACK, REFUSED = (
    "first",
    "promoted",
    "promoted by a person",
    "rolled back",
    "refused",
)
RESTORE = (
    "Restore the missing entries from a copy of the bucket. If they are lost for good, set the tag ledger_id of the "
    f'registered model {MODEL_NAME} to "renew" in MLflow, and run again: the next run continues with the rest.'
)


@dataclass(frozen=True)
class Head:
    """The registry's record of its ledger, as JSON in the tag `ledger_head` of the registered model.

    count: number of entries. last: SHA-256 of the entries that no other entry names. lost: SHA-256 of missing entries
    that a person gave up. set_aside: SHA-256 over the keys of objects that an earlier registry left there; "" without.
    """

    count: int = 0
    last: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()
    set_aside: str = ""

    @classmethod
    def of(cls, tags: dict[str, str]) -> "Head | None":
        """Return the head from the tags of the registered model, None before the first decision.

        Raises:
            StepError: the tag was altered.
        """
        if HEAD not in tags:
            return None
        try:
            head = json.loads(tags[HEAD])
            return cls(int(head["count"]), tuple(head["last"]), tuple(head["lost"]), str(head["set_aside"]))
        except (ValueError, KeyError, TypeError):
            raise StepError(
                f"the tag {HEAD} of the registered model {MODEL_NAME} cannot be read: it was altered in MLflow. "
                'Delete it there and set the tag ledger_id to "renew": the next run adopts the ledger.'
            ) from None

    @property
    def text(self) -> str:
        return json.dumps(asdict(self))


class Ledger:
    """`s3://<S3_BUCKET>/ledger/<UTC time>-<digest>.json`, one object per decision; and the object `id`, the mark.

    `client` is the MLflow client of its registry. `entries` sets three lists of sentences:
        faults: everything that is wrong.
        gaps: the faults that mean missing entries. No decision is made then.
        unchecked: facts that cannot be compared with the registry, without being wrong.
    """

    def __init__(self, storage: Storage | None = None, client=None):
        import mlflow

        self.storage = storage or Storage(f"s3://{work_bucket()}/ledger")
        self.client = client or mlflow.MlflowClient()
        self.faults: list[str] = []
        self.gaps: list[str] = []
        self.unchecked: list[str] = []
        self._lost: tuple[str, ...] = ()
        self._fetched: dict[tuple[str, str], bytes] = {}

    @property
    def uri(self) -> str:
        return self.storage.uri

    def mark(self) -> str | None:
        """Return the id that a registry and its ledger share, None before the first decision."""
        return self.storage.get(MARK).decode(errors="replace").strip() if self.storage.find(MARK) else None

    def set_mark(self, mark: str) -> None:
        self.storage.put(MARK, mark.encode())

    def entries(self) -> list[Entry]:
        """Return the registry's own entries in order, without other objects in the folder.

        Raises:
            StepError: MLflow or the storage does not answer, or the registry's head is invalid.
        """
        return sorted(self._read()[0], key=lambda e: (e.facts["number"], e.key))

    def is_given_up(self, key: str) -> bool:
        """Return whether the entry with this key is missing and a person gave it up. Call `entries` first."""
        return is_entry_key(key) and any(digest.startswith(digest_prefix(key)) for digest in self._lost)

    def append(self, facts: dict) -> Entry:
        """Write a decision, and name it in the registry.

        facts: decision (one of FIRST, ... REFUSED), who, version (its number), model (the version's source), from and
        to (champion before and after), words (the decision as a sentence), reason, evidence, lineage, subject.
        This method adds: number, when (UTC), previous (digests of the last entries; mostly one), authentication (the
        code over all fields).

        Raises:
            StepError: entries are missing, or MLflow or the storage does not answer.
        """
        entries = self.entries()
        self.require_complete()
        facts = {
            "number": 1 + max((e.facts["number"] for e in entries), default=0),
            "when": datetime.datetime.now(datetime.UTC).isoformat(),
            **facts,
            "previous": list(_last(entries)),
        }
        entry, blob = new_entry(facts | {CODE: authentication.code(facts, self._keys())})
        self.storage.put(entry.key, blob)
        self.update_head()
        return entry

    def require_complete(self) -> None:
        """Check that no entry is missing. Call `entries` first.

        Raises:
            StepError: entries are missing.
        """
        if self.gaps:
            raise StepError(f"{'; '.join(self.gaps)}. No decision was made. {RESTORE}")

    @explain_mlflow_errors()
    def update_head(self, give_up: bool = False) -> None:
        """Write the last entries and their count to the registry.

        A registry without a head adopts the ledger: see `_read`. With `give_up`, continue without missing entries.

        The loop reads again until nothing changes: of two processes that write together, the later sees both entries.

        Raises:
            StepError: entries that the registry names are missing, or MLflow or the storage does not answer.
        """
        while True:
            entries, head, others, missing = self._read()
            if head and not give_up:
                self.require_complete()
                new = replace(head, count=len(entries), last=_last(entries))
            else:
                lost = sorted({*missing, *(head.lost if head else ())})
                new = Head(len(entries), _last(entries), tuple(lost), _digest(others))
            if new == (head or Head()):
                return
            if head is None and (new.lost or new.set_aside or any(CODE not in e.facts for e in entries)):
                logging.warning(
                    "the registry adopts the ledger %s: it names %d decisions there. %d other objects are not used%s. "
                    "%d entries are missing%s",
                    self.uri, len(entries), len(others), _shorten(others), len(missing), _shorten(missing),
                )  # fmt: skip
            self.client.set_registered_model_tag(MODEL_NAME, HEAD, new.text)

    @explain_mlflow_errors()
    def _read(self) -> tuple[list[Entry], Head | None, list[str], list[str]]:
        """Return the registry's own entries, its head, the keys of other objects, the digests of missing entries.

        Its own entries are those with a code by its key, those that its head names, and all that these name in turn.
        An old registry without codes names entries in the tags of its versions: the keys contain digests.
        """
        self.faults, self.gaps, self.unchecked = [], [], []
        model = registered_model(self.client)
        if model is None:
            return [], None, [], []
        head, keys, (stored, invalid) = Head.of(model.tags), authentication.keys_of(model.tags), self._stored()
        valid = (e for e in stored.values() if authentication.is_authentic(e.content, e.facts.get(CODE), keys))
        named = head.last if head else self._named_by_versions(stored)
        own, missing = _with_predecessors([*named, *(e.sha256 for e in valid)], stored)
        self._lost = lost = head.lost if head else ()
        gone = (self._describe_gap(digest, by, invalid) for digest, by in missing.items() if digest not in lost)
        self.gaps = list(dict.fromkeys(gone))
        if head and not missing and len(own) < head.count:
            self.gaps.append(f"{self.uri} holds {len(own)} decisions, and the registry has counted {head.count}")
        own_keys = {entry.key for entry in own}
        others = sorted({e.key for e in stored.values()} - own_keys | invalid.keys())
        self._report_others(others, head, invalid, {digest[:16] for digest in missing})
        if lost:
            self.unchecked.append(f"{len(lost)} decisions of {self.uri} are lost; a person gave them up")
        return own, head, others, sorted(missing)

    def _stored(self) -> tuple[dict[str, Entry], dict[str, str]]:
        """Return all entries by digest, whoever wrote them; and the fault of each invalid object by key."""
        objects = [o for o in self.storage.list() if is_entry_key(o.key)]
        new = [o for o in objects if (o.key, o.etag) not in self._fetched]
        with ThreadPoolExecutor(PARALLEL_TRANSFERS) as pool:
            for o, blob in zip(new, pool.map(self.storage.get, [o.key for o in new]), strict=True):
                self._fetched[o.key, o.etag] = blob
        found = {o.key: parse_entry(o.key, self._fetched[o.key, o.etag]) for o in objects}
        entries = {entry.sha256: entry for entry in found.values() if isinstance(entry, Entry)}
        return entries, {key: fault for key, fault in found.items() if isinstance(fault, str)}

    def _named_by_versions(self, stored: dict[str, Entry]) -> list[str]:
        """Return the digests of the entries in the tags of versions; the first 16 digits if an entry is missing."""
        digests = {entry.key: digest for digest, entry in stored.items()}
        versions = self.client.search_model_versions(f"name = '{MODEL_NAME}'")
        keys = {key for v in versions if is_entry_key(key := v.tags.get(NAMES_ENTRY, ""))}
        return [digests.get(key, digest_prefix(key)) for key in sorted(keys)]

    def _describe_gap(self, digest: str, named_by: Entry | None, invalid: dict[str, str]) -> str:
        for key, fault in invalid.items():
            if digest_prefix(key) == digest[:16]:
                return f"{self.uri}/{key} {fault}"
        if named_by is None:
            return f"the decision {digest[:16]}, which the registry names, was removed from {self.uri}"
        return f"an entry before decision {named_by.facts['number']} ({named_by.key}) was removed"

    def _report_others(self, others: list[str], head: Head | None, invalid: dict[str, str], missing: set[str]) -> None:
        """Add objects that do not belong to the registry to `faults` and `unchecked`."""
        self.faults += self.gaps
        if head and others and head.set_aside == _digest(others):
            self.unchecked.append(f"{len(others)} objects of {self.uri} belong to an earlier registry: not used")
            return
        for key in others:
            if digest_prefix(key) in missing:
                continue
            if head or key in invalid:
                foreign = "does not belong to this registry: its authentication code is missing or invalid. Not used"
                self.faults.append(f"{self.uri}/{key} {invalid.get(key, foreign)}")
            else:
                self.unchecked.append(f"no version names {self.uri}/{key}: not used")

    def _keys(self) -> authentication.Keys:
        """Return the registry's keys. Create the first one if needed."""
        keys = authentication.keys_of(registered_model(self.client).tags)
        if not keys:
            name, value = authentication.new_key_tag()
            self.client.set_registered_model_tag(MODEL_NAME, name, value)
            keys = authentication.keys_of({name: value})
        return keys


def registered_model(client):
    """Return the registered model with its tags and aliases, None before the first registration."""
    return next(iter(client.search_registered_models(f"name = '{MODEL_NAME}'")), None)


def _with_predecessors(named: list[str], stored: dict[str, Entry]) -> tuple[list[Entry], dict[str, Entry | None]]:
    """Return the entries of these digests and all that they name in turn; and missing digest to the entry naming it."""
    found: dict[str, Entry] = {}
    missing: dict[str, Entry | None] = {}
    queue: list[tuple[str, Entry | None]] = [(digest, None) for digest in named]
    while queue:
        digest, named_by = queue.pop()
        if digest in found:
            continue
        if digest not in stored:
            missing[digest] = named_by
            continue
        found[digest] = entry = stored[digest]
        queue += [(previous, entry) for previous in entry.facts["previous"]]
    return list(found.values()), missing


def _last(entries: list[Entry]) -> tuple[str, ...]:
    """Return the digests of the entries that no other entry names."""
    named = {digest for entry in entries for digest in entry.facts["previous"]}
    return tuple(sorted(e.sha256 for e in entries if e.sha256 not in named))


def _digest(keys: list[str]) -> str:
    return hashlib.sha256("\n".join(keys).encode()).hexdigest() if keys else ""


def _shorten(names: list[str], shown: int = 5) -> str:
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return f" ({', '.join(names[:shown])}{more})" if names else ""


def champion_stack(entries: list[Entry]) -> list[str]:
    """Replay the ledger: return the versions of the champions, the present one last. A rollback removes versions."""
    stack: list[str] = []
    for facts in (e.facts for e in entries):
        if facts["decision"] == FIRST:  # a new registry; without a champion if the version failed the policy's floors
            stack = [facts["to"]] if facts["to"] else []
        elif facts["decision"] == ROLLED_BACK:
            while stack and stack.pop() != facts["from"]:
                pass
        elif facts["decision"] in (BY_POLICY, BY_PERSON) and stack[-1:] != [facts["to"]]:
            stack.append(facts["to"])
    return stack


def apply_to_registry(client, entry: Entry) -> None:
    """Move the alias and set the tags as the entry says. Repeating it changes nothing."""
    facts = entry.facts
    if facts["to"] != facts["from"]:
        client.set_registered_model_alias(MODEL_NAME, "champion", facts["to"])
    client.set_model_version_tag(MODEL_NAME, facts["version"], "decision", facts["words"])
    client.set_model_version_tag(MODEL_NAME, facts["version"], NAMES_ENTRY, entry.key)
    logging.info("version %s: %s", facts["version"], facts["words"])
