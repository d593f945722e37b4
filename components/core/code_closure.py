"""The modules that an entry file imports, directly or not, the data files beside them, and one digest of them all.

An image tag, a checkpoint's key, a split and a registered model depend on this code and on no other.
"""

import ast
import hashlib
import shutil
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
"""The folder that holds `components/`: a checkout, an image's /app, or the code of a registered model."""
MODEL = "components/model/mlflow_model.py"
"""The entry file of a registered model."""
TRAINING_STEPS = ("ingest", "preprocess", "train")
"""The steps whose code decides the weights."""
OURS = ("components", "pipelines")
"""The packages of this project. `components` never imports `pipelines`."""
SPLIT_STEPS = ("ingest", "split")
"""The steps whose code decides which patients there are, and who is in which subset."""


def step_entry(step: str) -> str:
    """Return the entry file of a step, relative to the root."""
    return f"components/{step}/component.py"


def closure(*entries: str, root: Path = ROOT) -> list[str]:
    """Return the entry files and every module of ours that they import, also inside functions, sorted.

    All paths are relative to `root`. The `__init__.py` of each package is among them, since Python runs it, and so are
    the other files in the folder of a package, since its modules read them.

    Raises:
        FileNotFoundError: `root` has no such entry file.
    """
    pending, found = list(entries), set()
    while pending:
        path = pending.pop()
        if path not in found:
            found.add(path)
            pending += _packages(path, root) + _imports((root / path).read_text(encoding="utf-8"), root)
    folders = {Path(path).parent for path in found}
    return sorted(found.union(*(_data_files(folder, root) for folder in folders)))


def closure_digest(*entries: str, extra: Iterable[str] = (), root: Path = ROOT) -> str:
    """Return the SHA-256 of the closure of some entry files and of `extra` files: their paths and contents.

    Raises:
        FileNotFoundError: `root` lacks one of the files.
    """
    return files_digest([*closure(*entries, root=root), *extra], root)


def steps_digest(*steps: str) -> str:
    """Return the digest of the code of some steps."""
    return closure_digest(*map(step_entry, steps))


def files_digest(paths: Iterable[str], root: Path = ROOT) -> str:
    """Return the SHA-256 of files: of their paths, relative to `root`, and their contents."""
    digest = hashlib.sha256()
    for path in sorted(set(paths)):
        digest.update(path.encode() + b"\0" + (root / path).read_bytes() + b"\0")
    return digest.hexdigest()


def copy_closure(entry: str, folder: Path) -> None:
    """Copy the closure of an entry file into a new `folder`, which is then a root."""
    for path in closure(entry):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, folder / path)


def _packages(path: str, root: Path) -> list[str]:
    folders = list(Path(path).parents)[:-1]
    return [init for folder in folders if (root / (init := f"{folder.as_posix()}/__init__.py")).exists()]


def _data_files(folder: Path, root: Path) -> list[str]:
    """Return the other files of the package at this folder, such as a page's script; [] if it is no package."""
    if not (root / folder / "__init__.py").exists():
        return []
    files = (file for file in (root / folder).iterdir() if file.is_file() and not file.name.startswith("."))
    return [(folder / file.name).as_posix() for file in files if file.suffix not in (".py", ".pyc")]


def _imports(source: str, root: Path) -> list[str]:
    candidates = (
        f"{name.replace('.', '/')}{end}" for name in _imported_names(source) for end in (".py", "/__init__.py")
    )
    return [path for path in candidates if (root / path).exists()]


@lru_cache(maxsize=1024)
def _imported_names(source: str) -> tuple[str, ...]:
    """Return the dotted names of ours that may be modules: `from a import b` names a and a.b."""
    names: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        if isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return tuple(name for name in names if name.split(".")[0] in OURS)
