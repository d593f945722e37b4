"""List the files in a folder that a person names."""

import logging
import os
from collections.abc import Callable
from pathlib import Path

from components.core.errors import StepError
from components.core.text import shown
from components.ingest.file_names import name_problem

SKIPPED = ("Thumbs.db", "__MACOSX")


def files_of(folder: Path, called: Callable[[str], str] = shown) -> dict[str, tuple[int, int]]:
    """Return key to (size, modification time) of the files of a resolved folder, without hidden ones.

    These are left out and logged: links to folders, out of the folder and to nothing; names that no object can have.
    `called` writes a name for the log.

    Raises:
        StepError: a folder or a file in it cannot be read.
    """
    files = {}
    for path in _paths_below(folder, called):
        name = path.relative_to(folder)
        if any(part.startswith(".") or part in SKIPPED for part in name.parts):
            continue
        if path.is_symlink() and (what := _no_good_link(path, folder)):
            advice = "Copy it in, or give its target as DATA."
            logging.warning("left out: %s is %s. %s", called(name.as_posix()), what, advice)
            continue
        if not path.is_file():
            continue
        if why := name_problem(name.as_posix()):
            logging.warning("left out: %s: %s", called(name.as_posix()), why)
            continue
        if not os.access(path, os.R_OK):
            raise _unreadable(called(name.as_posix()), "Permission denied")
        stat = path.stat()
        files[path.relative_to(folder).as_posix()] = (stat.st_size, stat.st_mtime_ns)
    return files


def _paths_below(folder: Path, called: Callable[[str], str]) -> list[Path]:
    """Return all paths below a folder, sorted; a folder that cannot be listed is an error, not an empty one."""

    def fail(error: OSError) -> None:
        name = Path(error.filename).relative_to(folder)
        if not any(part.startswith(".") or part in SKIPPED for part in name.parts):
            raise _unreadable(called(name.as_posix()), error.strerror or "unknown reason") from error

    found = []
    for parent, folders, files in os.walk(folder, onerror=fail):
        found += [Path(parent, name) for name in (*folders, *files)]
    return sorted(found)


def _unreadable(name: str, why: str) -> StepError:
    return StepError(
        f"{name} cannot be read ({why}), so a scan could be missed. Give yourself the right to read it, or move it "
        "out of the folder. Nothing was sent or removed."
    )


def _no_good_link(path: Path, folder: Path) -> str | None:
    if path.is_dir():
        return "a link to a folder"
    if not path.exists():
        return "a link to nothing"
    return None if path.resolve().is_relative_to(folder) else "a link out of the folder"
