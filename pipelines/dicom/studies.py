"""Find the DICOM studies in a folder, each in a folder of its own."""

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from components.core.errors import StepError
from components.core.text import shown
from components.scans.geometry import BadVolume
from pipelines.dicom.choose import Chosen, choose, is_named
from pipelines.dicom.dicom_files import lacks_file_header
from pipelines.dicom.headers import Series, read_series


@dataclass(frozen=True)
class Study:
    """A study: the folder ("" or without a final /) that holds all of its files, its series, and why it is refused."""

    home: str
    series: list[Series]
    problem: str = ""

    def chosen(self, wanted: frozenset[str]) -> Chosen:
        """Return the volumes that are taken of the study.

        Raises:
            BadVolume: the study is refused.
        """
        if self.problem:
            raise BadVolume(self.problem)
        return choose(self.series, wanted)


def find_studies(folder: Path, keys: list[str], wanted: frozenset[str]) -> list[Study]:
    """Return the studies among the DICOM files `keys` of a folder, sorted by their folders.

    wanted: numbers and UIDs of series, as in SERIES. A UID there decides between the studies of one folder.

    Raises:
        StepError: a name in `wanted` is that of no series, or there is no MR image.
    """
    series, broken, other_kinds = read_series(folder / key for key in keys)
    _require_known(wanted, series)
    if not series and not broken:
        raise StepError(f"no MR images among the {len(keys)} DICOM files of {folder}. Give the folder of a DWI study.")
    by_study: dict[str, list[Series]] = defaultdict(list)
    for one in series:
        by_study[one.study].append(one)
    homes = {uid: _home(folder, [path for one in found for path in one.files]) for uid, found in by_study.items()}
    chosen = {uid for uid, found in by_study.items() if any(one.uid in wanted for one in found)}
    studies = []
    for uid, found in by_study.items():
        others = [o for o in homes if o != uid and _within(homes[o], homes[uid])]
        rivals = chosen.intersection(others)
        if rivals and uid not in chosen:
            continue
        problem = ""
        if others and (rivals or uid not in chosen):
            people = len({one.patient for o in (uid, *others) for one in by_study[o]})
            problem = (
                f"{len(others) + 1} studies of {people} patient{'s' * (people > 1)} are in one folder "
                f"({homes[uid] or '.'}). Give each study a folder of its own, or name a series of one: SERIES=UID. "
                f"Found: {'; '.join(f'{one.named}, UID {one.uid}' for o in (uid, *others) for one in by_study[o][:3])}"
            )
        if bad := [path for path in broken if _is_inside(_home(folder, [path]), homes[uid])]:
            problem = f"an image may be missing: {_unreadable(bad[0])}"
        studies.append(Study(homes[uid], found, problem))
    for path in broken:
        home = _home(folder, [path])
        if not any(_is_inside(home, study.home) for study in studies):
            studies.append(Study(home, [], _unreadable(path)))
    tops = {path.relative_to(folder).parts[0] for path in other_kinds if path.parent != folder}
    for top in tops - {PurePosixPath(study.home or ".").parts[0] for study in studies if study.home}:
        if not any(study.home == "" for study in studies):
            studies.append(Study(top, [], "none of its DICOM files is an MR image. Export the DWI too"))
    return sorted(studies, key=lambda study: study.home)


def _unreadable(path: Path) -> str:
    if lacks_file_header(path):
        return (
            f"{shown(path.name)} lacks the header of a DICOM file (128 bytes and DICM). Export it from the archive as "
            "DICOM files (Part 10)"
        )
    return f"{shown(path.name)} is not readable as DICOM. Copy it again"


def _require_known(wanted: frozenset[str], series: list[Series]) -> None:
    for name in wanted:
        if not any(is_named(one, frozenset({name})) for one in series):
            found = "; ".join(f"{one.named}, UID {one.uid}" for one in series[:20]) or "none"
            raise StepError(f"SERIES={shown(name)} is the number or UID of no series here. Found: {found}.")


def _home(folder: Path, paths: list[Path]) -> str:
    """Return the key of the folder that holds all of these files; "" for `folder` itself."""
    parents = [path.relative_to(folder).parent.parts for path in paths]
    common = []
    for names in zip(*parents, strict=False):
        if len(set(names)) > 1:
            break
        common.append(names[0])
    return PurePosixPath(*common).as_posix() if common else ""


def own_folder(home: str, others: list[str]) -> str:
    """Return the widest folder around a study, below the top, that holds no other study: often that of the patient."""
    parts = PurePosixPath(home).parts
    around = ["/".join(parts[:number]) for number in range(1, len(parts) + 1)]
    return next((folder for folder in around if not any(_is_inside(other, folder) for other in others)), home)


def _within(a: str, b: str) -> bool:
    """Return whether one of two folders is the other, or inside it."""
    return _is_inside(a, b) or _is_inside(b, a)


def _is_inside(inner: str, outer: str) -> bool:
    return PurePosixPath(inner).is_relative_to(PurePosixPath(outer))
