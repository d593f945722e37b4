"""No file can bring code along: nothing here opens a pickle, and what could is told not to."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = [p for folder in ("components", "pipelines", "manifests") for p in sorted((ROOT / folder).rglob("*.py"))]
PICKLES = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "skops"}
SAFE = {  # a call by its last two names: what it must be told
    "torch.load": {"weights_only": True},
    "np.load": {"allow_pickle": (False, None)},  # NumPy's own default is False
    "numpy.load": {"allow_pickle": (False, None)},
}
NEVER = {
    "yaml.load", "yaml.load_all", "yaml.full_load", "yaml.unsafe_load", "torch.jit.load", "jit.load", "pd.read_pickle",
    "pandas.read_pickle", "eval", "exec", "os.system", "os.popen",
}  # fmt: skip


def faults(source: str) -> list[str]:
    """What in Python code could run what a file holds."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            found += [f"imports {name}" for name in names if name.partition(".")[0] in PICKLES]
        if isinstance(node, ast.Call):
            call = ".".join(ast.unparse(node.func).split(".")[-2:])
            told = {word.arg: getattr(word.value, "value", "?") for word in node.keywords}
            wrong = {
                name: told.get(name)
                for name, right in SAFE.get(call, {}).items()
                if told.get(name) not in (right if isinstance(right, tuple) else (right,))
            }
            found += [f"{call} with {name}={value}" for name, value in wrong.items()]
            found += [f"calls {call}"] * (call in NEVER)
            found += [f"{call} in a shell"] * (told.get("shell") not in (None, False))
    return found


def test_no_file_is_opened_that_could_run():
    found = {path.relative_to(ROOT).as_posix(): faults(path.read_text()) for path in SOURCES}
    assert len(found) > 100 and {path: wrong for path, wrong in found.items() if wrong} == {}


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ("torch.load(path)", "torch.load with weights_only=None"),
        ("torch.load(path, weights_only=False)", "torch.load with weights_only=False"),
        ("np.load(path, allow_pickle=True)", "np.load with allow_pickle=True"),
        ("np.load(path, allow_pickle=asked)", "np.load with allow_pickle=?"),
        ("import joblib", "imports joblib"),
        ("from pickle import loads", "imports pickle"),
        ("yaml.load(text, Loader=yaml.Loader)", "calls yaml.load"),
        ("eval(text)", "calls eval"),
        ("subprocess.run(text, shell=True)", "subprocess.run in a shell"),
    ],
)
def test_the_search_finds_what_would(source, fault):
    assert faults(source) == [fault]
