"""A folder on its way into the S3 of a cluster: settings from the cluster, or from here; inside it or outside."""

import base64
import os

import pytest

from components.core.errors import StepError
from components.core.storage import Storage
from pipelines.cluster import connect
from pipelines.cluster.storage import data_address
from tests.support.kubernetes_stand_in import Kubernetes, fake_kubectl

pytestmark = pytest.mark.slow

KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")


@pytest.fixture
def scans(tmp_path):
    folder = tmp_path / "scans"
    folder.mkdir()
    (folder / "case.nii.gz").write_bytes(b"a scan")
    return folder


@pytest.fixture
def kubernetes(servers_here, servers, monkeypatch, tmp_path):
    """A cluster whose SeaweedFS is the S3 server here; the environment knows nothing of it."""
    with Kubernetes() as server:
        port = int(servers["S3_ENDPOINT_URL"].rpartition(":")[2])
        fake_kubectl(monkeypatch, tmp_path / "bin", {"kubeflow/seaweedfs:8333": port})
        monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig(tmp_path / "kubeconfig", "kind-dwi-stroke")))
        server.config_maps["kubeflow/dwi-stroke-settings"] = {
            "S3_ENDPOINT_URL": "http://seaweedfs.kubeflow.svc.cluster.local:8333",
            "S3_BUCKET": servers["S3_BUCKET"],
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        secret = {name: base64.b64encode(servers[name].encode()).decode() for name in KEYS}
        server.secrets["kubeflow/dwi-stroke-s3"] = secret
        for name in ("S3_ENDPOINT_URL", "S3_BUCKET", *KEYS):
            monkeypatch.delenv(name)
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")  # is set on the way, and put back here
        yield server


def upload(target, scans, tmp_path) -> tuple[str, bytes]:
    with connect.connect(target) as cluster:
        uri = data_address(str(scans), tmp_path / ".local", cluster)
        return uri, Storage(uri).get("case.nii.gz")


def test_the_clusters_own_settings_and_a_forward_are_enough(kubernetes, scans, tmp_path, servers):
    uri, content = upload("kind", scans, tmp_path)
    assert content == b"a scan" and uri.startswith(f"s3://{servers['S3_BUCKET']}/data/scans-")


def test_for_kind_the_clusters_settings_count_whatever_the_environment_says(kubernetes, scans, tmp_path, monkeypatch):
    monkeypatch.setenv("S3_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "of another login")
    assert upload("kind", scans, tmp_path)[1] == b"a scan"
    assert "AWS_SESSION_TOKEN" not in os.environ


def test_for_another_cluster_the_environment_comes_first(kubernetes, servers, scans, tmp_path, monkeypatch):
    kubernetes.config_maps.clear()
    for name in ("S3_ENDPOINT_URL", "S3_BUCKET", *KEYS):
        monkeypatch.setenv(name, servers[name])
    assert upload("cluster", scans, tmp_path)[1] == b"a scan"
    assert not any("configmaps" in request for request in kubernetes.requests)


def test_a_login_at_aws_alone_leads_no_scan_to_aws(kubernetes, servers, scans, tmp_path, monkeypatch):
    for name in (*KEYS, "AWS_PROFILE"):
        monkeypatch.setenv(name, "of another store")
    monkeypatch.setenv("KUBE_CONTEXT", "kind-dwi-stroke")
    assert upload("cluster", scans, tmp_path)[1] == b"a scan"
    assert os.environ[KEYS[0]] == servers[KEYS[0]] and "AWS_PROFILE" not in os.environ


def test_for_kind_the_clusters_own_login_goes_to_its_mlflow_and_no_other(kubernetes, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://mlflow.example.org")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "planted-token")
    with connect.connect("kind") as cluster:
        assert cluster.mlflow_url == connect.KIND["mlflow"]
    assert os.environ["MLFLOW_TRACKING_TOKEN"] == "the cluster's login"
    assert "planted-token" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("missing", "named"), [("config_maps", "ConfigMap dwi-stroke-settings"), ("secrets", "Secret")]
)
def test_what_the_cluster_does_not_have_is_named(kubernetes, scans, tmp_path, missing, named):
    getattr(kubernetes, missing).clear()
    with pytest.raises(StepError, match=f"{named}.* in namespace kubeflow of kind-dwi-stroke: 404") as error:
        upload("kind", scans, tmp_path)
    assert "manifests/create-secrets.sh" in str(error.value)


def test_scans_in_s3_are_left_where_they_are(kubernetes, tmp_path):
    with connect.connect("kind") as cluster:
        assert data_address("s3://bucket/scans", tmp_path, cluster) == "s3://bucket/scans"
    assert kubernetes.requests == []
