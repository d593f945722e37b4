"""A variable of a person's shell counts in every process of ours or in none, and is named where it does not count."""

import json
import os
import re
import shutil
import subprocess
import sys
from fnmatch import fnmatchcase
from pathlib import Path

import mlflow.environment_variables
import pytest
from botocore.configprovider import BOTOCORE_DEFAUT_SESSION_VARIABLES

from pipelines import environment
from pipelines.environment import MLFLOW_ADDRESS, NEEDS, NO, RULES, S3_ADDRESS, YES, about_address, counts, rule
from pipelines.local.kfp_local import LocalRun
from pipelines.local.services import S3, MLflow

ROOT = Path(__file__).parents[3]
VALUE = "planted-value-7c1f"
ADDRESSES = {*S3_ADDRESS, *MLFLOW_ADDRESS}
CREDENTIALS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_DEFAULT_PROFILE",
               "AWS_REGION", "AWS_ROLE_ARN", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_FULL_URI",
               "AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3")  # fmt: skip


def _of_mlflow() -> set[str]:
    return {v.name for v in vars(mlflow.environment_variables).values() if hasattr(v, "name") and hasattr(v, "default")}


def _of_botocore() -> set[str]:
    found = [variables for _, variables, *_ in BOTOCORE_DEFAUT_SESSION_VARIABLES.values() if variables]
    return {name for names in found for name in ([names] if isinstance(names, str) else names)} | {*CREDENTIALS}


def _of_requests() -> set[str]:
    proxies = {f"{scheme}_proxy" for scheme in ("http", "https", "all", "no")}
    return proxies | {name.upper() for name in proxies} | {"REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NETRC"}


def _of_python() -> set[str]:
    said = subprocess.run([sys.executable, "--help-env"], capture_output=True, text=True, check=True).stdout
    return set(re.findall(r"^PYTHON[A-Z0-9]+", said, re.MULTILINE))


def _of_git() -> set[str]:
    if not shutil.which("git"):
        return {"GIT_DIR"}
    return set(subprocess.run(["git", "rev-parse", "--local-env-vars"], capture_output=True, text=True).stdout.split())


KNOWN = {
    "mlflow": _of_mlflow(), "botocore": _of_botocore(), "requests": _of_requests(), "python": _of_python(),
    "matplotlib": {"MPLBACKEND", "MPLCONFIGDIR", "MATPLOTLIBRC"}, "git": _of_git(),
}  # fmt: skip
ALL = sorted(set().union(*KNOWN.values()))


@pytest.mark.parametrize("program", KNOWN)
def test_every_variable_that_a_program_reads_has_a_rule(program):
    assert KNOWN[program] and [name for name in sorted(KNOWN[program]) if rule(name) is None] == []


def test_every_rule_names_something_that_no_rule_before_it_names():
    for number, here in enumerate(RULES):
        for pattern in here.names.split():
            before = [p for earlier in RULES[:number] for p in earlier.names.split()]
            assert not any(fnmatchcase(pattern, p) for p in before), pattern


def _settled(**variables: str) -> tuple[str, dict[str, str]]:
    """What `settle` says in a shell with these variables, and the environment that it leaves."""
    code = "import json, os; from pipelines.environment import settle as s; s(); s(); print(json.dumps({**os.environ}))"
    bare = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=bare | variables, capture_output=True, text=True, check=True
    )
    *said, left = done.stdout.splitlines()
    return "\n".join(said), json.loads(left)


def _harmless(names: list[str]) -> dict[str, str]:
    """A value for each, but for those with which Python itself would not start."""
    return {name: VALUE for name in names if not name.startswith("PYTHON")}


def test_what_does_not_count_is_gone_and_named_once_without_its_value():
    alone = _harmless([name for name in ALL if name not in ADDRESSES])
    said, left = _settled(**alone)
    unused = [name for name in alone if rule(name).used in (NO, *NEEDS)]
    assert len(unused) > 100 and left.keys().isdisjoint(unused)
    assert all(len(re.findall(rf"\b{name}\b", said)) == 1 for name in unused if name != "AWS_PROFILE")
    assert VALUE not in said
    assert all(left[name] == VALUE for name in alone if rule(name).used == YES)


def test_what_goes_with_an_address_counts_beside_it():
    servers = {"S3_ENDPOINT_URL": "http://s3.example", "MLFLOW_TRACKING_URI": "http://mlflow.example"}
    said, left = _settled(**_harmless(ALL) | servers)
    assert all(left[name] == VALUE for name in _harmless(ALL) if rule(name).used in NEEDS)
    assert "AWS_PROFILE" not in said and "MLFLOW_REGISTRY_URI" in said


@pytest.mark.parametrize(
    ("name", "is_login"), [("AWS_PROFILE", True), ("AWS_ACCESS_KEY_ID", True), ("AWS_PAGER", False)]
)
def test_who_is_logged_in_at_aws_is_told_how_to_choose_it(name, is_login):
    assert ("a place for scans is chosen by S3_ENDPOINT_URL" in _settled(**{name: VALUE})[0]) == is_login


def test_nothing_is_said_where_all_counts():
    assert _settled(HTTP_PROXY="http://proxy.example", EDITOR="vi", AWS_PROFILE="")[0] == ""


@pytest.mark.parametrize(
    ("given", "also"), [("AWS_REGION", "AWS_DEFAULT_REGION"), ("CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE")]
)
def test_what_one_program_knows_the_others_are_told(given, also):
    server = {"S3_ENDPOINT_URL": "http://s3.example"}
    assert _settled(**server, **{given: "here"})[1][also] == "here"
    assert _settled(**server, **{given: "here", also: "there"})[1][also] == "there"


@pytest.mark.parametrize("name", CREDENTIALS)
def test_a_login_at_aws_chooses_no_place_for_scans(name, tmp_path, monkeypatch):
    for variable in [v for v in os.environ if v.startswith(("AWS_", "S3_"))]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv(name, VALUE)
    assert bool(S3(tmp_path).external()) == (name in S3_ADDRESS)
    monkeypatch.setenv("S3_ENDPOINT_URL", "https://s3.example")
    assert S3(tmp_path).external()["S3_ENDPOINT_URL"] == "https://s3.example"
    assert S3(tmp_path).external()[name] == VALUE


def test_a_login_at_mlflow_names_no_mlflow(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", VALUE)
    assert MLflow(tmp_path).external() == {}


def test_a_step_gets_what_counts_and_nothing_else(tmp_path, monkeypatch):
    for name, value in _harmless([n for n in ALL if n not in ADDRESSES]).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(environment, "_named", set())
    environment.settle()
    (tmp_path / "tmp").mkdir()
    with (tmp_path / "log.txt").open("w") as log:
        run = LocalRun("run", tmp_path, {}, log)
        print_it = "import json, os; open('environment.json', 'w').write(json.dumps({**os.environ}))"
        monkeypatch.chdir(tmp_path)
        assert run._run_process([sys.executable, "-c", print_it]) == 0
    got = json.loads((tmp_path / "environment.json").read_text())
    planted = [name for name, value in got.items() if value == VALUE]
    assert all(counts(name, {}) for name in planted) and "MLFLOW_HTTP_REQUEST_TIMEOUT" in planted
    assert (got["PYTHONUTF8"], got["PYTHONPATH"]) == ("1", str(ROOT))


@pytest.mark.parametrize(
    "variables",
    [{"PYTHONUTF8": "0"}, {"PYTHONIOENCODING": "ascii"}, {"PYTHONOPTIMIZE": "2"}, {"PYTHONINSPECT": "1"}],
    ids=lambda variables: next(iter(variables)),
)
def test_python_starts_again_without_what_it_began_with(variables):
    code = "from pipelines.environment import settle_python; settle_python(); import sys; " \
           "print('\\u0e04\\u0e19', sys.flags.utf8_mode, sys.flags.optimize, sys.flags.inspect)"  # fmt: skip
    shell = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "LC_ALL": "C",
        "PYTHONCOERCECLOCALE": "0",
        **variables,
    }
    done = subprocess.run([sys.executable, "-c", code], env=shell, capture_output=True, stdin=subprocess.DEVNULL)
    *said, last = done.stdout.decode().splitlines()
    assert last == "คน 1 0 0", done.stderr.decode()
    assert all(name in " ".join(said) for name in variables if name != "PYTHONUTF8")


def test_make_starts_every_python_in_utf8_mode():
    asked = ["make", "--no-print-directory", "--eval", "shown: ; @echo $$PYTHONUTF8", "shown"]
    said = subprocess.run(asked, cwd=ROOT, env={**os.environ, "PYTHONUTF8": "0"}, capture_output=True, text=True)
    assert said.stdout == "1\n"


def test_make_starts_python_without_the_home_of_another():
    asked = ["make", "--no-print-directory", "--eval", "shown: ; @echo [$$PYTHONHOME]", "shown"]
    shell = {**os.environ, "PYTHONHOME": VALUE}
    said = subprocess.run(asked, cwd=ROOT, env=shell, capture_output=True, text=True)
    assert said.stdout == "not used here: PYTHONHOME (docs/environment.md says why)\n[]\n"


@pytest.mark.parametrize(
    "folder", ["./mlruns", "../mlruns", "/srv/mlruns", "~/mlruns", "file:///srv/mlruns", "file:mlruns"]
)
def test_a_folder_is_no_address(folder):
    said = about_address("MLFLOW_TRACKING_URI", folder)
    assert f"MLFLOW_TRACKING_URI={folder} names a folder" in said and f"://{folder}" not in said


@pytest.mark.parametrize("host", ["localhost:5000", "mlflow.example.org", "10.0.0.1:5000/prefix", "mlflow"])
def test_a_host_without_a_scheme_is_told_how_to_write_it(host):
    assert f"has no scheme. Write it as https://{host}, or http://{host}" in about_address("KFP_HOST", host)


@pytest.mark.parametrize("url", ["", "http://localhost:5000", "https://mlflow.example", "sqlite:////srv/mlflow.db"])
def test_an_address_is_left_as_it_is(url):
    assert about_address("MLFLOW_TRACKING_URI", url) == ""


def test_who_has_mlflow_allow_a_folder_may_name_one(monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    assert about_address("MLFLOW_TRACKING_URI", "file:///srv/mlruns") == ""


def test_the_documentation_lists_what_the_code_decides():
    rows = [line for line in (ROOT / "docs" / "environment.md").read_text().splitlines() if line.startswith("| `")]
    assert rows == [f"| {' '.join(f'`{n}`' for n in r.names.split())} | {r.used} | {r.why} |" for r in RULES]
