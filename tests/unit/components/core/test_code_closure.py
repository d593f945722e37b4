import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from components.core import code_closure
from components.core.code_closure import MODEL, ROOT, SPLIT_STEPS, TRAINING_STEPS, closure, closure_digest, step_entry

ENTRY = "components/a/entry.py"
STEPS = sorted(path.parent.name for path in (ROOT / "components").glob("*/component.py"))


def tree(root: Path, **modules: str) -> Path:
    """Write modules of `components`, named with `__` for a slash."""
    for name, text in modules.items():
        path = root / "components" / f"{name.replace('__', '/', 1)}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def names(root: Path) -> list[str]:
    return [path.removeprefix("components/").removesuffix(".py") for path in closure(ENTRY, root=root)]


@pytest.mark.parametrize(
    "line",
    [
        "import components.b.far",
        "import components.b.far as near, os",
        "from components.b import far",
        "from components.b import missing, far as near",
        "from components.b.far import something",
        "from components.b.far import *",
        "def f():\n    from components.b import far",
        "if f():\n    import components.b.far",
        "try:\n    from components.b.far import x\nexcept ImportError:\n    pass",
    ],
)
def test_every_way_to_import_a_module_is_found(line, tmp_path):
    assert names(tree(tmp_path, a__entry=line, b__far="import os")) == ["a/entry", "b/far"]


@pytest.mark.parametrize(
    "line",
    ["import os", "from pathlib import Path", "import other.b.far", "# import components.b.far", "'components.b.far'"],
)
def test_what_is_not_an_import_of_ours_is_not_found(line, tmp_path):
    assert names(tree(tmp_path, a__entry=line, b__far="")) == ["a/entry"]


def test_imports_of_imports_are_found_also_in_a_circle(tmp_path):
    root = tree(
        tmp_path,
        a__entry="import components.b.one",
        b__one="import components.b.two",
        b__two="import components.a.entry",
    )
    assert names(root) == ["a/entry", "b/one", "b/two"]


def test_the_packages_whose_code_python_runs_are_found(tmp_path):
    root = tree(
        tmp_path, a__entry="import components.b.far", b__far="", b____init__="import components.c.more", c__more=""
    )
    assert names(root) == ["a/entry", "b/__init__", "b/far", "c/more"]


def test_the_data_files_beside_a_module_of_a_package_are_found_and_count(tmp_path):
    root = tree(tmp_path, a__entry="import components.b.far", b__far="", b____init__="", c__other="")
    before = closure_digest(ENTRY, root=root)
    for name in (
        "b/far.js",
        "b/far.yaml",
        "b/.hidden",
        "b/far.pyc",
        "b/deeper/data.js",
        "a/no_package.js",
        "c/other.js",
    ):
        (root / "components" / name).parent.mkdir(exist_ok=True)
        (root / "components" / name).write_text("1")
    assert sorted(names(root)) == ["a/entry", "b/__init__", "b/far", "b/far.js", "b/far.yaml"]
    after = closure_digest(ENTRY, root=root)
    (root / "components/b/far.js").write_text("2")
    assert len({before, after, closure_digest(ENTRY, root=root)}) == 3


def test_a_missing_entry_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        closure(ENTRY, root=tmp_path)


def test_the_digest_is_that_of_paths_contents_and_extra_files(tmp_path):
    root = tree(tmp_path, a__entry="import components.b.far", b__far="x = 1", b__other="x = 1")
    (root / "pins.txt").write_text("a==1")
    digests = [closure_digest(ENTRY, root=root), closure_digest(ENTRY, extra=["pins.txt"], root=root)]
    tree(tmp_path, b__other="x = 2")
    assert closure_digest(ENTRY, root=root) == digests[0]
    (root / "pins.txt").write_text("a==2")
    digests += [closure_digest(ENTRY, extra=["pins.txt"], root=root)]
    tree(tmp_path, b__far="x = 2")
    digests += [closure_digest(ENTRY, root=root)]
    tree(tmp_path, a__entry="import components.b.fur", b__fur="x = 2")
    digests += [closure_digest(ENTRY, root=root)]
    assert len({*digests}) == len(digests)


@pytest.fixture
def checkout(tmp_path) -> Path:
    shutil.copytree(ROOT / "components", tmp_path / "components", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def changed_by(checkout: Path, module: str, *steps: str) -> bool:
    """Whether a new line in a module changes the digest of some steps."""
    entries = [step_entry(step) for step in steps]
    before = closure_digest(*entries, root=checkout)
    path = checkout / "components" / module
    path.write_text(path.read_text() + "\n")
    return closure_digest(*entries, root=checkout) != before


@pytest.mark.parametrize(
    ("module", "moves"),
    [
        ("model/network.py", True), ("train/train.py", True), ("train/torchrun_worker.py", True), ("scans/n4.py", True),
        ("ingest/label_masks.py", True), ("preprocess/preprocess.py", True),
        ("registry/ledger.py", False), ("registry/ledger_pairing.py", False), ("register/card.py", False),
        ("evaluate/metrics.py", False), ("split/split.py", False), ("model/mlflow_model.py", False),
    ],
)  # fmt: skip
def test_a_checkpoint_key_moves_with_the_code_that_decides_the_weights_alone(module, moves, checkout):
    assert changed_by(checkout, module, *TRAINING_STEPS) is moves


@pytest.mark.parametrize(
    ("module", "moves"),
    [
        ("split/split.py", True), ("ingest/discover.py", True), ("scans/volumes.py", True),
        ("model/network.py", False), ("train/train.py", False), ("registry/ledger.py", False),
    ],
)  # fmt: skip
def test_a_split_depends_on_the_code_that_decides_who_is_there_and_who_is_drawn(module, moves, checkout):
    assert changed_by(checkout, module, *SPLIT_STEPS) is moves


def test_the_digest_does_not_depend_on_where_the_code_is(checkout):
    for step in STEPS:
        assert closure_digest(step_entry(step), root=checkout) == closure_digest(step_entry(step))


def test_a_registered_model_gets_what_it_imports_and_nothing_else(tmp_path):
    code_closure.copy_closure(MODEL, tmp_path)
    packed = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert packed == {*closure(MODEL)} == {*closure(MODEL, root=tmp_path)}
    assert not [path for path in packed if "viewer" in path]
    assert {path.split("/")[1] for path in packed} == {"__init__.py", "artifacts", "core", "model", "scans"}


def test_a_model_runs_on_its_closure_alone(tmp_path):
    """Import each packed module in a process that has no other code of ours."""
    code_closure.copy_closure(MODEL, tmp_path)
    modules = [
        path.removesuffix(".py").replace("/", ".") for path in closure(MODEL) if not path.endswith("__init__.py")
    ]
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n" + "".join(f"import {name}\n" for name in modules)
    done = subprocess.run([sys.executable, "-I", "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_no_module_of_ours_is_imported_by_a_name_that_only_runs_know():
    """The closure reads import statements: relative ones and importlib would escape it."""
    for path in (ROOT / "components").rglob("*.py"):
        nodes = list(ast.walk(ast.parse(path.read_text())))
        assert not [n for n in nodes if isinstance(n, ast.ImportFrom) and n.level], path
        assert not [
            n for n in nodes if isinstance(n, ast.Name) and n.id in ("__import__", "importlib", "import_module")
        ], path
