"""The weights of a network of an ensemble are compared with those in the MLflow run of its training."""

import hashlib
from types import SimpleNamespace

import pytest

from pipelines.models.link_report import NotReached
from pipelines.models.network_lineage import _weights_of_run

NETWORK = {"training_digest": "d", "weights_sha256": hashlib.sha256(b"registered").hexdigest()}


@pytest.fixture
def found(tmp_path):
    """found({"run": ("its parent", b"weights")}): the weights that are compared; None instead of bytes: unreadable."""

    def find(stored: dict[str, tuple[str, bytes | None]]) -> str:
        def of_other_run(run_id: str, name: str):
            content = stored[run_id][1]
            if content is None:
                raise NotReached(f"{run_id} does not give it")
            (tmp_path / run_id).write_bytes(content)
            return tmp_path / run_id

        runs = [
            SimpleNamespace(
                info=SimpleNamespace(run_id=name), data=SimpleNamespace(tags={"mlflow.parentRunId": parent})
            )
            for name, (parent, _) in stored.items()
        ]
        client = SimpleNamespace(
            get_run=lambda _: SimpleNamespace(info=SimpleNamespace(experiment_id="1")),
            search_runs=lambda experiments, condition, max_results=1000: runs[:max_results],
        )
        files = SimpleNamespace(version=SimpleNamespace(run_id="ours"), of_other_run=of_other_run)
        return _weights_of_run(client, NETWORK, 1, files)()

    return find


def test_the_run_below_that_of_the_version_counts(found):
    same = {"a": ("another", b"others"), "b": ("ours", b"registered")}
    assert found(same) == NETWORK["weights_sha256"]
    altered = {"a": ("another", b"registered"), "b": ("ours", b"altered")}
    assert found(altered) == hashlib.sha256(b"altered").hexdigest()


def test_without_such_a_run_any_run_of_the_training_with_these_weights_counts(found):
    stored = {"a": ("another", b"others"), "b": ("a third", None), "c": ("a fourth", b"registered")}
    assert found(stored) == NETWORK["weights_sha256"]
    assert found({"a": ("another", b"others")}) == hashlib.sha256(b"others").hexdigest()


def test_what_no_run_gives_is_not_reached(found):
    with pytest.raises(NotReached, match="b does not give it"):
        found({"b": ("another", None)})
    with pytest.raises(NotReached, match="the MLflow run in which it was trained is gone"):
        found({})
