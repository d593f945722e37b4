"""`make package`: make an image that segments with one registered version, without MLflow, S3 or a network."""

import contextlib
import fcntl
import logging
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from components.artifacts.synthetic import WARNING, is_synthetic
from components.artifacts.trained_model import TENSORS, WEIGHTS, TrainedModel
from components.core.code_closure import closure_digest, copy_closure
from components.core.errors import StepError
from components.core.local_files import file_sha256
from components.core.text import shown
from components.register.card import Card
from components.register.register import CARD as CARD_OF_RUN
from components.registry.model_digest import model_digest
from pipelines.file_lock import lock
from pipelines.image_tags import ROOT, commit
from pipelines.models.link_report import NotReached
from pipelines.models.registry import require_champion, version
from pipelines.models.version_files import VersionFiles
from pipelines.predict import shareable
from pipelines.predict.packed_model import CARD, FACTS, MODEL, Package
from pipelines.predict.registered_model import say_if_code_differs
from pipelines.predict.verified_model import fetch
from pipelines.target import target
from pipelines.target_name import as_argument

ENTRY = "pipelines/predict/bids_app.py"
STAGED = ROOT / ".local" / "staged-package"
REQUIREMENTS = ROOT / "images" / "requirements-segment.txt"
EXAMPLE = "make package MODEL=models:/dwi-attention-unet/3"


def package(uri: str, state: Path, registry: str = "", place: str = "local", digest: str = "") -> None:
    """Make the image `dwi-stroke/segment:VERSION`, or `REGISTRY/segment:VERSION`, of a registered version.

    Raises:
        StepError: there is no such version, it differs from the registered one, the image cannot be built, or another
            make package is running in this checkout.
    """
    with _alone():
        try:
            with target(place).tracking(state):
                name, number = stage(uri, STAGED, registry, place, digest)
            command = [str(ROOT / "images" / "build"), "--segment", number, *filter(None, [registry])]
            if subprocess.run(command).returncode:
                raise StepError("the image was not built. The lines above say why.")
        finally:
            shutil.rmtree(STAGED, ignore_errors=True)
    print(
        f"{name} segments without a network:\n  docker run --rm --network none --read-only --tmpfs /tmp "
        f'--user "$(id -u):$(id -g)" -v /my/scans:/in:ro -v /my/results:/out {name} /in /out participant\n'
        "Research use only. docs/predicting.md has more."
    )


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Hold the staged folder for one call: two calls would pack one version under the other's name."""
    STAGED.parent.mkdir(parents=True, exist_ok=True)
    with STAGED.with_suffix(".lock").open("a") as file:
        try:
            lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StepError("another make package is running in this checkout. Wait until it ends.") from None
        yield


def stage(uri: str, folder: Path, registry: str = "", place: str = "local", digest: str = "") -> tuple[str, str]:
    """Write code, model and pins of a version into a new `folder`; return the image's name and the version.

    Raises:
        StepError: there is no such version, it has no weights of ours, or it differs from the registered one.
    """
    import mlflow
    from mlflow.exceptions import MlflowException

    client = mlflow.MlflowClient()
    require_champion(client, uri, place)
    found = version(client, uri.strip(), EXAMPLE)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as temporary:
        try:
            stored, address, tags = fetch(client, uri, Path(temporary), place, digest)
        except (MlflowException, OSError) as error:
            raise StepError(f"no model {shown(uri)}: {shown(str(error), 200)}. {EXAMPLE}") from None
        say_if_code_differs(address, tags)
        if is_synthetic(tags):
            logging.warning("%s %s", address, WARNING)
        packed = folder / "package"
        _copy_model(stored, packed / MODEL, address)
        (folder / "requirements.txt").write_text(_requirements(TrainedModel.read(packed / MODEL)))
        (packed / CARD).write_text(_card(found, address, as_argument(place)), encoding="utf-8")
        copy_closure(ENTRY, folder / "code")
        image = f"{registry.rstrip('/') or 'dwi-stroke'}/segment:{found.version}"
        files = sorted(path for path in packed.rglob("*") if path.is_file())
        facts = Package(
            image=image, uri=address, version=str(found.version), model_sha256=model_digest(stored),
            code_sha256=closure_digest(ENTRY), commit=commit(), synthetic=is_synthetic(tags),
            files={path.relative_to(packed).as_posix(): file_sha256(path) for path in files},
        )  # fmt: skip
        (packed / FACTS).write_text(facts.model_dump_json(indent=1), encoding="utf-8")
    return image, str(found.version)


def _copy_model(stored: Path, folder: Path, address: str) -> None:
    weights = next(stored.rglob(WEIGHTS), None)
    if weights is None or not weights.with_name(TrainedModel.FILE).is_file():
        raise StepError(f"{address} has no {WEIGHTS} with {TrainedModel.FILE}: it is too old. Register a new version.")
    folder.mkdir(parents=True)
    for name in (WEIGHTS, TENSORS):
        if (file := weights.with_name(name)).is_file():
            shutil.copy(file, folder)
    shareable.write_model(weights.with_name(TrainedModel.FILE), folder / TrainedModel.FILE)


def _requirements(trained: TrainedModel) -> str:
    """Return the pins of the image: without SimpleITK, a quarter of its size, if the model uses no N4 correction."""
    lines = REQUIREMENTS.read_text().splitlines(keepends=True)
    return "".join(line for line in lines if trained.n4_bias_correction or not line.startswith("simpleitk=="))


def _card(found: Any, address: str, there: str) -> str:
    """Return the card of a version as Markdown without names, from the JSON whose digest the registry holds.

    Raises:
        StepError: the card cannot be reached, or it was altered.
    """
    first = f"{address}. **Research use only. Not a medical device.**"
    if "card_sha256" not in found.tags:
        return f"# {address}\n\n{first}\n\nThis version was registered without a model card.\n"
    with tempfile.TemporaryDirectory() as folder:
        try:
            file = VersionFiles(found, Path(folder)).of_run(f"{CARD_OF_RUN}/{CARD_OF_RUN}.json")
        except NotReached as why:
            raise StepError(f"the model card of {address} is missing: {why}. Run the command again.") from None
        if file_sha256(file) != found.tags["card_sha256"]:
            raise StepError(
                f"the model card of {address} is not the one that was registered (tag card_sha256). See make lineage"
                f"{there} MODEL={address}, and use another version."
            )
        text = file.read_text(encoding="utf-8")
    try:
        return shareable.card_markdown(Card.model_validate_json(text), first)
    except ValidationError:
        reason = "Its model card was written by older code, and it may name patients, so it is not packed."
        where = f"The registry has it, with this version (SHA-256 {found.tags['card_sha256']})."
        return f"# {address}\n\n{first}\n\n{reason} {where}\n"
