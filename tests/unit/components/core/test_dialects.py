"""Object storage in the dialect of each kind of store: what is sent, listed, fetched and removed."""

import pytest

from components.core.errors import StepError
from components.core.storage import Storage
from pipelines.upload import upload
from tests.support.s3_stand_in import DIALECTS, S3StandIn

KEYS = ["a.nii.gz", "ก/b & c.nii.gz"]


@pytest.fixture
def store(monkeypatch):
    """store(dialect) -> a running store that this process's environment points at."""
    running = []

    def start(dialect: str) -> S3StandIn:
        running.append(S3StandIn(DIALECTS[dialect]).__enter__())
        environment = {
            "S3_ENDPOINT_URL": running[-1].url,
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
        }
        for name, value in (environment | {"S3_BUCKET": "bucket", "NO_PROXY": "127.0.0.1"}).items():
            monkeypatch.setenv(name, value)
        for name in ("AWS_REQUEST_CHECKSUM_CALCULATION", "AWS_RESPONSE_CHECKSUM_VALIDATION", "AWS_PROFILE"):
            monkeypatch.delenv(name, raising=False)
        return running[-1]

    yield start
    for one in running:
        one.__exit__()


@pytest.mark.sampled(3)
@pytest.mark.parametrize("dialect", DIALECTS)
def test_objects_are_sent_listed_fetched_and_removed(store, tmp_path, dialect):
    there = store(dialect)
    storage = Storage("s3://bucket/prefix")
    contents = {key: key.encode() * 200 for key in KEYS}
    tags = {key: storage.put(key, content) for key, content in contents.items()}
    assert there.objects == {f"bucket/prefix/{key}": content for key, content in contents.items()}
    assert {o.key: o.etag for o in storage.list()} == tags
    storage.download(storage.list(), tmp_path)
    assert {key: (tmp_path / key).read_bytes() for key in KEYS} == contents
    storage.delete(KEYS)
    assert there.objects == {}


@pytest.mark.sampled(3)
@pytest.mark.parametrize("dialect", DIALECTS)
def test_an_upload_removes_what_the_folder_holds_no_longer(store, tmp_path, dialect):
    there = store(dialect)
    folder = tmp_path / "scans"
    folder.mkdir()
    for name in ("a.npy", "b.npy"):
        (folder / name).write_bytes(name.encode() * 200)
    upload(folder, tmp_path / "state")
    (folder / "b.npy").unlink()
    upload(folder, tmp_path / "state")
    assert [key.rpartition("/")[2] for key in there.objects] == ["a.npy"]


@pytest.mark.parametrize("dialect", [name for name, dialect in DIALECTS.items() if dialect.batch is not None])
def test_objects_go_in_one_batch_where_the_store_takes_one(store, dialect):
    there = store(dialect)
    Storage("s3://bucket").delete(KEYS)
    assert [request.partition(" ")[0] for request in there.requests] == ["POST"]


def test_a_batch_that_is_refused_is_deleted_one_by_one(store):
    there = store("a store without batch deletes")
    Storage("s3://bucket").delete(KEYS)
    assert [request.partition(" ")[0] for request in there.requests] == ["POST", "DELETE", "DELETE"]


def test_a_refusal_to_delete_names_the_object_once(store):
    there = store("MinIO, old")
    there.refuses = {"POST", "DELETE"}
    with pytest.raises(StepError) as error:
        Storage("s3://bucket/prefix").delete(KEYS)
    assert str(error.value).startswith("s3://bucket/prefix/a.nii.gz: access was denied")
    assert str(error.value).count("prefix") == 1


def test_what_a_store_that_cuts_objects_its_own_way_altered_is_noticed(store, monkeypatch):
    there = store("SeaweedFS 4.34")
    storage = Storage("s3://bucket")
    sent = []

    def altered(key, source):
        sent.append(key)
        there.objects[f"bucket/{key}"] = source[:-1] + b"x"
        return storage.client.head_object(Bucket="bucket", Key=key)

    monkeypatch.setattr(storage, "_send", altered)
    with pytest.raises(StepError, match="/a did not match its checksum"):
        storage.put("a", b"scan" * 200)
    assert len(sent) == 3


def test_the_users_own_word_on_checksums_counts(store, monkeypatch):
    store("a store that knows no checksums but MD5")
    monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "when_supported")
    with pytest.raises(StepError, match="NotImplemented"):
        Storage("s3://bucket").put("a", b"1")
