"""Every command in the place that TARGET names: a cluster whose MLflow and S3 are real servers."""

import base64
import json
import os
import subprocess
import sys

import mlflow
import pytest

from components.core.errors import StepError
from components.core.storage import Storage, work_bucket
from components.fingerprint.fingerprint import history_to_extend
from components.registry.ledger import Ledger
from components.registry.ledger_pairing import TAG
from components.registry.tracking import MODEL_NAME
from pipelines import __main__ as command_line
from pipelines.cluster import connect
from pipelines.image_tags import ROOT
from pipelines.models import promotion
from tests.support.kubernetes_stand_in import Kubernetes, fake_kubectl

pytestmark = pytest.mark.slow

KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
OURS = "s3://dwi-stroke/mlflow"
NOWHERE = "http://127.0.0.1:9"
VERSION = f"models:/{MODEL_NAME}"


@pytest.fixture
def ledger(servers_here):
    """The ledger beside the registry, empty before and after."""

    def empty():
        storage = Storage(f"s3://{work_bucket()}/ledger")
        storage.delete([o.key for o in storage.list()])

    empty()
    yield Ledger()
    empty()


@pytest.fixture
def two(ledger, versionless):
    """Two versions, the first of them champion by a person's decision before there were marks."""
    run = versionless.create_run("0").info.run_id
    for number in (1, 2):
        versionless.create_model_version(MODEL_NAME, f"{OURS}/m-{number}", run)
    entry = ledger.append({
        "decision": "first", "who": "me", "version": "1", "model": f"{OURS}/m-1", "from": None, "to": "1",
        "words": "the first", "lineage": {"run_id": run}, "subject": "",
    })  # fmt: skip
    versionless.set_registered_model_alias(MODEL_NAME, "champion", "1")
    versionless.set_model_version_tag(MODEL_NAME, "1", "decision", "the first")
    versionless.set_model_version_tag(MODEL_NAME, "1", "ledger_entry", entry.key)
    return versionless


@pytest.fixture
def on_kind(servers, monkeypatch, tmp_path):
    """`on_kind("champion")`: the command line with TARGET=kind, where this machine's own variables lead nowhere."""
    calls = fake_kubectl(
        monkeypatch, tmp_path / "bin", {"kubeflow/seaweedfs:8333": int(servers["S3_ENDPOINT_URL"].rpartition(":")[2])}
    )
    with Kubernetes() as server:
        monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig(tmp_path / "kubeconfig", "kind-dwi-stroke")))
        server.config_maps["kubeflow/dwi-stroke-settings"] = {
            "S3_ENDPOINT_URL": "http://seaweedfs.kubeflow.svc.cluster.local:8333",
            "S3_BUCKET": servers["S3_BUCKET"],
            "AWS_DEFAULT_REGION": "us-east-1",
            "MLFLOW_TRACKING_URI": "http://mlflow.dwi-stroke.svc.cluster.local:5000",
        }
        secret = {name: base64.b64encode(servers[name].encode()).decode() for name in KEYS}
        server.secrets["kubeflow/dwi-stroke-s3"] = secret
        login = base64.b64encode(servers["MLFLOW_TRACKING_TOKEN"].encode()).decode()
        server.secrets["kubeflow/dwi-stroke-mlflow"] = {"MLFLOW_TRACKING_TOKEN": login}
        kind = {"context": "kind-dwi-stroke", "kfp": NOWHERE, "mlflow": servers["MLFLOW_TRACKING_URI"]}
        monkeypatch.setattr(connect, "KIND", kind)
        monkeypatch.setattr(command_line, "STATE", tmp_path / ".local")

        def run(*arguments: str) -> int:
            for name in ("S3_ENDPOINT_URL", "MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
                monkeypatch.setenv(name, NOWHERE)
            monkeypatch.setattr(sys, "argv", ["pipelines", arguments[0], "--target", "kind", *arguments[1:]])
            try:
                return command_line.main()
            finally:
                assert os.environ["MLFLOW_TRACKING_URI"] == os.environ["S3_ENDPOINT_URL"] == NOWHERE
                monkeypatch.delenv("MLFLOW_REGISTRY_URI")
                for name in ("S3_ENDPOINT_URL", "MLFLOW_TRACKING_URI"):
                    monkeypatch.setenv(name, servers[name])

        run.forwarded = lambda: {argument for call in calls() for argument in call if str(argument).startswith("svc/")}
        yield run


def test_a_promotion_on_a_cluster_moves_its_alias_and_is_written_into_its_ledger(on_kind, two, ledger, capsys):
    assert on_kind("promote", "--model", f"{VERSION}/2", "--reason", "seen by us") == 0
    assert "registry and ledger s3://dwi-stroke/ledger agree on their decisions" in capsys.readouterr().out
    assert two.get_registered_model(MODEL_NAME).aliases["champion"] == "2"
    assert [e.facts["to"] for e in ledger.entries()] == ["1", "2"]
    assert two.get_registered_model(MODEL_NAME).tags[TAG] == ledger.mark()
    assert on_kind("champion") == 0
    out = capsys.readouterr().out
    assert f"{MODEL_NAME} version 2 is champion" in out and "The ledger is complete" in out
    assert on_kind("rollback") == 0
    assert two.get_registered_model(MODEL_NAME).aliases["champion"] == "1"
    assert on_kind.forwarded() == {"svc/seaweedfs"}


def test_advice_names_the_same_place(on_kind, two, capsys):
    assert on_kind("promote", "--model", f"{VERSION}/1", "--reason", "again") == 1
    assert f"make promote TARGET=kind MODEL={VERSION}/3" in capsys.readouterr().err


def test_lineage_of_a_clusters_version_reads_the_clusters_ledger(on_kind, two, ledger, capsys):
    assert on_kind("lineage", "--model", f"{VERSION}/1") == 0
    said = capsys.readouterr().out.split()
    assert said[said.index("OK") :][:3] == ["OK", "ledger", "entry"] and ledger.entries()[0].key in said


def test_a_clusters_champion_segments_here_without_its_object_storage(on_kind, champion, put, tmp_path, capsys):
    champion(bias=100.0)
    scan, mask = put(tmp_path / "scan.nii.gz"), tmp_path / "mask.nii.gz"
    assert on_kind("predict", "--input", str(scan), "--output", str(mask)) == 0
    assert mask.is_file() and f"({VERSION}/" in capsys.readouterr().out
    assert on_kind.forwarded() == set()


def test_scans_of_a_cluster_are_checked_where_they_are(on_kind, servers_here, put, tmp_path, capsys):
    for number in range(3):
        put(tmp_path / "in" / f"images/P{number}.nii.gz")
    storage = Storage(f"s3://{work_bucket()}/data/check")
    storage.upload(tmp_path / "in", [f"images/P{number}.nii.gz" for number in range(3)])
    assert on_kind("check-data", "--data", "s3://dwi-stroke/data/check") == 1
    out, err = capsys.readouterr()
    assert "P0" in out and "3 labelled patients with a lesion are needed" in err


@pytest.mark.parametrize("marked", [True, False], ids=["marked", "from before the marks"])
def test_a_registry_beside_a_foreign_ledger_is_refused_before_anything_is_written(
    two, ledger, marked, tmp_path, monkeypatch, capsys
):
    if marked:
        promotion.promote(f"{VERSION}/2", "by its own ledger", tmp_path)
    before = two.get_registered_model(MODEL_NAME)
    monkeypatch.setenv("S3_BUCKET", "another-place")
    for act in (
        lambda: promotion.promote(f"{VERSION}/{3 - int(before.aliases['champion'])}", "by mistake", tmp_path),
        lambda: promotion.rollback("by mistake", tmp_path),
        lambda: history_to_extend("s3://another-place/data", "d", (0.6, 0.2, 0.2), 1, "dwi"),
    ):
        with pytest.raises(StepError, match="the ledger s3://another-place/ledger do not belong together"):
            act()
    assert promotion.champion(tmp_path) == 1
    assert "WRONG: the registry http" in capsys.readouterr().out
    assert Ledger().storage.list() == []
    after = two.get_registered_model(MODEL_NAME)
    assert (after.aliases, after.tags) == (before.aliases, before.tags)


ASKS_S3 = """
from mlflow.store.artifact.mlflow_artifacts_repo import MlflowArtifactsRepository as Repository
def straight(*_):
    raise SystemExit("S3 was asked")
Repository._get_presigned_download_url = straight
import sys
from pathlib import Path
from pipelines import __main__ as command_line
command_line.STATE = Path(sys.argv.pop(1))
sys.exit(command_line.main())
"""


@pytest.mark.parametrize(("direct", "asked"), [(None, False), ("true", True)])
def test_a_model_comes_through_mlflow_unless_somebody_says_otherwise(servers, champion, put, tmp_path, direct, asked):
    champion(bias=100.0)
    scan, mask = put(tmp_path / "scan.nii.gz"), tmp_path / "mask.nii.gz"
    environment = {**os.environ, **servers} | ({"MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD": direct} if direct else {})
    command = [sys.executable, "-c", ASKS_S3, str(tmp_path / ".local"), "predict", "--input", scan, "--output", mask]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert ("S3 was asked" in done.stderr) == asked, done.stderr
    assert mask.is_file() == (not asked)


def test_the_server_offers_what_the_clients_decline(servers_here):
    """Else the test above could not fail."""
    import requests

    login = {"Authorization": f"Bearer {os.environ['MLFLOW_TRACKING_TOKEN']}"}
    info = requests.get(f"{mlflow.get_tracking_uri()}/api/3.0/mlflow/server-info", headers=login, timeout=10)
    assert "download" in json.dumps(info.json())
