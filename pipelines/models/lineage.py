"""`make lineage`: from a model version to every scan that it was made of; what can be reached is hashed again."""

import hashlib
import json
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from components.artifacts.split_file import split_digest
from components.core import code_closure
from components.core.settings import Settings
from components.core.step import StepError, progress
from components.core.storage import PARALLEL_TRANSFERS, Storage, digest_of, file_sha256
from components.register.register import CARD
from components.registry.ledger import NAMES_ENTRY, Ledger, champions
from components.registry.ledger_entry import differences
from components.registry.ledger_pairing import strangers
from components.registry.model_digest import model_digest
from components.registry.tracking import MODEL_NAME, evaluation_digest, waiting_for
from pipelines.image_tags import commit, image, sources_tag
from pipelines.models import registry
from pipelines.models.registry_check import UNREADABLE, description_digest, other_measures, other_numbers
from pipelines.target import as_argument

OK, CHANGED, NOT_REACHED = "OK", "CHANGED", "NOT REACHED"
SAME = "every file of the scans below is as it was"
TAG = re.compile(r":([0-9a-f]{16})(?:@|$)")


class NotReached(Exception):
    """Why something cannot be hashed again."""


class Chain:
    """Prints the links as they are looked at, and keeps count of how they were found."""

    def __init__(self):
        self.found: dict[str, list[str]] = {OK: [], CHANGED: [], NOT_REACHED: []}

    def section(self, title: str) -> None:
        print(f"\n{title}")

    def fact(self, name: str, value) -> None:
        print(f"  {'':<12} {name:<19} {value}")

    def link(self, status: str, what: str, said: str) -> None:
        self.found[status].append(what)
        print(f"  {status:<12} {what:<19} {said}")

    def compare(self, what: str, expected: str | None, find: Callable[[], str]) -> None:
        """OK where `find` gives what is `expected`; `find` raises NotReached or StepError where it cannot."""
        if not expected:
            return self.link(NOT_REACHED, what, "the version was registered without it: nothing to compare with")
        try:
            found = find()
        except (NotReached, StepError, OSError) as why:
            return self.link(NOT_REACHED, what, f"{expected}: {why}")
        except UNREADABLE as error:
            return self.link(CHANGED, what, f"cannot be read any more ({error!r}), was {expected}")
        if found == expected:
            return self.link(OK, what, found)
        self.link(CHANGED, what, f"is {found}, was {expected}")

    def end(self) -> int:
        """Print the summary; 1 where anything changed."""
        counts = {status: len(names) for status, names in self.found.items()}
        print(f"\n{sum(counts.values())} links: " + ", ".join(f"{count} {status}" for status, count in counts.items()))
        if changed := self.found[CHANGED]:
            print(f"CHANGED, this is not what was registered: {_few(changed)}")
        if missed := self.found[NOT_REACHED]:
            print(f"Not verified, for the reasons above: {_few(missed)}")
        elif not changed:
            print("Every link is what it was when this version was registered.")
        return 1 if changed else 0


def lineage(model: str, state: Path, place: str = "local") -> int:
    """Print and verify what `model` (models:/NAME/VERSION or models:/NAME@ALIAS) was made of; 1 where a link changed.

    `place` is the target whose registry, ledger and scans are meant.

    Raises:
        StepError: there is no such version.
    """
    example = f"make lineage{as_argument(place)} MODEL=models:/{MODEL_NAME}/3"
    with registry.connect(place, state) as client, tempfile.TemporaryDirectory() as folder:
        version, chain = registry.version(client, model, example), Chain()
        tags, reached = version.tags, _Artifacts(version, Path(folder))
        print(f"{model} is version {version.version} of {MODEL_NAME}")
        _version(chain, client, version)
        _run(chain, client, version)
        _model(chain, tags, reached)
        _code(chain, tags, reached)
        _training(chain, tags, reached)
        _evaluation(chain, tags, reached)
        _data(chain, tags, reached)
    return chain.end()


class _Artifacts:
    """Files of the registered model and of its MLflow run, each downloaded once, when it is asked for."""

    def __init__(self, version, folder: Path):
        self.version, self.folder = version, folder
        self.known: dict[str, Path | NotReached] = {}

    def model(self) -> Path:
        """The folder of the registered model."""
        uri = f"models:/{self.version.name}/{self.version.version}"
        return self._fetched("the registry's storage", artifact_uri=uri)

    def model_file(self, name: str) -> Path:
        found = next(self.model().rglob(name), None)
        if found is None:
            raise NotReached(f"the registered model holds no {name}")
        return found

    def of_run(self, name: str) -> Path:
        return self._fetched(f"MLflow run {self.version.run_id}", run_id=self.version.run_id, artifact_path=name)

    def _fetched(self, where: str, **what: str) -> Path:
        import mlflow

        key = "/".join(what.values())
        if key not in self.known:
            try:
                folder = tempfile.mkdtemp(dir=self.folder)
                with waiting_for(" ".join(what.values())):
                    self.known[key] = Path(mlflow.artifacts.download_artifacts(**what, dst_path=folder))
            except Exception as error:  # of MLflow, of HTTP, of the storage behind: it is not there for us
                said = " ".join(str(error).split())[:160]
                self.known[key] = NotReached(f"{where} does not give it: {said}")
        if isinstance(found := self.known[key], NotReached):
            raise found
        return found


def _version(chain: Chain, client, version) -> None:
    chain.section("version")
    chain.fact("name", f"{version.name}, version {version.version}, {', '.join(version.aliases) or 'no alias'}")
    chain.fact("decision", version.tags.get("decision", "none"))
    chain.compare("description", version.tags.get("description_sha256"), lambda: description_digest(version))
    key = version.tags.get(NAMES_ENTRY)
    if not key:
        return chain.link(NOT_REACHED, "ledger entry", "no decision about this version is on record")
    ledger = Ledger()
    try:
        other, entries = strangers(ledger), ledger.entries()
    except StepError as why:
        return chain.link(NOT_REACHED, "ledger entry", str(why))
    if other:
        return chain.link(NOT_REACHED, "ledger entry", f"{key}: {other}")
    for fault in ledger.faults:
        chain.link(CHANGED, "ledger", fault)
    for what in ledger.unchecked:
        chain.link(NOT_REACHED, "ledger", what)
    if "champion" in version.aliases and champions(entries)[-1:] != [str(version.version)]:
        chain.link(CHANGED, "champion", f"by the ledger it is version {(champions(entries) or ['none'])[-1]}")
    entry = next((e for e in entries if e.key == key), None)
    if entry is None and ledger.gave_up(key):
        return chain.link(NOT_REACHED, "ledger entry", f"{ledger.uri}/{key} is lost, and a person gave it up")
    if entry is None:
        return chain.link(CHANGED, "ledger entry", f"{ledger.uri}/{key} is not there, or not this registry's")
    if other := ", ".join(differences(entry, version)):
        return chain.link(CHANGED, "ledger entry", f"decision {entry.facts['number']} was about another {other}")
    chain.link(OK, "ledger entry", f"decision {entry.facts['number']}, {entry.facts['when'][:10]}, {key}")


def _run(chain: Chain, client, version) -> None:
    from mlflow.exceptions import MlflowException

    chain.section("MLflow run")
    try:
        run = client.get_run(version.run_id)
    except MlflowException as error:
        return chain.link(NOT_REACHED, "run", f"{version.run_id}: {str(error)[:160]}")
    chain.fact("run", f"{version.run_id} ({run.info.run_name}), {run.info.lifecycle_stage}")
    for name in ("data_version", "split_digest", "training_digest", "evaluation_digest"):
        chain.compare(name, version.tags.get(name), lambda name=name: run.data.tags.get(name, "not among its tags"))


def _model(chain: Chain, tags: dict, reached: _Artifacts) -> None:
    chain.section("model")
    chain.compare(
        "best_model.pth", tags.get("weights_sha256"), lambda: file_sha256(reached.model_file("best_model.pth"))
    )
    chain.compare("model.json", tags.get("facts_sha256"), lambda: file_sha256(reached.model_file("model.json")))
    chain.compare("its code", tags.get("code_sha256"), lambda: _packed(reached.model()))
    chain.compare("all its files", tags.get("model_sha256"), lambda: model_digest(reached.model()))
    chain.compare("model card", tags.get("card_sha256"), lambda: file_sha256(reached.of_run(f"{CARD}/{CARD}.json")))
    _numbers(chain, "the card's numbers", f"{CARD}/{CARD}.json", reached, lambda card: other_numbers(tags, card))


def _numbers(chain: Chain, what: str, file: str, reached: _Artifacts, compared: Callable[[dict], list[str]]) -> None:
    """Compare the registry's numbers, which are tags, with those of a JSON file of the run."""
    try:
        other = compared(json.loads(reached.of_run(file).read_text()))
    except (NotReached, *UNREADABLE) as why:
        return chain.link(NOT_REACHED, what, f"{file}: {why!r}")
    if other:
        return chain.link(CHANGED, what, f"the registry's tags say something else: {', '.join(other)}")
    chain.link(OK, what, "the registry's tags say the same")


def _packed(model: Path) -> str:
    """Return the digest of the code that came with the model; MLflow runs the entry file's copy beside that folder."""
    code, entry = model / "code", code_closure.MODEL
    if not (code / entry).is_file():
        raise NotReached(f"the registered model holds no {entry}")
    copy = model / Path(entry).name
    if file_sha256(copy) != file_sha256(code / entry):
        return f"its {copy.name} is not the one of its code"
    try:
        imported = code_closure.closure(entry, root=code)
    except SyntaxError as error:
        return f"its code is not Python: {error}"
    packed = {path.relative_to(code).as_posix() for path in code.rglob("*") if path.is_file()}
    if unused := sorted(path for path in packed - {*imported} if "__pycache__" not in path):
        return f"its code holds {unused[0]}, which it does not import"
    return code_closure.files_digest(imported, code)


def _code(chain: Chain, tags: dict, reached: _Artifacts) -> None:
    chain.section("image and code")
    made_of, tagged = tags.get("git_commit"), tags.get("image_tag")
    chain.fact("git commit", made_of or "none: the code came from no git checkout")
    here = commit()
    chain.fact("this checkout", here or "no git checkout")

    def of_checkout(what: str, expected: str | None, shown: str, found: set[str]) -> None:
        if not expected:
            return chain.link(NOT_REACHED, what, "the version was registered without it: nothing to compare with")
        if expected in found:
            return chain.link(OK, what, shown)
        if here and here == made_of and not here.endswith("-dirty"):
            return chain.link(CHANGED, what, f"{shown}: the same commit gives {', '.join(sorted(found))} here")
        known = made_of and made_of not in ("unknown",) and not made_of.endswith("-dirty")
        do = f"git checkout {made_of}, and again" if known else "no commit holds that code"
        chain.link(NOT_REACHED, what, f"{shown}: this checkout is of other code; {do}")

    match = TAG.search(tagged or "")
    of_checkout("image", match and match[1], str(tagged), {image("train").rpartition(":")[2], sources_tag()})
    try:
        code = _facts(reached)["decides"]["code"]
    except (NotReached, *UNREADABLE):
        code = None
    of_checkout("training's code", code, str(code), {code_closure.steps_digest(*code_closure.TRAINING_STEPS)})


def _training(chain: Chain, tags: dict, reached: _Artifacts) -> None:
    chain.section("training")

    def decided() -> str:
        decides = _facts(reached).get("decides")
        if decides is None:
            raise NotReached("its model.json does not say what went into it")
        for name, there in (("data_version", decides["data"]), ("split_digest", decides["split"])):
            if there != tags.get(name):
                return f"of another {name}, {there}"
        return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()

    chain.compare("training_digest", tags.get("training_digest"), decided)
    try:
        params = _facts(reached).get("params", {})
    except (NotReached, *UNREADABLE):
        return
    for name in Settings.model_fields:
        if name in params:
            chain.fact(name, params[name])


def _facts(reached: _Artifacts) -> dict:
    return json.loads(reached.model_file("model.json").read_text())


def _evaluation(chain: Chain, tags: dict, reached: _Artifacts) -> None:
    chain.section("evaluation")

    def measured() -> str:
        results = reached.of_run("test_metrics.json")
        return evaluation_digest(reached.model_file("best_model.pth").parent, results.parent)

    chain.compare("evaluation_digest", tags.get("evaluation_digest"), measured)
    chain.compare(
        "test_metrics.json", tags.get("metrics_sha256"), lambda: file_sha256(reached.of_run("test_metrics.json"))
    )
    _numbers(chain, "its numbers", "test_metrics.json", reached, lambda found: other_measures(tags, found["summary"]))


def _data(chain: Chain, tags: dict, reached: _Artifacts) -> None:
    chain.section("split")
    chain.compare("split.json", tags.get("split_digest"), lambda: _split_digest(reached))
    chain.section("data")
    chain.compare("cases.json", tags.get("cases_sha256"), lambda: file_sha256(reached.of_run("cases.json")))
    try:
        listed = json.loads(reached.of_run("cases.json").read_text())
        uri, cases = listed["data_uri"], [(c["case"], c["subset"], c["sources"]) for c in listed["cases"]]
        was = {source["key"]: source["sha256"] for _, _, sources in cases for source in sources}
    except (NotReached, *UNREADABLE) as why:
        return chain.link(NOT_REACHED, "every case", f"which scans they were is not known: {why!r}")
    chain.fact("data_uri", uri)
    objects, gone = [], ""
    try:
        storage = Storage(uri)
        objects = storage.list()
        gone = "" if objects else f"nothing is stored under {storage.uri} any more"
    except StepError as why:
        gone = str(why)
    unread = NotReached("not reached, as all of the data")
    hashed = dict.fromkeys(was, unread) if gone else _hashed(storage, was.keys(), objects)
    if hashed == was and digest_of(objects) != tags.get("data_version"):
        gone = f"other files came, went or changed since; {SAME}"
    if gone:
        chain.link(NOT_REACHED, "data_version", f"{tags.get('data_version')}: {gone}")
    else:
        chain.compare("data_version", tags.get("data_version"), lambda: digest_of(objects))
    chain.section(f"cases ({len(cases)}), sha256 of each file as it was ingested")
    for name, subset, sources in cases:
        print(f"  {name} ({subset or 'in no subset'})")
        for source in sources:
            _source(chain, name, source, hashed[source["key"]])


def _split_digest(reached: _Artifacts) -> str:
    """Recomputed from its patients; its scans must be those of cases.json."""
    try:
        split = json.loads(reached.of_run("split.json").read_text())
        patients, scans = split["patients"], split["cases"]
    except (ValueError, KeyError) as error:
        return f"no split any more ({error!r})"
    digest = split_digest(patients)
    cases = json.loads(reached.of_run("cases.json").read_text())["cases"]
    patient_of = {c["case"]: c["patient"] for c in cases}
    for subset, names in scans.items():
        if sorted(names) != sorted(c["case"] for c in cases if c["subset"] == subset):
            return f"of other {subset} scans than cases.json"
        if {patient_of[name] for name in names} != set(patients[subset]):
            return f"of {subset} scans of other patients"
    return digest


def _hashed(storage: Storage, keys: Iterable[str], objects: list) -> dict[str, str | Exception]:
    """Key to the SHA-256 of what is stored there now, or to why it cannot be read."""
    there = {o.key for o in objects}

    def one(key: str) -> tuple[str, str | Exception]:
        if key not in there:
            return key, NotReached("it is not there any more")
        try:
            return key, storage.sha256(key)
        except StepError as why:
            return key, why

    with ThreadPoolExecutor(PARALLEL_TRANSFERS) as pool:
        ordered = sorted(keys)
        return dict(progress(pool.map(one, ordered), total=len(ordered), what="hashed"))


def _source(chain: Chain, case: str, source: dict[str, str], found: str | Exception) -> None:
    if isinstance(found, Exception):
        status, said = NOT_REACHED, f": {found}"
    else:
        status, said = (OK, "") if found == source["sha256"] else (CHANGED, f": is {found} now")
    chain.found[status].append(case)
    print(f"    {status:<12} {source['sha256']}  {source['key']}{said}")


def _few(names: list[str], shown: int = 10) -> str:
    counted = [f"{name} ({count} files)" if count > 1 else name for name, count in Counter(names).items()]
    return ", ".join(counted[:shown]) + (f" and {len(counted) - shown} more" if len(counted) > shown else "")
