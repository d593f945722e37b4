"""Object storage against a real S3 server."""

import os
import uuid

import pytest

from components.core.step import StepError
from components.core.storage import Storage, connect, digest_of
from components.train.checkpoints import Checkpoints
from pipelines.upload import upload

pytestmark = pytest.mark.usefixtures("servers_here")


@pytest.fixture
def storage() -> Storage:
    return Storage(f"s3://{os.environ['S3_BUCKET']}/{uuid.uuid4().hex}")


class Counting:
    """A client that counts its downloads and can cut one short."""

    def __init__(self, client, cut_at: int | None = None):
        self.client, self.cut_at, self.ranges = client, cut_at, []

    def get_object(self, **call):
        self.ranges.append(call.get("Range"))
        answer = self.client.get_object(**call)
        if self.cut_at is not None:
            answer["Body"] = _Cut(answer["Body"], self.cut_at)
            self.cut_at = None
        return answer

    def __getattr__(self, name):
        return getattr(self.client, name)


class _Cut:
    def __init__(self, body, at: int):
        self.body, self.at = body, at

    def iter_chunks(self, size):
        yield self.body.read(self.at)


def test_what_is_put_is_listed_with_size_and_comes_back(storage, tmp_path):
    storage.put("a/b.bin", b"x" * 1000)
    storage.put("ก/scan 1.npy", b"thai")
    listed = storage.list()
    assert [(o.key, o.size) for o in listed] == [("a/b.bin", 1000), ("ก/scan 1.npy", 4)]
    storage.download(listed, tmp_path)
    assert (tmp_path / "a/b.bin").read_bytes() == b"x" * 1000
    assert (tmp_path / "ก/scan 1.npy").read_bytes() == b"thai"


def test_more_than_a_thousand_objects_are_all_listed_and_deleted(storage, tmp_path):
    for i in range(1010):
        (tmp_path / f"{i:04d}").write_bytes(b"1")
    storage.upload(tmp_path, [f"{i:04d}" for i in range(1010)])
    assert len(storage.list()) == 1010
    storage.delete(o.key for o in storage.list())
    assert storage.list() == []


def test_a_download_cut_short_goes_on_where_it_stopped(storage, tmp_path):
    content = os.urandom(3_000_000)
    storage.put("scan.nii.gz", content)
    client = Counting(connect(), cut_at=1_000_000)
    Storage(storage.uri, client).download(storage.list(), tmp_path)
    assert (tmp_path / "scan.nii.gz").read_bytes() == content
    assert client.ranges == [None, "bytes=1000000-"]


def test_what_an_interrupted_call_fetched_is_not_fetched_again(storage, tmp_path):
    storage.put("a", b"1")
    storage.put("b", b"22")
    storage.download(storage.list()[:1], tmp_path)
    client = Counting(connect())
    Storage(storage.uri, client).download(storage.list(), tmp_path)
    assert len(client.ranges) == 1


def test_the_digest_changes_with_content_of_the_same_size(storage):
    storage.put("a", b"one")
    before = digest_of(storage.list())
    storage.put("a", b"two")
    assert digest_of(storage.list()) != before


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [("AWS_SECRET_ACCESS_KEY", "wrong", "AWS_SECRET_ACCESS_KEY"), ("AWS_ACCESS_KEY_ID", "nobody", "AWS_ACCESS_KEY_ID")],
)
def test_wrong_credentials_name_the_variable_and_not_the_value(storage, monkeypatch, variable, value, said):
    monkeypatch.setenv(variable, value)
    with pytest.raises(StepError, match=said) as error:
        Storage(storage.uri).list()
    assert value not in str(error.value).split()


def test_a_missing_bucket_is_named():
    with pytest.raises(StepError, match="'not-there' does not exist"):
        Storage("s3://not-there/x").list()


def test_upload_mirrors_a_folder_and_sends_only_what_changed(tmp_path, caplog):
    caplog.set_level("INFO")
    folder, state = tmp_path / "scans", tmp_path / "state"
    (folder / "images").mkdir(parents=True)
    for name in ("a", "b", "c"):
        (folder / "images" / f"{name}.npy").write_bytes(name.encode() * 10)
    uri = upload(folder, state)
    upload(folder, state)
    assert caplog.messages[-1].endswith("0 files sent, 0 removed, 3 unchanged")
    (folder / "images" / "a.npy").write_bytes(b"z" * 10)
    (folder / "images" / "b.npy").unlink()
    assert upload(folder, state) == uri
    assert caplog.messages[-1].endswith("1 files sent, 1 removed, 1 unchanged")
    assert Storage(uri).get("images/a.npy") == b"z" * 10


def test_a_link_out_of_the_folder_is_left_out_by_name(tmp_path, caplog):
    (tmp_path / "secret").write_text("outside")
    folder = tmp_path / "scans"
    folder.mkdir()
    (folder / "a.npy").write_bytes(b"1")
    (folder / "link.npy").symlink_to(tmp_path / "secret")
    uri = upload(folder, tmp_path / "state")
    assert [o.key for o in Storage(uri).list()] == ["a.npy"]
    assert "link.npy is a link out of the folder" in caplog.text


def test_checkpoints_come_back_whole_and_the_newest_first(storage):
    checkpoints = Checkpoints("d", storage)
    for epoch in (1, 2, 3):
        checkpoints.save(epoch, {"history": [epoch]})
    checkpoints.wait()
    assert Checkpoints("d", storage).load() == {"history": [3]}
    assert len(storage.list()) == 1
