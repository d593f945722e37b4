"""The login of a cluster's MLflow."""

import os

import pytest

from components.core.errors import StepError
from pipelines.cluster.connect import connect


@pytest.fixture
def there(cluster, monkeypatch):
    """`there()` is what MLFLOW_TRACKING_TOKEN holds once MLflow's address on kind was asked for."""
    monkeypatch.setenv("NETRC", "before")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "another's")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://another")

    def ask() -> str:
        with connect("kind", kfp=False) as connection:
            assert connection.mlflow_url
        return os.environ["MLFLOW_TRACKING_TOKEN"]

    return ask


def test_it_comes_from_the_secret(there):
    assert there() == "the cluster's login"
    assert os.environ["NETRC"] == os.devnull


def test_a_cluster_from_before_there_was_a_login_is_refused_in_words(there, kubernetes):
    kubernetes.secrets.clear()
    with pytest.raises(StepError, match=r"Secret dwi-stroke-mlflow in namespace kubeflow .* 404 .*create-secrets\.sh"):
        there()


def test_a_secret_without_it_is_named(there, kubernetes):
    kubernetes.secrets["kubeflow/dwi-stroke-mlflow"] = {"other": "eA=="}
    with pytest.raises(StepError, match="it has no MLFLOW_TRACKING_TOKEN"):
        there()


def test_with_an_address_of_ones_own_ones_own_login_stays(cluster, tracking, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking)
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "mine")
    with connect("cluster", kfp=False) as connection:
        assert connection.mlflow_url == tracking
    assert os.environ["MLFLOW_TRACKING_TOKEN"] == "mine"
