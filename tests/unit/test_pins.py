"""One set of pins for every Python that is supported, on every kind of laptop."""

import re
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
LAPTOPS = {
    "Linux x86-64": {"sys_platform": "linux", "platform_machine": "x86_64", "platform_system": "Linux"},
    "Linux arm64": {"sys_platform": "linux", "platform_machine": "aarch64", "platform_system": "Linux"},
    "macOS arm64": {"sys_platform": "darwin", "platform_machine": "arm64", "platform_system": "Darwin"},
}
NOT_PINNED = {"setuptools", "pyjpegls"}
"""torch's, of which any version from the last two years will do; highdicom's, which it never imports, and which has no
wheel for Python 3.14."""


def pins() -> dict[str, str]:
    lines = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}


@pytest.mark.parametrize("python", PYTHONS)
def test_every_pin_is_meant_for_this_python(python):
    refusing = {
        name: wanted
        for name in pins()
        if (wanted := distribution(name).metadata.get("Requires-Python"))
        and not SpecifierSet(wanted).contains(f"{python}.2")
    }
    assert refusing == {}


@pytest.mark.parametrize("laptop", LAPTOPS)
@pytest.mark.parametrize("python", PYTHONS)
def test_what_the_pins_bring_there_is_pinned_too(python, laptop):
    pinned = pins()
    there = default_environment() | LAPTOPS[laptop] | {"python_version": python, "python_full_version": f"{python}.2"}
    missing = set()
    for name in pinned:
        for line in distribution(name).requires or []:
            wanted = Requirement(line)
            if wanted.marker and not wanted.marker.evaluate(there | {"extra": ""}):
                continue
            version = pinned.get(canonicalize_name(wanted.name))
            if version is None or not wanted.specifier.contains(version, prereleases=True):
                missing.add(f"{name} wants {wanted.name}{wanted.specifier}, pinned is {version}")
    assert {line for line in missing if line.split()[2].split(">")[0] not in NOT_PINNED} == set()


def test_make_the_project_and_the_readme_name_the_same_pythons():
    wanted = SpecifierSet(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"])
    assert [minor for minor in range(30) if wanted.contains(f"3.{minor}.2")] == [11, 12, 13, 14]
    assert not wanted.contains("3.14.1"), "networkx bars it"
    make_venv = (ROOT / "pipelines/local/make-venv").read_text()
    assert "(3, 11) <= sys.version_info[:2] <= (3, 14)" in make_venv
    assert (
        tuple(re.findall(r" python(3\.\d+)(?=[ ;])", make_venv.partition("for base in")[2].split("do")[0])) == PYTHONS
    )
    assert "With Python 3.11 to 3.14 and make" in (ROOT / "README.md").read_text()


LOCKS = {
    "requirements.lock": "requirements.txt",
    "requirements-dev.lock": "requirements-dev.txt",
    "images/requirements-mlflow.lock": "images/requirements-mlflow.txt",
}


def locked(name: str) -> dict[str, tuple[set[str], set[str]]]:
    """Of each package in a lock file: its versions (one, or one for each marker) and its hashes."""
    found: dict[str, tuple[set[str], set[str]]] = {}
    package = ""
    for line in (ROOT / name).read_text().splitlines():
        if match := re.match(r"([a-z0-9-]+)==([^ ]+) ", line):
            package = match[1]
            found.setdefault(package, (set(), set()))[0].add(match[2])
        elif match := re.fullmatch(r"    --hash=sha256:([0-9a-f]{64})( \\)?", line):
            found[package][1].add(match[1])
        else:
            assert line.startswith("#"), line
    return found


def pinned_in(name: str) -> dict[str, str]:
    lines = [line.split(";")[0] for line in (ROOT / name).read_text().splitlines() if re.match(r"[A-Za-z]", line)]
    return {canonicalize_name(package): version.strip() for package, version in (line.split("==") for line in lines)}


@pytest.mark.parametrize("lock", LOCKS)
def test_every_pin_but_torch_is_locked_at_its_version_by_hashes(lock):
    wanted = pinned_in(LOCKS[lock])
    if wanted.pop("torch", None):
        wanted["setuptools"] = pinned_in("images/requirements-torch.txt")[
            "setuptools"
        ]  # kfp-server-api is built with it
    got = locked(lock)
    assert {name: got.get(name, (set(), set()))[0] for name in wanted} == {n: {v} for n, v in wanted.items()}
    assert all(hashes for _, hashes in got.values())
    assert "torch" not in got
    if lock != "requirements-dev.lock":
        assert got.keys() == wanted.keys()


def test_what_is_compiled_is_locked_for_several_platforms():
    """Four Pythons, on Linux of two processors and macOS: each is a wheel of its own."""
    got = locked("requirements.lock")
    for name in ("numpy", "scipy", "pandas", "matplotlib", "aiohttp", "pyarrow"):
        assert len(got[name][1]) >= len(PYTHONS) * len(LAPTOPS), name


def test_the_lock_of_the_tests_adds_to_the_other_one_alone():
    """Both go into one environment: a package in both would be installed twice."""
    main, tests = locked("requirements.lock"), locked("requirements-dev.lock")
    assert not main.keys() & tests.keys()
    for name in tests:
        try:
            requires = distribution(name).requires or []
        except PackageNotFoundError:
            continue
        for wanted in map(Requirement, requires):
            if wanted.marker and not wanted.marker.evaluate({"extra": ""}):
                continue
            dependency = canonicalize_name(wanted.name)
            assert dependency in {*main, *tests, "torch", "pip"}, f"{name} wants {wanted}"


def test_make_installs_by_the_hashes():
    recipes = (ROOT / "Makefile").read_text()
    assert re.findall(r"\$\(PIP\) (.*)", recipes) == [
        "--require-hashes --no-deps -r requirements.lock",
        "-c requirements.txt \"$$(grep '^torch==' requirements.txt)\"",
        "--require-hashes --no-deps -r requirements-dev.lock",
    ]


def test_a_lock_file_names_no_index():
    assert not [name for name in LOCKS if "://" in (ROOT / name).read_text()]
