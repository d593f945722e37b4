"""`make pipeline-logs` of a run whose pods are gone: from KFP's bucket, a real S3 behind a port-forward."""

import base64
import json

import pytest

from components.core.errors import StepError
from components.core.storage import Storage
from pipelines.cluster import connect
from pipelines.logs import pipeline_logs
from tests.support.kubeflow_stand_in import RUN_ID, Kubeflow, Workflow
from tests.support.kubernetes_stand_in import AFTER_A_STEP, Kubernetes, fake_kubectl

pytestmark = pytest.mark.slow

ARGO = """
archiveLogs: true
s3:
  endpoint: seaweedfs.kubeflow.svc:9000
  bucket: {bucket}
  insecure: true
  accessKeySecret: {{name: mlpipeline-minio-artifact, key: accesskey}}
  secretKeySecret: {{name: mlpipeline-minio-artifact, key: secretkey}}
"""


@pytest.fixture
def kubernetes(servers_here, servers, monkeypatch, tmp_path):
    """A cluster without pods; its SeaweedFS is the S3 server here, and the environment knows nothing of it."""
    with Kubernetes() as server, Kubeflow() as kubeflow:
        monkeypatch.setattr(connect, "KIND", {"context": "kind-dwi-stroke", "kfp": kubeflow.url, "mlflow": "http://x"})
        kubeflow.stages = [("SUCCEEDED", Workflow().step("train"))]
        port = int(servers["S3_ENDPOINT_URL"].rpartition(":")[2])
        fake_kubectl(monkeypatch, tmp_path / "bin", {"kubeflow/seaweedfs:9000": port})
        monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig(tmp_path / "kubeconfig", "kind-dwi-stroke")))
        argo = {"artifactRepository": ARGO.format(bucket=servers["S3_BUCKET"])}
        server.config_maps["kubeflow/workflow-controller-configmap"] = argo
        login = {"accesskey": "AWS_ACCESS_KEY_ID", "secretkey": "AWS_SECRET_ACCESS_KEY"}
        server.secrets["kubeflow/mlpipeline-minio-artifact"] = {
            key: base64.b64encode(servers[name].encode()).decode() for key, name in login.items()
        }
        yield server


@pytest.fixture
def keep(servers):
    """keep("train", "epoch 1", root="v2/artifacts"): KFP keeps this log of a step; the bucket holds no other."""
    bucket = Storage(f"s3://{servers['S3_BUCKET']}")

    def keep(step: str, log: str, root: str = "v2/artifacts") -> None:
        bucket.put(f"{root}/dwi-stroke-segmentation/{RUN_ID}/{step}/4f1c/executor-logs", (log + AFTER_A_STEP).encode())

    yield keep
    bucket.delete([o.key for o in bucket.list() if "dwi-stroke-segmentation" in o.key])


@pytest.fixture
def logs(kubernetes, tmp_path, monkeypatch):
    """logs(step="", raw=False): of the last run, whose workflow is removed."""
    state = tmp_path / ".local"
    state.mkdir()
    summary = {"run_id": "20261125-222254-demo", "kfp_run_id": RUN_ID, "target": "kind", "namespace": "kubeflow"}
    (state / "last-run.json").write_text(json.dumps(summary))

    def read(step: str = "", raw: bool = False) -> int:
        with pytest.MonkeyPatch.context() as patch:
            for name in ("S3_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
                patch.delenv(name)
            return pipeline_logs("", step, False, "local", state, raw)

    return read


def test_the_kept_log_is_shown_step_by_step_and_says_where_it_is_from(logs, keep, capsys):
    keep("train", "epoch 1\nepoch 2\n")
    keep("ingest", "3 cases\n")
    assert logs() == 0
    out = capsys.readouterr().out
    parts = [out.index(text) for text in ("=== ingest (its pod is gone: from s3://", "3 cases", "=== train", "epoch 2")]
    assert parts == sorted(parts) and "launcher" not in out
    assert logs("train", raw=True) == 0
    out = capsys.readouterr().out
    assert "launcher" in out and "3 cases" not in out


def test_where_a_site_has_moved_its_artifacts_they_are_found(logs, keep, kubernetes, servers, capsys):
    root = f"s3://{servers['S3_BUCKET']}/hospital/runs/"
    kubernetes.config_maps["kubeflow/kfp-launcher"] = {"defaultPipelineRoot": root}
    keep("train", "epoch 1\n", root="hospital/runs")
    logs()
    assert "epoch 1" in capsys.readouterr().out


def test_a_pod_that_is_there_is_read_itself(logs, keep, kubernetes, capsys):
    keep("train", "of the bucket\n")
    kubernetes.add_pod("train", "Succeeded", "of the pod\n", terminated={"exit_code": 0})
    logs()
    out = capsys.readouterr().out
    assert "of the pod" in out and "of the bucket" not in out


def test_what_was_not_kept_is_said(logs, keep):
    keep("train", "epoch 1\n")
    with pytest.raises(StepError, match=r"no pods of evaluate .* KFP has no archived log"):
        logs("evaluate")


@pytest.mark.parametrize(
    ("lost", "said"),
    [
        ("config map", "does not name the place of KFP's artifacts"),
        ("secret", "cannot be read in kind-.*: 404"),
    ],
)
def test_a_bucket_that_cannot_be_found_is_said(logs, kubernetes, lost, said):
    (kubernetes.config_maps if lost == "config map" else kubernetes.secrets).clear()
    with pytest.raises(StepError, match=said):
        logs()
