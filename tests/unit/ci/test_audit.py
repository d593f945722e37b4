"""What `make audit` makes of pip-audit's answer, and what `make sbom` lists."""

import importlib.util
import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[3]
_spec = importlib.util.spec_from_file_location("audit", ROOT / ".ci" / "audit.py")
audit = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(audit)

CLEAN = {"name": "idna", "version": "3.20", "vulns": []}
HOLE = {"id": "PYSEC-2026-1", "aliases": ["CVE-2026-1"], "fix_versions": ["2.34"]}
VULNERABLE = {"name": "requests", "version": "2.33.0", "vulns": [HOLE]}
SKIPPED = {"name": "torch", "skip_reason": "Dependency not found"}


def test_what_has_no_known_vulnerability_is_fine():
    assert audit.judged([CLEAN], {}) == (audit.OK, ["1 packages audited"])


def test_a_vulnerability_is_named_with_its_cure():
    code, lines = audit.judged([CLEAN, VULNERABLE], {})
    assert code == audit.TO_DO
    assert lines[0] == "VULNERABLE requests 2.33.0: PYSEC-2026-1, CVE-2026-1; fixed in 2.34"


@pytest.mark.parametrize("name", ["PYSEC-2026-1", "CVE-2026-1"])
def test_one_that_has_a_reason_under_any_of_its_names_is_accepted_with_it(name):
    code, lines = audit.judged([VULNERABLE], {name: "only its FTP client has it"})
    assert code == audit.OK and lines[0].endswith("CVE-2026-1: only its FTP client has it")


def test_a_reason_without_a_vulnerability_is_to_be_removed():
    code, lines = audit.judged([CLEAN], {"CVE-2020-1": "old"})
    assert code == audit.TO_DO and lines[-1].endswith("audit-accepted.yaml: CVE-2020-1")


def test_an_index_that_does_not_know_a_package_has_not_audited_it():
    """pip-audit itself says "No known vulnerabilities found" then, and ends with 0."""
    code, lines = audit.judged([CLEAN, SKIPPED], {"CVE-2026-1": "asked for when torch can be"})
    assert code == audit.UNKNOWN and lines == ["NOT AUDITED: the index does not know 1 packages: torch"]
    assert audit.judged([VULNERABLE, SKIPPED], {})[0] == audit.TO_DO


def test_a_service_that_does_not_answer_is_told_in_a_line(monkeypatch, capsys):
    failed = subprocess.CompletedProcess([], 1, "", "Traceback ...\nConnectionError: no route to the index")
    monkeypatch.setattr(audit.subprocess, "run", lambda *_, **__: failed)
    assert audit.main() == audit.UNKNOWN
    assert capsys.readouterr().out == "NOT AUDITED: ConnectionError: no route to the index\n"


def test_every_file_of_pins_is_audited():
    through = {"requirements.txt"} if "-r requirements.txt" in (ROOT / "requirements-dev.txt").read_text() else set()
    found = (path.relative_to(ROOT) for path in ROOT.rglob("requirements*.txt"))
    there = {path.as_posix() for path in found if not path.parts[0].startswith(".")}
    assert there - through == set(audit.PINS)


def test_every_accepted_vulnerability_has_a_number_and_a_reason():
    accepted = yaml.safe_load(audit.ACCEPTED.read_text()) or {}
    assert all(re.fullmatch(r"(CVE|GHSA|PYSEC)-[\w-]+", name) and reason.strip() for name, reason in accepted.items())


@pytest.mark.slow
def test_the_bill_of_materials_lists_every_pin():
    subprocess.run(["make", "--silent", "DEV_INSTALLED=", "sbom"], cwd=ROOT, check=True, capture_output=True)
    laptop = "requirements.txt", "images/requirements-torch.txt"
    for name, files in {"sbom": laptop, "sbom-mlflow": ("images/requirements-mlflow.txt",)}.items():
        sbom = json.loads((ROOT / "build" / f"{name}.json").read_text())
        pins = {line for file in files for line in (ROOT / file).read_text().splitlines() if "==" in line}
        assert sbom["bomFormat"] == "CycloneDX" and sbom["metadata"]["component"]["name"] == "dwi-stroke-pipeline"
        assert {f"{part['name']}=={part['version']}" for part in sbom["components"]} == pins
        assert all(part["purl"].startswith("pkg:pypi/") for part in sbom["components"])
        assert "timestamp" not in sbom["metadata"] and "serialNumber" not in sbom, "the same pins, the same bytes"
