import mlflow
import pytest


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory):
    """An MLflow database with its tables, which take seconds to make."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    mlflow.MlflowClient(f"sqlite:///{path}").search_experiments()
    return path
