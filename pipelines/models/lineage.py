"""`make lineage`: print what a model version was made from, down to every scan, and hash all that can be reached.

Here `lineage` means this chain of links. The `lineage` of a split, elsewhere, is its history.
"""

import hashlib
import json
import re
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from components.artifacts.trained_model import WEIGHTS
from components.core import code_closure
from components.core.errors import StepError
from components.core.settings import Settings
from components.core.storage import Storage, file_sha256
from components.register.register import CARD
from components.registry.ledger import NAMES_ENTRY, Ledger, champion_stack
from components.registry.ledger_entry import changes_since
from components.registry.ledger_pairing import pairing_problem
from components.registry.model_digest import model_digest
from components.registry.parent import TAG as PARENT_TAG
from components.registry.parent import address_of, ancestors
from components.registry.run_records import evaluation_digest
from components.registry.tracking import MODEL_NAME
from pipelines.image_tags import commit, image, sources_tag
from pipelines.models import registry
from pipelines.models.link_report import CHANGED, NOT_REACHED, NOT_REGISTERED, OK, LinkReport, NotReached
from pipelines.models.network_lineage import check_networks
from pipelines.models.registry_check import UNREADABLE, description_digest, other_measures, other_numbers
from pipelines.models.scan_lineage import check_scans
from pipelines.models.version_files import VersionFiles
from pipelines.target_name import as_argument

TAG = re.compile(r":([0-9a-f]{16})(?:@|$)")


def lineage(model: str, state: Path, place: str = "local") -> int:
    """Print and verify what `model` (models:/NAME/VERSION or models:/NAME@ALIAS) was made from.

    `place` is the target with the registry, the ledger and the scans. The exit code is 1 if a link changed.

    Raises:
        StepError: the version does not exist.
    """
    example = f"make lineage{as_argument(place)} MODEL=models:/{MODEL_NAME}/3"
    with registry.connect(place, state) as client, tempfile.TemporaryDirectory() as folder:
        version, report = registry.version(client, model, example), LinkReport()
        tags, files = version.tags, VersionFiles(version, Path(folder))
        print(f"{model} is version {version.version} of {MODEL_NAME}")
        _version(report, client, version)
        _run(report, client, version)
        _model(report, tags, files)
        _code(report, tags, files)
        _training(report, tags, files)
        _networks(report, client, files)
        _parent(report, client, tags, Path(folder))
        _evaluation(report, tags, files)
        check_scans(report, tags, files)
    return report.end()


def _version(report: LinkReport, client: Any, version: Any) -> None:
    report.section("version")
    report.fact("name", f"{version.name}, version {version.version}, {', '.join(version.aliases) or 'no alias'}")
    report.fact("decision", version.tags.get("decision", "none"))
    report.compare("description", version.tags.get("description_sha256"), lambda: description_digest(version))
    key = version.tags.get(NAMES_ENTRY)
    if not key:
        return report.link(NOT_REACHED, "ledger entry", "the ledger has no decision about this version")
    ledger = Ledger()
    try:
        other, entries = pairing_problem(ledger), ledger.entries()
    except StepError as why:
        return report.link(NOT_REACHED, "ledger entry", str(why))
    if other:
        return report.link(NOT_REACHED, "ledger entry", f"{key}: {other}")
    for fault in ledger.faults:
        report.link(CHANGED, "ledger", fault)
    for what in ledger.unchecked:
        report.link(NOT_REACHED, "ledger", what)
    if "champion" in version.aliases and champion_stack(entries)[-1:] != [str(version.version)]:
        report.link(CHANGED, "champion", f"the ledger says version {(champion_stack(entries) or ['none'])[-1]}")
    entry = next((e for e in entries if e.key == key), None)
    if entry is None and ledger.is_given_up(key):
        return report.link(NOT_REACHED, "ledger entry", f"{ledger.uri}/{key} is lost, and a person declared it lost")
    if entry is None:
        return report.link(CHANGED, "ledger entry", f"{ledger.uri}/{key} is missing, or belongs to another registry")
    if other := ", ".join(changes_since(entry, version)):
        return report.link(CHANGED, "ledger entry", f"decision {entry.facts['number']} is for another {other}")
    report.link(OK, "ledger entry", f"decision {entry.facts['number']}, {entry.facts['when'][:10]}, {key}")


def _run(report: LinkReport, client: Any, version: Any) -> None:
    from mlflow.exceptions import MlflowException

    report.section("MLflow run")
    try:
        run = client.get_run(version.run_id)
    except MlflowException as error:
        return report.link(NOT_REACHED, "run", f"{version.run_id}: {str(error)[:160]}")
    report.fact("run", f"{version.run_id} ({run.info.run_name}), {run.info.lifecycle_stage}")
    for name in ("data_version", "split_digest", "training_digest", "evaluation_digest"):
        report.compare(name, version.tags.get(name), partial(run.data.tags.get, name, "missing in the tags of the run"))


def _model(report: LinkReport, tags: dict[str, str], files: VersionFiles) -> None:
    report.section("model")
    report.compare(
        "best_model.pth", tags.get("weights_sha256"), lambda: file_sha256(files.model_file("best_model.pth"))
    )
    report.compare("model.json", tags.get("facts_sha256"), lambda: file_sha256(files.model_file("model.json")))
    report.compare("its code", tags.get("code_sha256"), lambda: _packed(files.model()))
    report.compare("all its files", tags.get("model_sha256"), lambda: model_digest(files.model()))
    report.compare("model card", tags.get("card_sha256"), lambda: file_sha256(files.of_run(f"{CARD}/{CARD}.json")))
    _numbers(report, "the card's numbers", f"{CARD}/{CARD}.json", files, lambda card: other_numbers(tags, card))


def _numbers(
    report: LinkReport, what: str, file: str, files: VersionFiles, compared: Callable[[dict], list[str]]
) -> None:
    """Report whether the numbers in the registry's tags are those of a JSON file of the run."""
    try:
        other = compared(json.loads(files.of_run(file).read_text()))
    except (NotReached, *UNREADABLE) as why:
        return report.link(NOT_REACHED, what, f"{file}: {why!r}")
    if other:
        return report.link(CHANGED, what, f"the registry's tags have other numbers: {', '.join(other)}")
    report.link(OK, what, "the registry's tags have the same numbers")


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
        return f"other code: it holds {unused[0]}, which nothing imports"
    return code_closure.files_digest(imported, code)


def _code(report: LinkReport, tags: dict[str, str], files: VersionFiles) -> None:
    report.section("image and code")
    made_of, tagged = tags.get("git_commit"), tags.get("image_tag")
    report.fact("git commit", made_of or "none: the code was not a git checkout")
    here = commit()
    report.fact("this checkout", here or "not a git checkout")

    def of_checkout(what: str, expected: str | None, shown: str, found: set[str]) -> None:
        if not expected:
            return report.link(NOT_REACHED, what, NOT_REGISTERED)
        if expected in found:
            return report.link(OK, what, shown)
        if here and here == made_of and not here.endswith("-dirty"):
            return report.link(CHANGED, what, f"{shown}: the same commit gives {', '.join(sorted(found))} here")
        has_commit = made_of and made_of != "unknown" and not made_of.endswith("-dirty")
        advice = f"git checkout {made_of} and run this again" if has_commit else "no commit has that code"
        report.link(NOT_REACHED, what, f"{shown}: this checkout has other code; {advice}")

    match = TAG.search(tagged or "")
    of_checkout("image", match and match[1], str(tagged), {image("train").rpartition(":")[2], sources_tag()})
    try:
        code = _facts(files)["decides"]["code"]
    except (NotReached, *UNREADABLE):
        code = None
    of_checkout("training's code", code, str(code), {code_closure.steps_digest(*code_closure.TRAINING_STEPS)})


def _training(report: LinkReport, tags: dict[str, str], files: VersionFiles) -> None:
    report.section("training")

    def decided() -> str:
        decides = _facts(files).get("decides")
        if decides is None:
            raise NotReached("its model.json does not name what decided the training")
        for name, there in (("data_version", decides["data"]), ("split_digest", decides["split"])):
            if there != tags.get(name):
                return f"a training with another {name}, {there}"
        return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()

    report.compare("training_digest", tags.get("training_digest"), decided)
    try:
        params = _facts(files).get("params", {})
    except (NotReached, *UNREADABLE):
        return
    for name in Settings.model_fields:
        if name in params:
            report.fact(name, params[name])


def _networks(report: LinkReport, client: Any, files: VersionFiles) -> None:
    """Report on the networks of an ensemble."""
    try:
        networks = _facts(files).get("networks") or []
        check_networks(report, client, networks, files)
    except (NotReached, *UNREADABLE) as why:
        report.link(NOT_REACHED, "its networks", f"model.json does not name them: {why!r}")


def _parent(report: LinkReport, client: Any, tags: dict[str, str], folder: Path) -> None:
    """Report from which model the training started, and whether that model's weights are what they were."""
    from mlflow.exceptions import MlflowException

    parent = tags.get(PARENT_TAG)
    if not parent:
        return
    report.section("parent")
    report.fact("started from", address_of(parent))
    for earlier in ancestors(parent)[1:]:
        report.fact("which started from", earlier.address)

    def weights() -> str:
        name, _, number = address_of(parent).removeprefix("models:/").partition("/")
        if parent.startswith("s3://"):
            return Storage(address_of(parent)).sha256(WEIGHTS)
        try:
            version = client.get_model_version(name, number)
        except MlflowException as error:
            raise NotReached(str(error)[:160]) from None
        return file_sha256(VersionFiles(version, folder).model_file(WEIGHTS))

    report.compare("parent's weights", parent.rpartition("#")[2], weights)


def _facts(files: VersionFiles) -> dict:
    return json.loads(files.model_file("model.json").read_text())


def _evaluation(report: LinkReport, tags: dict[str, str], files: VersionFiles) -> None:
    report.section("evaluation")

    def measured() -> str:
        results = files.of_run("test_metrics.json")
        return evaluation_digest(files.model_file("best_model.pth").parent, results.parent)

    report.compare("evaluation_digest", tags.get("evaluation_digest"), measured)
    report.compare(
        "test_metrics.json", tags.get("metrics_sha256"), lambda: file_sha256(files.of_run("test_metrics.json"))
    )
    _numbers(report, "its numbers", "test_metrics.json", files, lambda found: other_measures(tags, found["summary"]))
