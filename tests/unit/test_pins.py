"""One set of pins for every Python that is supported, on every kind of laptop."""

import re
import tomllib
from importlib.metadata import distribution
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
NOT_PINNED = {"setuptools"}
"""torch's, of which any version from the last two years will do."""


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
