"""Where the artifacts of MLflow may lie."""

import pytest
from dwi_stroke_mlflow import locations
from mlflow.exceptions import MlflowException
from mlflow.store.artifact import artifact_repository_registry as registry

DESTINATION = "s3://dwi-stroke/mlflow"
ELSEWHERE = (
    "/etc", "etc", "./etc", "file:///etc", "FILE:/etc", "s3://dwi-stroke", "s3://dwi-stroke/data", "s3://other/mlflow/x",
    "s3://dwi-stroke/mlflow", "s3://dwi-stroke/mlflowx/y", "s3://dwi-stroke/mlflow/../data", "S3://dwi-stroke/mlflow/x",
    "s3://dwi-stroke/mlflow/./x", "s3://dwi-stroke/mlflow/%2e%2e/data", "s3://dwi-stroke/mlflow/..\\data",
    "s3://dwi-stroke/mlflow/x?endpoint=h", "s3://dwi-stroke/mlflow/x#y", "s3://dwi-stroke/mlflow/x\n/../y",
    "http://h/api/2.0/mlflow-artifacts/artifacts/x", "https://h/x", "ftp://h/x", "sftp://h/x", "gs://b/x", "dbfs:/x",
    "mlflow-artifacts://h/x", "mlflow-artifacts:/../x", "mlflow-artifacts:/%2e%2e/x", "mlflow-artifacts:x", "hdfs://h/x",
    "runs://h/x", "models://h/x", "runs:/id/../../x", "http://[", "",
)  # fmt: skip


@pytest.mark.parametrize("what", ["artifact_location", "source"])
@pytest.mark.parametrize("location", ELSEWHERE)
def test_a_location_elsewhere_is_refused(what, location):
    with pytest.raises(MlflowException, match=r"outside this server's artifacts, s3://dwi-stroke/mlflow"):
        locations.require_below(location, what, DESTINATION)


@pytest.mark.parametrize("location", ["mlflow-artifacts:/7", "s3://dwi-stroke/mlflow/7/a b/(x)"])
def test_a_location_below_the_destination_is_taken(location):
    for what in locations.SCHEMES:
        locations.require_below(location, what, DESTINATION)


@pytest.mark.parametrize("source", ["models:/m-0123", "models:/name/1", "models:/name@champion", "runs:/0123/model"])
def test_a_model_of_mlflow_is_a_source_and_no_place_for_an_experiment(source):
    locations.require_below(source, "source", DESTINATION)
    with pytest.raises(MlflowException):
        locations.require_below(source, "artifact_location", DESTINATION)


@pytest.fixture
def kept(monkeypatch):
    """MLflow as in the server, for the time of a test."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(
        registry._artifact_repository_registry, "_registry", dict(registry.get_registered_artifact_repositories())
    )
    for store, name in ((locations.Tracking, "create_experiment"), (locations.Registry, "create_model_version")):
        monkeypatch.setattr(store, name, getattr(store, name))
    locations.allow_only(DESTINATION)
    return registry.get_artifact_repository


@pytest.mark.parametrize(
    "scheme", sorted({*registry.get_registered_artifact_repositories()} - {"s3", "runs", "models"})
)
def test_no_other_kind_of_storage_is_opened(kept, scheme):
    with pytest.raises(MlflowException, match=r"outside this server's artifacts|cannot use|refus"):
        kept(f"{scheme}://h/x" if scheme else "/etc")


@pytest.mark.parametrize("location", ["s3://dwi-stroke/data", "s3://other/mlflow/x", f"{DESTINATION}/../data"])
def test_no_request_leaves_for_another_place_in_s3(kept, location, tmp_path):
    repository = kept(location)
    (tmp_path / "file").write_text("x")
    for act in (
        lambda: repository.list_artifacts(),
        lambda: repository.download_artifacts("file", str(tmp_path)),
        lambda: repository.log_artifact(str(tmp_path / "file")),
        lambda: repository.delete_artifacts("file"),
        lambda: repository.get_download_presigned_url("file"),
    ):
        with pytest.raises(MlflowException, match="outside this server's artifacts"):
            act()


def test_a_path_does_not_lead_out_of_a_place_of_ours(kept, tmp_path):
    with pytest.raises(MlflowException, match="outside this server's artifacts"):
        kept(f"{DESTINATION}/1").download_artifacts("../../data/scan", str(tmp_path))


def test_ours_is_asked_for():
    locations._check_request(DESTINATION, {"Bucket": "dwi-stroke", "Key": "mlflow/1/a"})
    locations._check_request(DESTINATION, {"Bucket": "dwi-stroke", "Prefix": "mlflow/"})
    locations._check_request(DESTINATION, {"Bucket": "dwi-stroke", "Delete": {"Objects": [{"Key": "mlflow/1"}]}})
    for params in (
        {"Key": "mlflowx"},
        {"Prefix": ""},
        {},
        {"Delete": {"Objects": [{"Key": "mlflow/1"}, {"Key": "x"}]}},
    ):
        with pytest.raises(MlflowException):
            locations._check_request(DESTINATION, {"Bucket": "dwi-stroke"} | params)
