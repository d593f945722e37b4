"""Compare the split and every scan of a version with what its run registered."""

import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from components.artifacts.split_file import split_digest
from components.core.errors import StepError
from components.core.step import progress
from components.core.storage import PARALLEL_TRANSFERS, Storage, digest_of, file_sha256
from pipelines.models.link_report import CHANGED, NOT_REACHED, OK, LinkReport, NotReached
from pipelines.models.registry_check import UNREADABLE
from pipelines.models.version_files import VersionFiles

SAME = "every file of the scans below is unchanged"


def check_scans(report: LinkReport, tags: dict[str, str], files: VersionFiles) -> None:
    """Report whether the split, the list of cases and each file of the scans are as they were registered."""
    report.section("split")
    report.compare("split.json", tags.get("split_digest"), lambda: _split_digest(files))
    report.section("data")
    report.compare("cases.json", tags.get("cases_sha256"), lambda: file_sha256(files.of_run("cases.json")))
    try:
        listed = json.loads(files.of_run("cases.json").read_text())
        uri, cases = listed["data_uri"], [(c["case"], c["subset"], c["sources"]) for c in listed["cases"]]
        was = {source["key"]: source["sha256"] for _, _, sources in cases for source in sources}
    except (NotReached, *UNREADABLE) as why:
        return report.link(NOT_REACHED, "every case", f"the list of its scans cannot be read: {why!r}")
    report.fact("data_uri", uri)
    objects: list = []
    gone = ""
    try:
        storage = Storage(uri)
        objects = storage.list()
        gone = "" if objects else f"nothing is stored under {storage.uri} now"
    except StepError as why:
        gone = str(why)
    unread: str | Exception = NotReached("not reached, like all of the data")
    hashed = dict.fromkeys(was, unread) if gone else _hashed(storage, was.keys(), objects)
    if hashed == was and digest_of(objects) != tags.get("data_version"):
        gone = f"other files were added, removed or changed since; {SAME}"
    if gone:
        report.link(NOT_REACHED, "data_version", f"{tags.get('data_version')}: {gone}")
    else:
        report.compare("data_version", tags.get("data_version"), lambda: digest_of(objects))
    report.section(f"cases ({len(cases)}), sha256 of each file at ingest")
    for name, subset, sources in cases:
        print(f"  {name} ({subset or 'in no subset'})")
        for source in sources:
            _source(report, name, source, hashed[source["key"]])


def _split_digest(files: VersionFiles) -> str:
    """Return the digest of the patients of the split, or how its scans differ from those of cases.json."""
    try:
        split = json.loads(files.of_run("split.json").read_text())
        patients, scans = split["patients"], split["cases"]
    except (ValueError, KeyError) as error:
        return f"not a split ({error!r})"
    digest = split_digest(patients)
    cases = json.loads(files.of_run("cases.json").read_text())["cases"]
    patient_of = {c["case"]: c["patient"] for c in cases}
    for subset, names in scans.items():
        if sorted(names) != sorted(c["case"] for c in cases if c["subset"] == subset):
            return f"a split with other {subset} scans than cases.json"
        if {patient_of[name] for name in names} != set(patients[subset]):
            return f"a split with {subset} scans of other patients"
    return digest


def _hashed(storage: Storage, keys: Iterable[str], objects: list) -> dict[str, str | Exception]:
    """Return for each key the SHA-256 of the stored file, or the exception that prevented reading it."""
    there = {o.key for o in objects}

    def one(key: str) -> tuple[str, str | Exception]:
        if key not in there:
            return key, NotReached("the file is missing")
        try:
            return key, storage.sha256(key)
        except StepError as why:
            return key, why

    with ThreadPoolExecutor(PARALLEL_TRANSFERS) as pool:
        ordered = sorted(keys)
        return dict(progress(pool.map(one, ordered), total=len(ordered), what="hashed"))


def _source(report: LinkReport, case: str, source: dict[str, str], found: str | Exception) -> None:
    if isinstance(found, Exception):
        status, text = NOT_REACHED, f": {found}"
    else:
        status, text = (OK, "") if found == source["sha256"] else (CHANGED, f": is {found} now")
    report.found[status].append(case)
    print(f"    {status:<12} {source['sha256']}  {source['key']}{text}")
