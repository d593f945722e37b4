"""Secrets: shapes are committed and values are not; the script that makes them, against a stand-in for kubectl."""

import base64
import os
import re
import stat
import subprocess
import sys
from urllib.parse import urlsplit

import pytest
import yaml

from tests.unit.manifests.overlays import MANIFESTS, documents

CONTEXT = "kind-dwi-stroke"
ACCESS_KEY, SECRET_KEY = "an-access-key", "a secret/key+with=signs"

KUBECTL = '''#!{python}
"""kubectl on a folder: enough of get and apply for create-secrets.sh."""
import json, pathlib, sys
import yaml

state = pathlib.Path({state!r})
arguments = sys.argv[1:]
with (state / "calls").open("a") as calls:
    calls.write(json.dumps(arguments) + "\\n")
assert arguments[:2] == ["--context", {context!r}], "the context is not named"
arguments = arguments[2:]
namespace = arguments[1] if arguments[0] == "-n" else None
verb, *rest = arguments[2:] if namespace else arguments
if verb == "get" and rest[0] == "namespace":
    sys.exit(0 if (state / rest[1]).is_dir() else "not found")
elif verb == "get" and rest[0] == "secret":
    path = state / namespace / rest[1]
    if not path.exists():
        sys.exit(0 if "--ignore-not-found" in rest else "not found")
    output = rest[rest.index("-o") + 1]
    if output == "name":
        print("secret/" + rest[1])
    else:
        key = output.removeprefix("jsonpath={{.data.").removesuffix("}}")
        print(yaml.safe_load(path.read_text())["data"][key], end="")
elif verb == "apply":
    source = rest[rest.index("-f") + 1]
    o = yaml.safe_load(sys.stdin if source == "-" else pathlib.Path(source).read_text())
    if o["kind"] == "Namespace":
        (state / o["metadata"]["name"]).mkdir(exist_ok=True)
    else:
        assert "--server-side" in rest, "a client-side apply copies the values into an annotation"
        (state / o["metadata"]["namespace"] / o["metadata"]["name"]).write_text(yaml.safe_dump(o))
    print(o["kind"], o["metadata"]["name"], "configured")
else:
    sys.exit(f"unexpected: {{arguments}}")
'''


class Cluster:
    """A stand-in cluster with KFP in it, and the script run against it."""

    def __init__(self, folder):
        self.state, self.bin = folder / "state", folder / "bin"
        (self.state / "kubeflow").mkdir(parents=True)
        self.bin.mkdir()
        kubectl = self.bin / "kubectl"
        kubectl.write_text(KUBECTL.format(python=sys.executable, state=str(self.state), context=CONTEXT))
        kubectl.chmod(kubectl.stat().st_mode | stat.S_IXUSR)
        self.install_kfp(ACCESS_KEY, SECRET_KEY)

    def install_kfp(self, access_key, secret_key):
        data = {"accesskey": _base64(access_key), "secretkey": _base64(secret_key)}
        (self.state / "kubeflow" / "mlpipeline-minio-artifact").write_text(yaml.safe_dump({"data": data}))

    def run(self, *arguments, **variables):
        environment = {"PATH": f"{self.bin}:{os.environ['PATH']}", "CONTEXT": CONTEXT} | variables
        command = [MANIFESTS / "create-secrets.sh", *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True)

    def secret(self, namespace, name):
        data = yaml.safe_load((self.state / namespace / name).read_text())["data"]
        return {key: base64.b64decode(value, validate=True).decode() for key, value in data.items()}

    def arguments(self):
        return (self.state / "calls").read_text()


@pytest.fixture
def cluster(tmp_path):
    return Cluster(tmp_path)


def test_no_value_of_a_secret_is_committed():
    for path in MANIFESTS.rglob("*.yaml"):
        for o in documents(path.read_text()):
            if isinstance(o, dict) and o.get("kind") == "Secret":
                assert path.name == "secrets.example.yaml"
                assert not any((o.get("data", {}) | o["stringData"]).values())


def test_no_kustomization_applies_the_shapes():
    for path in MANIFESTS.rglob("kustomization.yaml"):
        assert "secrets.example.yaml" not in path.read_text()
        assert "secretGenerator" not in path.read_text()


def test_no_file_holds_what_looks_like_a_credential():
    for path in (p for p in MANIFESTS.rglob("*") if p.is_file()):
        assert not re.search(r"AKIA[0-9A-Z]{16}|minio123|BEGIN [A-Z ]*PRIVATE KEY", path.read_text()), path


def test_kind_copies_kfps_keys_into_both_namespaces(cluster):
    assert cluster.run().returncode == 0
    for namespace in ("dwi-stroke", "kubeflow"):
        expected = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}
        assert cluster.secret(namespace, "dwi-stroke-s3") == expected


def test_mlflows_login_is_random_the_same_in_both_namespaces_and_made_once(cluster):
    cluster.run()
    made = cluster.secret("dwi-stroke", "dwi-stroke-mlflow")["MLFLOW_TRACKING_TOKEN"]
    assert len(made) == 48
    again = cluster.run()
    for namespace in ("dwi-stroke", "kubeflow"):
        assert cluster.secret(namespace, "dwi-stroke-mlflow") == {"MLFLOW_TRACKING_TOKEN": made}
    assert made not in again.stdout + again.stderr + cluster.arguments()


def test_the_secrets_have_the_keys_of_the_committed_shapes(cluster, secrets):
    cluster.run()
    for name, keys in secrets.items():
        assert cluster.secret("dwi-stroke", name).keys() == keys


def test_the_database_uri_is_made_of_its_parts(cluster):
    cluster.run()
    database = cluster.secret("dwi-stroke", "dwi-stroke-database")
    uri = urlsplit(database["uri"])
    assert uri.scheme == "postgresql+psycopg2"
    assert (uri.username, uri.password) == (database["username"], database["password"])
    assert (uri.hostname, uri.port) == ("postgres.dwi-stroke.svc.cluster.local", 5432)
    assert uri.path == f"/{database['database']}"


def test_the_password_is_random_and_long(cluster, tmp_path):
    other = Cluster(tmp_path / "other")
    cluster.run()
    other.run()
    passwords = [c.secret("dwi-stroke", "dwi-stroke-database")["password"] for c in (cluster, other)]
    assert passwords[0] != passwords[1]
    assert all(re.fullmatch(r"[0-9a-f]{48}", password) for password in passwords)


def test_run_again_it_keeps_the_password_and_follows_kfps_keys(cluster):
    cluster.run()
    before = cluster.secret("dwi-stroke", "dwi-stroke-database")
    cluster.install_kfp("another-key", "another-secret")
    assert cluster.run().returncode == 0
    assert cluster.secret("dwi-stroke", "dwi-stroke-database") == before
    assert cluster.secret("kubeflow", "dwi-stroke-s3")["AWS_ACCESS_KEY_ID"] == "another-key"


def test_no_value_is_printed_or_passed_as_an_argument(cluster):
    result = cluster.run()
    seen = result.stdout + result.stderr + cluster.arguments()
    values = [ACCESS_KEY, SECRET_KEY, *cluster.secret("dwi-stroke", "dwi-stroke-database").values()]
    for value in values:
        if value != "mlflow":  # the user's and the database's name
            assert value not in seen and _base64(value) not in seen


def test_the_cluster_overlay_stores_what_it_is_given(cluster):
    uri = "postgresql+psycopg2://me:p%40ss@db.example.org:5432/mlflow"
    given = {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "s", "DATABASE_URI": uri}
    (cluster.state / "team").mkdir()
    assert cluster.run("gpu-cluster", PIPELINE_NAMESPACE="team", **given).returncode == 0
    assert cluster.secret("dwi-stroke", "dwi-stroke-database") == {"uri": uri}
    assert cluster.secret("team", "dwi-stroke-s3") == {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "s"}


def test_kind_never_takes_the_credentials_of_this_shell(cluster):
    cluster.run(AWS_ACCESS_KEY_ID="mine", AWS_SECRET_ACCESS_KEY="mine")
    assert cluster.secret("kubeflow", "dwi-stroke-s3")["AWS_ACCESS_KEY_ID"] == ACCESS_KEY


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    ("arguments", "variables", "said"),
    [
        ([], {"CONTEXT": ""}, "Set CONTEXT"),
        ([], {"PIPELINE_NAMESPACE": "nowhere"}, "no namespace 'nowhere'"),
        (["gpu-cluster"], {}, "set AWS_ACCESS_KEY_ID"),
        (["prod"], {}, "'prod' is neither kind nor gpu-cluster"),
    ],
)
def test_what_is_missing_is_said_and_nothing_is_stored(cluster, arguments, variables, said):
    result = cluster.run(*arguments, **variables)
    assert result.returncode != 0 and said in result.stderr
    assert not (cluster.state / "kubeflow" / "dwi-stroke-s3").exists()


def test_without_kfps_secret_it_says_what_makes_it(cluster):
    (cluster.state / "kubeflow" / "mlpipeline-minio-artifact").unlink()
    result = cluster.run()
    assert result.returncode != 0 and "Kubeflow Pipelines makes it" in result.stderr


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
