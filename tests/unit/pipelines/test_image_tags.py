"""A step's image tag changes exactly where code that the step runs changes: a cache never outlives its code."""

import functools
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from pipelines import image_tags
from pipelines.pipeline import STEPS

MODULES = sorted(
    p.relative_to(image_tags.ROOT).as_posix()
    for p in (image_tags.ROOT / "components").rglob("*.py")
    if p.name != "__init__.py"
)


@pytest.fixture
def checkout(tmp_path, monkeypatch) -> Path:
    """A copy of what the tags are made of, free to be changed."""
    shutil.copytree(
        image_tags.ROOT / "components", tmp_path / "components", ignore=shutil.ignore_patterns("__pycache__")
    )
    shutil.copytree(image_tags.ROOT / "images", tmp_path / "images", ignore=shutil.ignore_patterns("__pycache__"))
    for name in (image_tags.PINS, "requirements.lock"):
        shutil.copy(image_tags.ROOT / name, tmp_path)
    monkeypatch.setattr(image_tags, "ROOT", tmp_path)
    return tmp_path


def tags() -> dict[str, str]:
    return {step: image_tags.image(step) for step in STEPS}


@functools.cache
def tags_before() -> dict[str, str]:
    """The tags of an unchanged checkout: the same wherever it lies."""
    return tags()


def changed_by(path: Path) -> set[str]:
    """The steps whose tag changes when a line is added to a file."""
    before = tags_before()
    path.write_text(path.read_text() + "\n# changed\n")
    return {step for step, tag in tags().items() if tag != before[step]}


def runs(step: str) -> set[str]:
    """The modules of ours that a step runs, by searching their text; register packs its model.py and runs that too."""
    todo, seen = {f"components/{step}/component.py"}, set()
    if step == "register":
        todo.add("components/model/mlflow_model.py")
    while todo:
        seen.add(module := todo.pop())
        lines = re.findall(r"^\s*(?:from|import) (components.*)", (image_tags.ROOT / module).read_text(), re.MULTILINE)
        for package, *imported in (re.findall(r"[\w.]+", line.replace(" import ", " ")) for line in lines):
            found = {package.replace(".", "/"), *(f"{package}.{name}".replace(".", "/") for name in imported)}
            todo |= {f"{name}.py" for name in found if (image_tags.ROOT / f"{name}.py").exists()} - seen
    return seen


@pytest.mark.sampled(10)
@pytest.mark.parametrize("module", MODULES)
def test_a_changed_module_changes_the_tags_of_the_steps_that_run_it_and_no_other(module, checkout):
    assert changed_by(checkout / module) == {step for step in STEPS if module in runs(step)}


@pytest.mark.parametrize(
    ("module", "steps"),
    [
        ("components/split/split.py", {"split"}),
        ("components/train/data.py", {"train"}),
        ("components/evaluate/metrics.py", {"evaluate"}),
        ("components/scans/volumes.py", {"ingest", "preprocess", "train", "evaluate", "register"}),
        ("components/model/grid.py", {"preprocess", "train", "evaluate", "register"}),
        ("components/model/network.py", {"train", "evaluate", "register"}),
        ("components/model/losses.py", {"train"}),
        ("components/core/html_page.py", {"ingest", "split", "train", "evaluate"}),
        ("components/model/mlflow_model.py", {"register"}),
        ("components/register/policy.yaml", {"register"}),
        ("components/register/card.yaml", {"register"}),
        ("components/scans/viewer/page.py", {"ingest", "evaluate"}),
        ("components/scans/viewer/page.js", {"ingest", "evaluate"}),
        ("components/scans/viewer/niivue.umd.js", {"ingest", "evaluate"}),
        ("components/core/step.py", set(STEPS)),
    ],
)
def test_who_runs_what(module, steps, checkout):
    assert changed_by(checkout / module) == steps


def test_changed_pins_change_every_tag(checkout):
    assert changed_by(checkout / "requirements.txt") == set(STEPS)


@pytest.mark.parametrize(
    "file", ["components/register/policy.yaml", "components/scans/n4.py", "components/split/component.py"]
)
def test_what_changes_the_tag_of_a_step_changes_the_tag_of_the_built_images_too(file, checkout):
    before = image_tags.sources_tag(), image_tags.code()
    assert changed_by(checkout / file)
    assert image_tags.sources_tag() != before[0] and image_tags.code() != before[1]


@pytest.mark.parametrize("file", ["images/steps.Dockerfile", "images/mlflow/dwi_stroke_mlflow/app.py"])
def test_how_an_image_is_built_changes_the_tag_of_the_built_images_alone(file, checkout):
    before = image_tags.sources_tag(), image_tags.code()
    assert not changed_by(checkout / file)
    assert image_tags.sources_tag() != before[0] and image_tags.code() == before[1]


def test_a_module_that_is_not_imported_changes_nothing(checkout):
    before = tags(), image_tags.sources_tag()
    (checkout / "components" / "core" / "novelty.py").write_text("NEW = 1\n")
    assert (tags(), image_tags.sources_tag()) == before


def test_code_in_a_package_itself_changes_the_steps_that_import_from_it(checkout):
    assert changed_by(checkout / "components" / "split" / "__init__.py") == {"split"}
    assert changed_by(checkout / "components" / "core" / "__init__.py") == set(STEPS)


def test_the_tags_do_not_depend_on_where_the_checkout_lies(checkout, monkeypatch):
    there = tags()
    monkeypatch.undo()
    assert tags() == there


def test_an_image_is_named_after_its_step_and_has_a_valid_tag():
    for step, image in tags().items():
        assert re.fullmatch(rf"dwi-stroke-python-{step}:[0-9a-f]{{16}}", image)


@pytest.fixture
def committed(checkout):
    """A copy of the checkout as a git repository with one commit; the commit."""
    if not shutil.which("git"):
        pytest.skip("needs git")
    return commit_all(checkout)


def commit_all(folder: Path) -> str:
    somebody = ["-c", "user.name=somebody", "-c", "user.email=somebody@example.org"]
    for command in (["init", "--quiet"], ["add", "."], [*somebody, "commit", "--quiet", "--message", "all"]):
        subprocess.run(["git", *command], cwd=folder, check=True)
    return subprocess.run(["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True).stdout.strip()


@pytest.mark.parametrize("folder", ["components/core", "pipelines/predict"])
def test_a_checkout_is_named_by_its_commit(committed, checkout, folder):
    assert image_tags.commit() == committed
    (checkout / folder).mkdir(parents=True, exist_ok=True)
    (checkout / folder / "novelty.py").write_text("NEW = 1\n")
    assert image_tags.commit() == f"{committed}-dirty"


@pytest.mark.parametrize(
    "variables",
    [{"GIT_DIR": ".git"}, {"GIT_DIR": ".git", "GIT_WORK_TREE": "."}, {"GIT_INDEX_FILE": ".git/index"}],
    ids=lambda variables: " ".join(variables),
)
def test_git_is_asked_about_this_checkout(variables, committed, tmp_path_factory, monkeypatch):
    other = tmp_path_factory.mktemp("another repository")
    (other / "file").write_text("other")
    commit_all(other)
    for name, value in variables.items():
        monkeypatch.setenv(name, str(other / value))
    assert image_tags.commit() == committed


def test_a_checkout_of_another_user_is_named_with_what_to_do(committed, checkout, monkeypatch, caplog):
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    assert image_tags.commit() == ""
    assert "belongs to another user" in caplog.text
    assert f"git config --global --add safe.directory '{checkout}'" in caplog.text
