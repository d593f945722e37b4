"""Decide which variables of a person's shell are used: those of MLflow, S3, proxies, matplotlib, Python and git.

A variable that is used is used in every process that we start. Any other variable is removed before anything reads
it, and is named once, without its value. docs/environment.md shows the table below.
"""

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from components.core.step import without_logins

S3_ADDRESS = ("S3_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
"""Variables with the address of a person's own S3 server; the first one that is set wins."""
MLFLOW_ADDRESS = ("MLFLOW_TRACKING_URI",)
AWS_LOGIN = ("AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_DEFAULT_PROFILE")
YES, NO, OURS = "yes", "no", "set here"
WITH_S3, WITH_MLFLOW, WITH_EITHER = "with an S3 address", "with an MLflow address", "with either address"
NEEDS = {WITH_S3: S3_ADDRESS, WITH_MLFLOW: MLFLOW_ADDRESS, WITH_EITHER: (*S3_ADDRESS, *MLFLOW_ADDRESS)}


@dataclass(frozen=True)
class Rule:
    """Whether the variables of these names (patterns of fnmatch, separated by spaces) are used, and why.

    used: YES, NO, OURS (every process gets our own value), or what else must be set: WITH_S3, WITH_MLFLOW, WITH_EITHER.
    """

    names: str
    used: str
    why: str


RULES = (
    Rule("MLFLOW_TRACKING_URI", YES, "the address of your own MLflow; without it one is started here"),
    Rule("MLFLOW_REGISTRY_URI MLFLOW_TRACKING_DIR MLFLOW_REGISTRY_DIR", NO,
         "runs and models lie in one MLflow, to which every link, the ledger and `make predict` go"),
    Rule("MLFLOW_TRACKING_* MLFLOW_WORKSPACE MLFLOW_ALLOW_FILE_STORE", WITH_MLFLOW,
         "login and certificates of your own MLflow; ours has a login of its own, in `.local/mlflow-token`"),
    Rule("MLFLOW_S3_ENDPOINT_URL", WITH_MLFLOW, "where your own MLflow keeps its artifacts; ours keeps them in the S3"),
    Rule("MLFLOW_S3_* MLFLOW_BOTO_*", WITH_EITHER, "how MLflow writes into an S3 server of yours"),
    Rule("MLFLOW_EXPERIMENT_NAME", YES, "the experiment of the runs, instead of dwi-stroke-segmentation"),
    Rule("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", YES,
         "true logs the load of the machine while training runs, every ten seconds or at this interval; off by "
         "default"),
    Rule("MLFLOW_HTTP_* MLFLOW_ARTIFACT_UPLOAD_DOWNLOAD_TIMEOUT MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT", YES,
         "how long MLflow is waited for"),
    Rule("MLFLOW_LOGGING_LEVEL MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT "
         "MLFLOW_DISABLE_TELEMETRY DO_NOT_TRACK", YES, "what MLflow prints and reports; telemetry is off by default"),
    Rule("MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD", YES,
         "true lets files come straight from the S3 of MLflow, where this machine reaches it; by default they come "
         "through MLflow"),
    Rule("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", OURS, "false: no pickled model is opened"),
    Rule("MLFLOW_PORT", YES, "the port of the MLflow that is started here"),
    Rule("_MLFLOW_*", YES, "what MLflow tells its own processes"),
    Rule("MLFLOW_* DATABRICKS_* DISABLE_MLFLOWDBFS SERVERLESS_GPU_*", NO,
         "meant for other work; the ids of runs and experiments belong to another registry"),
    Rule("AWS_ENDPOINT_URL AWS_ENDPOINT_URL_S3", YES, "the address of your own S3, where S3_ENDPOINT_URL is not set"),
    Rule("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", NO, "the address is taken where it is given"),
    Rule("AWS_MAX_ATTEMPTS AWS_RETRY_MODE", NO, "what fails is tried again for two minutes in any case"),
    Rule("AWS_* BOTO_* BOTOCORE_*", WITH_S3,
         "login and settings of your own S3. Alone they choose no place for scans, which go to the S3 of this machine "
         "then. AWS itself is `S3_ENDPOINT_URL=https://s3.eu-central-1.amazonaws.com`"),
    Rule("RCLONE_*", NO, "settings of other storage; rclone only serves the S3 of this machine here"),
    Rule("OWN_PORTS", OURS, "the ports of this machine on which a program of another user is sent nothing"),
    Rule("HTTP_PROXY HTTPS_PROXY ALL_PROXY http_proxy https_proxy all_proxy", YES,
         "for requests to other machines; requests to this one go past proxies"),
    Rule("NO_PROXY no_proxy", YES, "this machine is added to it"),
    Rule("REQUESTS_CA_BUNDLE CURL_CA_BUNDLE", YES, "a certificate authority of your own; the first one leads"),
    Rule("NETRC SSLKEYLOGFILE", YES, "as requests and urllib3 read them"),
    Rule("MPLBACKEND MATPLOTLIBRC", NO, "pictures go into files; a notebook's backend is not there outside of it"),
    Rule("MPLCONFIGDIR MPL_IGNORE_SYSTEM_FONTS", YES, "where matplotlib keeps its list of fonts"),
    Rule("PYTHONUTF8", OURS, "1: every process reads and writes UTF-8, in any locale"),
    Rule("PYTHONPATH", OURS, "this checkout"),
    Rule("PYTHONUNBUFFERED PYTHONWARNINGS", OURS, "1 and ignore in the steps, whose log is what a person reads"),
    Rule("PYTHONHOME PYTHONPLATLIBDIR PYTHONSTARTUP PYTHONINSPECT PYTHONIOENCODING PYTHONOPTIMIZE PYTHONCASEOK "
         "PYTHONSAFEPATH PYTHONLEGACYWINDOWSSTDIO", NO, "they belong to another Python, or change what code does"),
    Rule("PYTHON*", YES, "how Python hashes, caches, allocates and reports"),
    Rule("GIT_DIR GIT_WORK_TREE GIT_IMPLICIT_WORK_TREE GIT_COMMON_DIR GIT_INDEX_FILE GIT_OBJECT_DIRECTORY "
         "GIT_ALTERNATE_OBJECT_DIRECTORIES GIT_NAMESPACE GIT_PREFIX GIT_INTERNAL_SUPER_PREFIX GIT_GRAFT_FILE "
         "GIT_SHALLOW_FILE GIT_NO_REPLACE_OBJECTS GIT_REPLACE_REF_BASE", NO, "git is asked about this checkout"),
    Rule("GIT_COMMIT", OURS, "this checkout's commit, in the steps"),
    Rule("GIT_*", YES, "git's configuration, trust and network"),
)  # fmt: skip
"""The first rule that names a variable holds."""

_named: set[str] = set()


def rule(name: str) -> Rule | None:
    """Return the rule of a variable; None if there is no rule: then the variable stays unchanged."""
    return next((r for r in RULES if any(fnmatchcase(name, pattern) for pattern in r.names.split())), None)


def counts(name: str, environment: Mapping[str, str]) -> bool:
    """Return whether this variable, set beside those of `environment`, counts here."""
    found = rule(name)
    if found is None or found.used not in NEEDS:
        return found is None or found.used != NO
    return any(environment.get(address) for address in NEEDS[found.used])


def settle() -> None:
    """Remove from this process's environment what does not count, name it once, and complete what does."""
    _drop([name for name in os.environ if not counts(name, os.environ)])
    for name, other in (("AWS_DEFAULT_REGION", "AWS_REGION"), ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")):
        if os.environ.get(other):  # some programs read the one only
            os.environ[name] = os.environ.get(name) or os.environ[other]
    os.environ["PYTHONUTF8"] = "1"


def settle_without(addresses: tuple[str, ...]) -> None:
    """Settle where a person's own server cannot be used: its address is dropped, and what goes with it."""
    _drop([name for name in addresses if name in os.environ])
    settle()


def _drop(names: list[str]) -> None:
    """Remove these variables, and name those that say something and were not named before."""
    new = sorted({name for name in names if os.environ[name]} - _named)
    for name in names:
        del os.environ[name]
    _named.update(new)
    if new:
        print(f"not used here: {', '.join(new)} (docs/environment.md says why)", flush=True)
    if {*AWS_LOGIN} & {*new} and not _named & {*S3_ADDRESS}:
        print("  a place for scans is chosen by S3_ENDPOINT_URL, never by AWS_* alone", flush=True)


def settle_python() -> None:
    """Settle, and start this program again where Python itself began with what does not count.

    Python reads its own variables before any of our code runs.
    """
    began = {name for name in os.environ if name.startswith("PYTHON") and not counts(name, os.environ)}
    settle()
    if began or not sys.flags.utf8_mode:
        sys.stdout.flush()
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606


def about_address(name: str, url: str) -> str:
    """Return what is wrong with the address of a server in the variable `name`, and what to do; "" if it is valid."""
    scheme, separator, _ = url.partition("://")
    shown = without_logins(url)
    is_folder = scheme.startswith("file") or (not separator and (url.startswith((".", "/", "~")) or Path(url).is_dir()))
    if url and is_folder and not (separator and os.environ.get("MLFLOW_ALLOW_FILE_STORE")):
        return (
            f"{name}={shown} names a folder, and the address of a server is needed (https://...). Without the variable "
            "it is found or started for you."
        )
    if url and not separator:
        return f"{name}={shown} has no scheme. Write it as https://{shown}, or http://{shown}"
    return ""


@contextlib.contextmanager
def environment_as_before() -> Iterator[None]:
    """Restore the environment at the end, so that the next command checks again whether the services run."""
    before = dict(os.environ)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
