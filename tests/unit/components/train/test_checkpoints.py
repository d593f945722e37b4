"""A killed run finds the newest whole state again, and an object store that fails does not end a training.

Storage is played by a dictionary: what is tested is which objects are written, read and removed, and damage has to be
done to them on purpose. The same against a real S3 server is in tests/integration.
"""

import hashlib
import io
import pickle

import pytest
import torch
from torch import nn

from components.core.errors import StepError
from components.core.storage import Object
from components.train.checkpoints import Checkpoints


class InMemoryStorage:
    """Storage's list, get, put and delete; every method named in `broken` raises what Storage raises."""

    def __init__(self):
        self.objects: dict[str, bytes] = {}
        self.broken: set[str] = set()

    def _works(self, what: str) -> None:
        if what in self.broken:
            raise StepError(f"s3://bucket: no {what} today. Check S3_ENDPOINT_URL.")

    def list(self) -> list[Object]:
        self._works("list")
        return [Object(key, len(blob), "") for key, blob in sorted(self.objects.items())]

    def get(self, key: str) -> bytes:
        self._works("get")
        return self.objects[key]

    def put(self, key: str, source: bytes) -> None:
        self._works("put")
        self.objects[key] = source

    def delete(self, keys) -> None:
        self._works("delete")
        for key in keys:
            del self.objects[key]


@pytest.fixture
def storage():
    return InMemoryStorage()


@pytest.fixture
def checkpoints(storage):
    return Checkpoints("digest", storage)


def save(checkpoints: Checkpoints, *epochs: int) -> None:
    for epoch in epochs:
        checkpoints.save(epoch, {"epoch": epoch})
    checkpoints.wait()


def add_whole(storage: InMemoryStorage, *epochs: int) -> list[str]:
    """Whole states of these epochs, side by side, as a kill between put and delete leaves them; their keys."""
    keys = []
    for epoch in epochs:
        elsewhere = InMemoryStorage()
        save(Checkpoints("digest", elsewhere), epoch)
        storage.objects |= elsewhere.objects
        keys += elsewhere.objects
    return keys


def test_without_a_checkpoint_there_is_no_state(checkpoints):
    assert checkpoints.load() is None


def test_what_was_saved_is_loaded_by_the_next_run(checkpoints, storage):
    save(checkpoints, 1)
    assert Checkpoints("digest", storage).load() == {"epoch": 1}


def test_a_later_state_of_the_same_epoch_takes_the_place_of_the_earlier(checkpoints, storage):
    save(checkpoints, 7)
    checkpoints.save(7, {"epoch": 7, "batches": 3})
    checkpoints.wait()
    assert Checkpoints("digest", storage).load() == {"epoch": 7, "batches": 3}
    checkpoints.save(7, {"epoch": 7, "batches": 3})  # the very same again
    checkpoints.wait()
    assert len(storage.objects) == 1


def test_the_newest_whole_state_wins(checkpoints, storage):
    add_whole(storage, 9, 10, 101)
    assert checkpoints.load() == {"epoch": 101}


@pytest.mark.parametrize(
    "damage",
    [lambda b: b[:-1], lambda b: b"", lambda b: b[:100] + bytes([b[100] ^ 1]) + b[101:], lambda b: b + b"."],
    ids=["cut short", "empty", "one bit altered", "one byte more"],
)
def test_a_damaged_state_is_passed_over_for_the_one_before_and_named_in_the_log(checkpoints, storage, damage, caplog):
    _, newest = add_whole(storage, 6, 7)
    storage.objects[newest] = damage(storage.objects[newest])
    assert checkpoints.load() == {"epoch": 6}
    assert newest in caplog.text


def test_where_no_state_is_whole_training_starts_anew(checkpoints, storage):
    (key,) = add_whole(storage, 3)
    storage.objects[key] += b"."
    assert checkpoints.load() is None


def test_objects_that_are_no_checkpoints_are_left_alone(checkpoints, storage):
    storage.objects = {"notes.txt": b"mine", "epoch-0099.pt": b"of another program"}
    save(checkpoints, 1, 2)
    assert checkpoints.load() == {"epoch": 2}
    assert {"notes.txt", "epoch-0099.pt"} <= storage.objects.keys()


def test_older_states_are_removed_once_the_new_one_is_there(checkpoints, storage):
    save(checkpoints, 1, 2, 3)
    assert len(storage.objects) == 1
    assert checkpoints.load() == {"epoch": 3}


@pytest.mark.parametrize("broken", ["list", "put", "delete"])
def test_a_failed_sending_is_logged_and_not_fatal_and_nothing_is_lost(checkpoints, storage, broken, caplog):
    save(checkpoints, 1)
    storage.broken = {broken}
    save(checkpoints, 2)
    assert f"training continues: s3://bucket: no {broken} today" in caplog.text
    storage.broken = set()
    assert checkpoints.load()["epoch"] in (1, 2)
    save(checkpoints, 3)
    assert checkpoints.load() == {"epoch": 3}
    assert len(storage.objects) == 1


def test_a_storage_that_cannot_be_read_is_an_error_and_no_fresh_start(checkpoints, storage):
    save(checkpoints, 1)
    storage.broken = {"list"}
    with pytest.raises(StepError, match="no list today"):
        checkpoints.load()


def test_the_state_is_that_of_the_moment_of_saving_though_it_is_sent_later(checkpoints):
    weights = torch.ones(3)
    checkpoints.save(1, {"weights": weights})
    weights.zero_()
    checkpoints.wait()
    assert checkpoints.load()["weights"].tolist() == [1, 1, 1]


def forged(storage: InMemoryStorage, epoch: int, blob: bytes) -> None:
    """An object that is its name's digest, as anybody can make one who may write there."""
    storage.objects[f"epoch-{epoch:04d}-{hashlib.sha256(blob).hexdigest()[:16]}.pt"] = blob


class Harm:
    def __reduce__(self):
        return print, ("harm",)


def as_torch_saves(state) -> bytes:
    torch.save(state, buffer := io.BytesIO())
    return buffer.getvalue()


@pytest.mark.parametrize(
    "blob",
    [as_torch_saves({"harm": Harm()}), pickle.dumps({"harm": Harm()}), b"not a checkpoint", b"", b"PK\x03\x04",
     as_torch_saves({"x": torch.ones(9)})[:-30]],
    ids=["malicious", "a malicious plain pickle", "text", "empty", "a zip's first bytes", "cut short"],
)  # fmt: skip
def test_what_was_put_in_a_checkpoints_place_is_refused_and_runs_no_code(checkpoints, storage, blob, caplog, capsys):
    save(checkpoints, 1)
    forged(storage, 2, blob)
    assert checkpoints.load() == {"epoch": 1}
    assert "epoch-0002" in caplog.text and "is refused" in caplog.text
    assert "harm" not in capsys.readouterr().out


def test_after_a_sending_that_failed_the_next_does_not_wait_for_the_store_to_come_back(checkpoints, storage):
    storage.broken = {"put"}
    save(checkpoints, 1)
    assert storage.patience == 0
    storage.broken = set()
    save(checkpoints, 2)
    assert storage.patience > 60


def test_everything_that_training_keeps_comes_back_as_it_was(checkpoints):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    optimizer = torch.optim.Adam(network.parameters(), lr=0.1, fused=True)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, "min", 0.5, 5)
    network(torch.randn(8, 3)).sum().backward()
    optimizer.step()
    scheduler.step(0.25)
    scaler = torch.amp.GradScaler("cpu", enabled=True)
    state = {
        "network": network.state_dict(), "optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict(),
        "scaler": scaler.state_dict(), "history": [{"epoch": 1, "train_loss": 0.5}], "precision": "float32",
    }  # fmt: skip
    checkpoints.save(1, state)
    checkpoints.wait()
    loaded = checkpoints.load()
    assert {k: loaded[k] for k in ("scheduler", "scaler", "history", "precision")} == {
        k: state[k] for k in ("scheduler", "scaler", "history", "precision")
    }
    torch.testing.assert_close(loaded["network"], dict(state["network"]), rtol=0, atol=0)
    torch.testing.assert_close(loaded["optimizer"]["state"], state["optimizer"]["state"], rtol=0, atol=0)
