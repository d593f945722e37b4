"""Read the test scans of the parent again, so that evaluate can measure what a fine-tuned model has forgotten."""

import logging
import shutil
from pathlib import Path

from components.artifacts.cases import PARENT_TESTS, Cases, Source
from components.artifacts.evaluation import ScanDigests
from components.core.errors import StepError
from components.core.storage import Storage, file_sha256, local_path, scratch
from components.core.text import is_pseudonym
from components.ingest.discover import discover
from components.ingest.ingest import METADATA, check
from components.registry.parent import ancestors


def ingest_parent_tests(parent: str, cases: Path, b_value: float = 0, modality_check: bool = True) -> None:
    """Write the test scans of the parent into the folder `PARENT_TESTS` of `cases`, as `ingest` writes scans.

    A scan is left out if its files are gone, or are not those that the parent was tested on. None is read if this run
    has pseudonyms, and the parent's run had names. Why scans are missing stands in the notes; no such reason stops the
    run.

    Args:
        parent: Address and digest of the parent, from fingerprint.
        cases: Folder of the cases of this run.
        b_value: As for `ingest`.
        modality_check: As for `ingest`.

    Raises:
        StepError: MLflow does not answer.
    """
    nearest = ancestors(parent)[0]
    folder = cases / PARENT_TESTS
    try:
        if nearest.scans is None:
            raise StepError(f"the test scans of {nearest.address} are unknown")
        ours, theirs = Cases.read(cases).cases, nearest.scans.cases
        if all(is_pseudonym(c.patient) for c in ours) and not all(is_pseudonym(c.patient) for c in theirs):
            raise StepError(
                f"{nearest.address} was tested on patients under their own names, and this run has pseudonyms"
            )
        found = _ingest(nearest.scans, folder, b_value, modality_check)
    except StepError as why:
        logging.warning("forgetting will not be measured: %s", why)
        uri, version = (nearest.scans.data_uri, nearest.scans.data_version) if nearest.scans else ("unknown", "unknown")
        found = Cases(
            layout=None, cases=[], refused={}, ignored=[], notes=[str(why)], synthetic=False, data_uri=uri,
            data_version=version,
        )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    found.write(folder)


def _ingest(scans: ScanDigests, folder: Path, b_value: float, modality_check: bool) -> Cases:
    """Download and validate the test scans of `scans` whose files are unchanged.

    Raises:
        StepError: the storage does not answer, or no such scan is there.
    """
    sources = {case.case: case.sources for case in scans.cases if case.subset == "test"}
    storage = Storage(scans.data_uri)
    objects = {o.key: o for o in storage.list()}
    downloads = scratch() / f"parent-tests-{scans.data_version[:16]}"

    def unchanged(source: Source) -> bool:
        path = local_path(downloads, source.key)
        return path.is_file() and file_sha256(path) == source.sha256

    try:
        wanted = {source.key for files in sources.values() for source in files} | METADATA
        storage.download([objects[key] for key in wanted & objects.keys()], downloads)
        same = {case for case, files in sources.items() if all(map(unchanged, files))}
        if not same:
            raise StepError(f"none of the {len(sources)} test scans of the parent is unchanged under {scans.data_uri}")
        keys = {source.key for case in same for source in sources[case]}
        checked = check(
            discover(keys), downloads, folder, b_value, modality_check,
            data_uri=scans.data_uri, data_version=scans.data_version,
        )  # fmt: skip
    finally:
        shutil.rmtree(downloads, ignore_errors=True)
    notes = [f"{case}: {why}" for case, why in checked.refused.items()]
    if changed := sorted(sources.keys() - same):
        notes.append(f"test scans of the parent that were changed or removed: {', '.join(changed)}")
    logging.info("%d of %d test scans of the parent can be measured again", len(checked.cases), len(sources))
    return checked.model_copy(update={"notes": notes})
