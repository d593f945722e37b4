"""Object storage against a real S3 server."""

import os
import shutil
import time
import uuid
from types import SimpleNamespace

import pytest

from components.core import s3_client
from components.core import storage as module
from components.core.errors import StepError
from components.core.s3_client import connect
from components.core.storage import Storage, digest_of
from components.train.checkpoints import Checkpoints
from pipelines.upload import upload
from tests.faults.proxy import Proxy

pytestmark = pytest.mark.usefixtures("servers_here")


@pytest.fixture
def storage() -> Storage:
    return Storage(f"s3://{os.environ['S3_BUCKET']}/{uuid.uuid4().hex}")


@pytest.fixture
def proxy(servers_here, monkeypatch):
    """Before the S3 server; where a silence of a second is noticed, and a second is all the patience there is."""
    monkeypatch.setattr(s3_client, "ANSWER_SECONDS", 1)
    monkeypatch.setattr(module, "PATIENCE_SECONDS", 1)
    for place in (module, s3_client):
        monkeypatch.setattr(place, "ATTEMPTS", 2)
    with Proxy(os.environ["S3_ENDPOINT_URL"], stalls=2) as proxy:
        monkeypatch.setenv("S3_ENDPOINT_URL", proxy.url)
        yield proxy


def first(fault: str, times: int = 1, method: str = ""):
    """A plan: the fault for the first so many requests for an object (of this method)."""
    left = [fault] * times
    return lambda request: left.pop() if left and request.is_object and method in request.method else None


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


@pytest.mark.slow
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


def test_a_server_that_always_begins_anew_and_breaks_off_is_given_up(storage, tmp_path):
    class FromTheStart(Counting):
        def get_object(self, Range=None, **where):
            self.cut_at = 1000
            return super().get_object(**where)

    storage.put("a", os.urandom(3000))
    place = Storage(storage.uri, FromTheStart(connect()))
    place.patience = 1
    with pytest.raises(StepError, match="/a: NothingReceived for 1 s"):
        place.download(storage.list(), tmp_path)


def test_what_an_interrupted_call_fetched_is_not_fetched_again(storage, tmp_path):
    storage.put("a", b"1")
    storage.put("b", b"22")
    storage.download(storage.list()[:1], tmp_path)
    client = Counting(connect())
    Storage(storage.uri, client).download(storage.list(), tmp_path)
    assert len(client.ranges) == 1


def test_a_link_where_a_part_goes_is_not_followed(storage, tmp_path):
    storage.put("a", b"new content")
    (tmp_path / "theirs").write_text("theirs")
    (tmp_path / "there").mkdir()
    part = f"a.{module._short(storage.list()[0].etag)}.part"
    (tmp_path / "there" / part).symlink_to(tmp_path / "theirs")
    storage.download(storage.list(), tmp_path / "there")
    assert (tmp_path / "theirs").read_text() == "theirs"
    assert (tmp_path / "there" / "a").read_bytes() == b"new content"


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


def test_two_checkouts_with_the_same_folder_keep_their_scans_apart(tmp_path):
    folder, uris = tmp_path / "scans", {}
    for who in ("first", "second"):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        (folder / f"{who}.npy").write_bytes(b"1")
        uris[who] = upload(folder, tmp_path / who / ".local")
    assert {who: [o.key for o in Storage(uri).list()] for who, uri in uris.items()} == {
        "first": ["first.npy"], "second": ["second.npy"],
    }  # fmt: skip


def test_a_copied_checkout_is_another_one(tmp_path):
    folder = tmp_path / "scans"
    folder.mkdir()
    (folder / "a.npy").write_bytes(b"1")
    uri = upload(folder, tmp_path / "one" / ".local")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    (folder / "a.npy").rename(folder / "b.npy")
    assert upload(folder, tmp_path / "two" / ".local") != uri
    assert [o.key for o in Storage(uri).list()] == ["a.npy"]


def test_a_moved_checkout_is_the_same_one(tmp_path, caplog):
    caplog.set_level("INFO")
    folder = tmp_path / "scans"
    folder.mkdir()
    (folder / "a.npy").write_bytes(b"1")
    uri = upload(folder, tmp_path / "here" / ".local")
    (tmp_path / "here").rename(tmp_path / "there")
    assert upload(folder, tmp_path / "there" / ".local") == uri
    assert caplog.messages[-1].endswith("0 files sent, 0 removed, 1 unchanged")


def test_what_somebody_else_put_there_is_named_and_stays(tmp_path):
    folder, state = tmp_path / "scans", tmp_path / "state"
    folder.mkdir()
    for name in "ab":
        (folder / f"{name}.npy").write_bytes(b"1")
    storage = Storage(upload(folder, state))
    storage.put("theirs.npy", b"2")
    (folder / "a.npy").unlink()
    with pytest.raises(StepError, match=r"/theirs\.npy was not put there by this checkout \(1 such objects\)"):
        upload(folder, state)
    assert [o.key for o in storage.list()] == ["a.npy", "b.npy", "theirs.npy"]


def test_what_an_interrupted_upload_sent_is_this_checkouts_own(tmp_path, monkeypatch):
    folder, state = tmp_path / "scans", tmp_path / "state"
    folder.mkdir()
    for name in "ab":
        (folder / f"{name}.npy").write_bytes(b"1")
    put = Storage.put

    def only_a(self, key, source):
        if key == "b.npy":
            raise StepError("stopped")
        return put(self, key, source)

    with monkeypatch.context() as patch:
        patch.setattr(Storage, "put", only_a)
        with pytest.raises(StepError, match="stopped"):
            upload(folder, state)
    (folder / "a.npy").unlink()
    assert [o.key for o in Storage(upload(folder, state)).list()] == ["b.npy"]


@pytest.mark.sampled(2)
@pytest.mark.parametrize("answer", [None, "", "y", "n"])
def test_to_remove_much_it_asks_and_without_a_terminal_it_refuses(tmp_path, monkeypatch, caplog, answer):
    caplog.set_level("INFO")
    folder, state = tmp_path / "scans", tmp_path / "state"
    folder.mkdir()
    for number in range(40):
        (folder / f"{number:02d}.npy").write_bytes(b"1")
    storage = Storage(upload(folder, state))
    for number in range(11):
        (folder / f"{number:02d}.npy").unlink()
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: answer is not None))
    monkeypatch.setattr("builtins.input", lambda question: answer)
    if answer != "y":
        with pytest.raises(StepError, match=f"11 of 40 objects at {storage.uri} would be removed"):
            upload(folder, state)
        assert len(storage.list()) == 40
        monkeypatch.setenv("UPLOAD_DELETE", "1")
    upload(folder, state)
    assert len(storage.list()) == 29
    assert "to be removed, as the folder holds them no longer: 00.npy, 01.npy, 02.npy, 03.npy, 04.npy and 6 more" in (
        caplog.text
    )


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


@pytest.mark.sampled(4)
@pytest.mark.parametrize("fault", ["503", "429", "reset", "stall", "lost", "cut", "flipped"])
def test_a_fault_that_passes_is_not_noticed(proxy, storage, tmp_path, fault):
    proxied = Storage(storage.uri)
    proxy.plan = first(fault, method="PUT") if fault != "flipped" else lambda request: None
    proxied.put("a", b"scan" * 1000)
    proxy.plan = first(fault, method="GET")
    assert proxied.get("a") == b"scan" * 1000
    proxy.plan = first(fault, method="GET")
    proxied.download(proxied.list(), tmp_path)
    assert (tmp_path / "a").read_bytes() == b"scan" * 1000
    assert proxy.counts[fault] >= 2


def test_a_refusal_that_is_cut_short_is_asked_for_again(proxy, storage):
    proxied = Storage(storage.uri)
    proxy.plan = first("cut", method="GET")
    with pytest.raises(StepError, match="no such object"):
        proxied.get("not there")
    assert proxy.counts["cut"] == 1


@pytest.mark.parametrize("size", [1000, 17 << 20], ids=["whole", "in parts"])
def test_a_byte_altered_on_the_way_there_is_noticed_and_sent_again(proxy, storage, tmp_path, size):
    content = os.urandom(size)
    (tmp_path / "a").write_bytes(content)
    left = ["sent flipped"]
    proxy.plan = lambda request: left.pop() if left and request.method == "PUT" else None
    Storage(storage.uri).put("a", tmp_path / "a")
    assert proxy.counts["sent flipped"] == 1
    assert storage.get("a") == content


@pytest.mark.parametrize("size", [1000, 17 << 20], ids=["whole", "in parts"])
def test_a_byte_altered_at_every_try_is_refused_by_name_and_nothing_is_kept(proxy, storage, tmp_path, size):
    storage.put("a", os.urandom(size))
    proxied = Storage(storage.uri)
    proxy.plan = lambda request: "flipped" if request.is_object else None
    for call in (lambda: proxied.get("a"), lambda: proxied.download(proxied.list(), tmp_path)):
        with pytest.raises(StepError, match="/a did not match its checksum"):
            call()
    with pytest.raises(StepError, match="/a did not match its checksum"):
        proxied.sha256("a")
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("fault", "said"),
    [("503", "SlowDown for 1 s"), ("reset", "for 1 s from the server"), ("expired", "the login has expired")],
)  # fmt: skip
def test_a_fault_that_lasts_ends_in_one_sentence_and_soon_however_many_objects_wait(
    proxy, storage, tmp_path, fault, said
):
    objects = [module.Object(f"{i}", 10, "") for i in range(200)]
    proxied = Storage(storage.uri)
    proxy.plan = lambda request: fault
    for call in (proxied.list, lambda: proxied.put("a", b"1"), lambda: proxied.download(objects, tmp_path)):
        began = time.monotonic()
        with pytest.raises(StepError, match=said) as error:
            call()
        assert time.monotonic() - began < 15
        assert "\n" not in str(error.value)


def test_what_a_server_did_not_remove_is_named(storage):
    class Refusing(Counting):
        def delete_objects(self, **_):
            return {"Errors": [{"Key": "prefix/a", "Code": "AccessDenied"}]}

    with pytest.raises(StepError, match=r"prefix/a was not removed \(AccessDenied\)"):
        Storage(storage.uri, Refusing(connect())).delete(["a"])


def test_an_upload_waits_until_the_listing_shows_what_was_sent(proxy, tmp_path):
    folder = tmp_path / "scans"
    folder.mkdir()
    (folder / "a.npy").write_bytes(b"1")
    upload(folder, tmp_path / "state")
    (folder / "a.npy").write_bytes(b"2")
    (folder / "b.npy").write_bytes(b"3")
    listings = []

    def lagging(request):
        listings.extend([request] if request.is_listing else [])
        return "stale" if 1 < len(listings) < 4 else None

    proxy.plan = lagging
    uri = upload(folder, tmp_path / "state")
    assert proxy.counts["stale"] == 2
    assert {o.key: Storage(uri).get(o.key) for o in Storage(uri).list()} == {"a.npy": b"2", "b.npy": b"3"}


def test_a_listing_that_lags_for_good_is_said(proxy, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SETTLED_SECONDS", 1)
    folder = tmp_path / "scans"
    folder.mkdir()
    (folder / "a.npy").write_bytes(b"1")
    upload(folder, tmp_path / "state")
    (folder / "a.npy").write_bytes(b"2")
    proxy.plan = lambda request: "stale" if request.is_listing else None
    with pytest.raises(StepError, match=r"/a\.npy differs from what was uploaded"):
        upload(folder, tmp_path / "state")


@pytest.mark.parametrize(
    ("tag", "encryption"), [('"' + "0" * 32 + '"', "aws:kms"), ('"strange"', ""), ('"' + "0" * 32 + '-3"', "")]
)
def test_an_etag_that_is_no_checksum_is_made_up_for_by_reading_twice(storage, tmp_path, tag, encryption):
    class Otherwise(Counting):
        """A server that encrypts with a key of its own, names objects as it likes, or cut them into odd parts."""

        def get_object(self, **call):
            return super().get_object(**call) | {"ETag": tag, "ServerSideEncryption": encryption}

    storage.put("a", b"scan" * 100)
    client = Otherwise(connect())
    odd = Storage(storage.uri, client)
    assert odd.get("a") == b"scan" * 100
    odd.download([module.Object("a", 400, tag.strip('"'))], tmp_path)
    assert (tmp_path / "a").read_bytes() == b"scan" * 100
    assert client.ranges == [None] * 4
