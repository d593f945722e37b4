"""Who became champion, when and why: every decision an object of its own in S3 that is never written again.

The registry follows the ledger: a decision is written down first, then the alias moves. Who can write the bucket alone
decides nothing: an entry counts where its authentication code is by a key that the registry holds, or where the
registry names it, or an entry after it does. The registry names the last entries and how many there are (see `Head`):
one that was removed, altered or renamed is missed.
"""

import datetime
import hashlib
import json
import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace

from components.core.step import StepError
from components.core.storage import PARALLEL_TRANSFERS, Storage, work_bucket
from components.registry import authentication
from components.registry.ledger_entry import CODE, KEY, Entry, read, written
from components.registry.tracking import MODEL_NAME, answering

MARK = "id"
HEAD, NAMES_ENTRY = "ledger_head", "ledger_entry"
"""Tag of the registered model; tag of a version: the key of the last decision about it."""
FIRST, BY_POLICY, BY_PERSON, ROLLED_BACK, REFUSED = (
    "first",
    "promoted",
    "promoted by a person",
    "rolled back",
    "refused",
)
PUT_BACK = (
    "Put back what is missing from a copy of the bucket. If it is lost for good, set the tag ledger_id of the "
    f'registered model {MODEL_NAME} to "renew" in MLflow, and run again: the next run goes on with the rest.'
)


@dataclass(frozen=True)
class Head:
    """What the registry says of its ledger, as JSON in the registered model's tag `ledger_head`.

    count: entries. last: SHA-256 of those that no other names. lost: SHA-256 of entries that are missing, and that a
    person gave up. set_aside: SHA-256 over the keys of what was there before, and is not this registry's; or "".
    """

    count: int = 0
    last: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()
    set_aside: str = ""

    @classmethod
    def of(cls, tags: dict[str, str]) -> "Head | None":
        """Return the head among the tags of the registered model; None before there is one.

        Raises:
            StepError: the tag was altered.
        """
        if HEAD not in tags:
            return None
        try:
            said = json.loads(tags[HEAD])
            return cls(int(said["count"]), tuple(said["last"]), tuple(said["lost"]), str(said["set_aside"]))
        except (ValueError, KeyError, TypeError):
            raise StepError(
                f"the tag {HEAD} of the registered model {MODEL_NAME} cannot be read: it was altered in MLflow. "
                'Delete it there and set the tag ledger_id to "renew": the next run takes the ledger over.'
            ) from None

    @property
    def text(self) -> str:
        return json.dumps(asdict(self))


class Ledger:
    """`s3://<S3_BUCKET>/ledger/<UTC time>-<digest>.json`, one object a decision; beside them the mark, `id`.

    `client` is of the registry whose ledger it is. After `entries` there is in words:
        faults: all that is wrong.
        gaps: the faults that leave entries missing. No decision is taken then.
        unchecked: what is not wrong, and cannot be compared with the registry.
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
        """Return the id by which a registry knows its ledger; None before there is one."""
        return self.storage.get(MARK).decode(errors="replace").strip() if self.storage.find(MARK) else None

    def set_mark(self, mark: str) -> None:
        self.storage.put(MARK, mark.encode())

    def entries(self) -> list[Entry]:
        """Return the registry's own entries, in order; nothing else that lies beside them.

        Raises:
            StepError: MLflow or the storage does not answer, or the registry's head cannot be read.
        """
        return sorted(self._read()[0], key=lambda e: (e.facts["number"], e.key))

    def gave_up(self, key: str) -> bool:
        """Return whether the entry of this key is missing, and a person gave it up; after `entries`."""
        return bool(KEY.match(key)) and any(digest.startswith(KEY.match(key)[1]) for digest in self._lost)

    def append(self, facts: dict) -> Entry:
        """Write a decision down, and name it in the registry.

        facts: decision (one of FIRST, ... REFUSED), who, version (which it is about), model (that version's
        source), from and to (the champion before and after), words, reason, evidence, lineage, subject.
        Added to them: number, when (UTC), previous (digests of the entries that none names yet; mostly one),
        authentication (the code of all this).

        Raises:
            StepError: entries are missing, or MLflow or the storage does not answer.
        """
        known = self.entries()
        self.require_whole()
        facts = {
            "number": 1 + max((e.facts["number"] for e in known), default=0),
            "when": datetime.datetime.now(datetime.UTC).isoformat(),
            **facts,
            "previous": list(_last(known)),
        }
        entry, blob = written(facts | {CODE: authentication.code(facts, self._keys())})
        self.storage.put(entry.key, blob)
        self.name_last()
        return entry

    def require_whole(self) -> None:
        """Raises StepError where the last reading found that entries are missing."""
        if self.gaps:
            raise StepError(f"{'; '.join(self.gaps)}. Nothing was decided. {PUT_BACK}")

    @answering()
    def name_last(self, give_up: bool = False) -> None:
        """Name the last entries, and how many there are, in the registry.

        Where it has named none yet, the ledger is taken over: see `_read`. `give_up` what is missing, and go on.

        What is named is read again until it stays: of two that write at once, the later one sees both entries.

        Raises:
            StepError: entries are missing that the registry names, or MLflow or the storage does not answer.
        """
        while True:
            entries, head, others, missing = self._read()
            if head and not give_up:
                self.require_whole()
                new = replace(head, count=len(entries), last=_last(entries))
            else:
                lost = sorted({*missing, *(head.lost if head else ())})
                new = Head(len(entries), _last(entries), tuple(lost), _digest(others))
            if new == (head or Head()):
                return
            if head is None and (new.lost or new.set_aside or any(CODE not in e.facts for e in entries)):
                logging.warning(
                    "the ledger %s is taken over: %d decisions are the registry's, which names them. %d objects beside "
                    "them are not, and are not used%s. %d entries are missing%s",
                    self.uri, len(entries), len(others), _few(others), len(missing), _few(missing),
                )  # fmt: skip
            self.client.set_registered_model_tag(MODEL_NAME, HEAD, new.text)

    @answering()
    def _read(self) -> tuple[list[Entry], Head | None, list[str], list[str]]:
        """The registry's own entries, its head, the keys of all else, the digests of entries that are missing.

        Its own are those whose code is by its key, those that its head names, and all that they name in turn. A
        registry from before there were codes names entries by its versions: their keys hold digests.
        """
        self.faults, self.gaps, self.unchecked = [], [], []
        model = registered_model(self.client)
        if model is None:
            return [], None, [], []
        head, keys, (stored, odd) = Head.of(model.tags), authentication.keys_of(model.tags), self._stored()
        coded = [e.sha256 for e in stored.values() if authentication.is_authentic(e.content, e.facts.get(CODE), keys)]
        named = head.last if head else self._named_by_versions(stored)
        own, missing = _with_all_before([*named, *coded], stored)
        self._lost = lost = head.lost if head else ()
        gone = (self._gone(digest, by, odd) for digest, by in missing.items() if digest not in lost)
        self.gaps = list(dict.fromkeys(gone))
        if head and not missing and len(own) < head.count:
            self.gaps.append(f"{self.uri} holds {len(own)} decisions, and the registry knows of {head.count}")
        ours = {entry.key for entry in own}
        others = sorted({e.key for e in stored.values()} - ours | odd.keys())
        self._judge(others, head, odd, {digest[:16] for digest in missing})
        if lost:
            self.unchecked.append(f"{len(lost)} decisions of {self.uri} are lost, and a person gave them up")
        return own, head, others, sorted(missing)

    def _stored(self) -> tuple[dict[str, Entry], dict[str, str]]:
        """Return entries by digest, whoever wrote them; and by key, what is wrong with objects that are not entries."""
        objects = [o for o in self.storage.list() if KEY.match(o.key)]
        new = [o for o in objects if (o.key, o.etag) not in self._fetched]
        with ThreadPoolExecutor(PARALLEL_TRANSFERS) as pool:
            for o, blob in zip(new, pool.map(self.storage.get, [o.key for o in new]), strict=True):
                self._fetched[o.key, o.etag] = blob
        found = {o.key: read(o.key, self._fetched[o.key, o.etag]) for o in objects}
        entries = {entry.sha256: entry for entry in found.values() if isinstance(entry, Entry)}
        return entries, {key: wrong for key, wrong in found.items() if isinstance(wrong, str)}

    def _named_by_versions(self, stored: dict[str, Entry]) -> list[str]:
        """The digests of the entries that the versions' tags name; the first 16 digits of one that is not there."""
        digests = {entry.key: digest for digest, entry in stored.items()}
        versions = self.client.search_model_versions(f"name = '{MODEL_NAME}'")
        keys = {key for v in versions if KEY.match(key := v.tags.get(NAMES_ENTRY, ""))}
        return [digests.get(key, KEY.match(key)[1]) for key in sorted(keys)]

    def _gone(self, digest: str, by: Entry | None, odd: dict[str, str]) -> str:
        for key, wrong in odd.items():
            if KEY.match(key)[1] == digest[:16]:
                return f"{self.uri}/{key} {wrong}"
        if by is None:
            return f"the decision {digest[:16]}, which the registry names, was removed from {self.uri}"
        return f"an entry before decision {by.facts['number']} ({by.key}) was removed"

    def _judge(self, others: list[str], head: Head | None, odd: dict[str, str], missing: set[str]) -> None:
        """Add to `faults` and `unchecked` what is there and is not the registry's."""
        self.faults += self.gaps
        if head and others and head.set_aside == _digest(others):
            self.unchecked.append(f"{len(others)} objects of {self.uri} are of an earlier registry: not used")
            return
        for key in others:
            if KEY.match(key)[1] in missing:
                continue
            if head or key in odd:
                wrong = odd.get(key, "is not this registry's: its authentication code is missing or wrong. Not used")
                self.faults.append(f"{self.uri}/{key} {wrong}")
            else:
                self.unchecked.append(f"{self.uri}/{key} is named by no version: not used")

    def _keys(self) -> authentication.Keys:
        """Return the registry's keys. Make one if there are none."""
        keys = authentication.keys_of(registered_model(self.client).tags)
        if not keys:
            name, value = authentication.new_key_tag()
            self.client.set_registered_model_tag(MODEL_NAME, name, value)
            keys = authentication.keys_of({name: value})
        return keys


def registered_model(client):
    """Return the registered model, with its tags and aliases; None before there is one."""
    return next(iter(client.search_registered_models(f"name = '{MODEL_NAME}'")), None)


def _with_all_before(named: list[str], stored: dict[str, Entry]) -> tuple[list[Entry], dict[str, Entry | None]]:
    """The entries of these digests and all that they name in turn; of what is missing, which entry names it."""
    found, missing = {}, {}
    ahead: list[tuple[str, Entry | None]] = [(digest, None) for digest in named]
    while ahead:
        digest, by = ahead.pop()
        if digest in found:
            continue
        if digest not in stored:
            missing[digest] = by
            continue
        found[digest] = entry = stored[digest]
        ahead += [(before, entry) for before in entry.facts["previous"]]
    return list(found.values()), missing


def _last(entries: list[Entry]) -> tuple[str, ...]:
    """The digests of the entries that no other names."""
    named = {digest for entry in entries for digest in entry.facts["previous"]}
    return tuple(sorted(e.sha256 for e in entries if e.sha256 not in named))


def _digest(keys: list[str]) -> str:
    return hashlib.sha256("\n".join(keys).encode()).hexdigest() if keys else ""


def _few(names: list[str], shown: int = 5) -> str:
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return f" ({', '.join(names[:shown])}{more})" if names else ""


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
    client.set_model_version_tag(MODEL_NAME, facts["version"], NAMES_ENTRY, entry.key)
    logging.info("version %s: %s", facts["version"], facts["words"])
