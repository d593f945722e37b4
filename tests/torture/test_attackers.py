"""Four attackers: another login of this machine, a writer of the bucket alone, the sender of a folder, and the
operator's own slips. Each gets nothing, changes nothing, or is refused by name."""

import contextlib
import gzip
import io
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections import Counter
from pathlib import Path

import mlflow
import nibabel as nib
import numpy as np
import pytest

from components.artifacts.evaluation import Comparison, TestMetrics
from components.artifacts.synthetic import TAG
from components.core.errors import StepError
from components.core.storage import Storage, file_sha256, scratch, work_bucket
from components.core.text import can_be_shown
from components.evaluate.champion_comparison import compare_with_champion
from components.registry import split_history
from components.registry.tracking import MODEL_NAME
from pipelines.check_data import check_data
from pipelines.local import services
from pipelines.models import promotion
from pipelines.models.lineage import lineage
from pipelines.predict.registered_model import RegisteredSegmenter, predict_folder
from pipelines.upload import files_of, upload
from tests.faults import steps
from tests.faults.attackers import (
    BucketWriter,
    answer_or_refusal,
    as_another_login,
    inhabited,
    on_path,
    on_processes,
    on_server,
)
from tests.faults.services import forget_services, free_port
from tests.support.checkout import ROOT, Checkout

CHAMPION = f"models:/{MODEL_NAME}@champion"
TARGETS = (
    "ledger/",
    "mlflow/",
    "data/",
    "/model.json",
    "/split.json",
    "/best_model.pth",
    "/mlflow_model.py",
    "/test_metrics.json",
)
"""What an attack on the bucket is aimed at, each as often: parts of keys."""
NOT_COMPARED = Comparison(champion=None, model=None, reason="")


@pytest.fixture(scope="module")
def house(scans):
    with inhabited(scans) as house:
        yield house


def scan_of(scans: Path, number: int = 0) -> Path:
    return scans / f"sub-{number}" / "ses-0001" / "dwi" / f"sub-{number}_ses-0001_dwi.nii.gz"


class TestAnotherLogin:
    """A colleague who is logged in on the same machine, with another uid."""

    def refused(self, campaign, what: str, attacks: dict) -> None:
        got = as_another_login(attacks)
        campaign.count(f"another login, {what}: attacks", len(attacks))
        campaign.count(f"another login, {what}: succeeded", len(got))
        assert not got

    def test_the_files_that_are_kept(self, campaign, house):
        paths = [house.state, *house.state.rglob("*")]
        chosen = [house.state, *campaign.random.sample(paths, min(len(paths), 400))]
        self.refused(campaign, "files", {name: act for path in chosen for name, act in on_path(path).items()})

    def test_sockets_and_the_list_of_processes(self, campaign, house):
        open_to_all = [path for path in house.folder.rglob("*") if path.is_socket()]
        assert house.secrets and not open_to_all
        self.refused(campaign, "secrets in processes", on_processes(house.secrets))

    def test_object_storage_without_keys(self, campaign, house):
        keys = [o.key for o in Storage(f"s3://{work_bucket()}").list()]
        paths = ["", "?list-type=2", "?location", "?policy", "?acl", *campaign.random.sample(keys, min(len(keys), 40))]
        requests = [(method, f"/{work_bucket()}/{path}", "") for path in paths for method in ("GET", "PUT", "DELETE")]
        requests += [
            ("GET", "/", ""),
            ("PUT", "/another-bucket", ""),
            ("POST", f"/{work_bucket()}?delete", "<Delete/>"),
        ]
        url = house.environment["S3_ENDPOINT_URL"]
        guessed = (
            "AWS4-HMAC-SHA256 Credential=admin/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=00"
        )
        for given in ({}, {"Authorization": guessed}, {"Authorization": "AWS admin:admin"}):
            self.refused(campaign, "object storage", on_server(url, requests, given))
        assert keys == [o.key for o in Storage(f"s3://{work_bucket()}").list()]

    def test_mlflow_without_a_login(self, campaign, house):
        api = "/api/2.0/mlflow"
        elsewhere = json.dumps({"name": "x", "artifact_location": f"file://{house.folder}"})
        requests = [
            ("POST", f"{api}/experiments/search", '{"max_results": 5}'),
            ("POST", f"{api}/experiments/create", elsewhere),
            ("POST", f"{api}/experiments/create", '{"name": "y"}'),
            ("POST", f"{api}/runs/search", '{"experiment_ids": ["0", "1"]}'),
            ("POST", f"{api}/registered-models/create", '{"name": "z"}'),
            ("GET", f"{api}/registered-models/get?name={MODEL_NAME}", ""),
            ("GET", f"{api}/model-versions/get?name={MODEL_NAME}&version=1", ""),
            ("POST", f"{api}/registered-models/alias", json.dumps({"name": MODEL_NAME, "alias": "a", "version": "1"})),
            ("GET", "/api/2.0/mlflow-artifacts/artifacts", ""),
            ("PUT", "/api/2.0/mlflow-artifacts/artifacts/1/x/artifacts/planted.txt", "planted"),
            ("GET", "/ajax-api/2.0/mlflow/experiments/get?experiment_id=0", ""),
            ("POST", "/graphql", '{"query": "{ __typename }"}'),
            ("GET", "/get-artifact?run_uuid=0&path=x", ""),
        ]
        for given in (
            {},
            {"Authorization": "Basic YWRtaW46cGFzc3dvcmQ="},
            {"Authorization": "Bearer x"},
            {"Cookie": "a=b"},
        ):
            self.refused(campaign, "MLflow", on_server(house.environment["MLFLOW_TRACKING_URI"], requests, given))

    def test_a_folder_that_both_write(self, campaign, house, scans, tmp_path):
        """Results go to a folder of a group; the colleague plants links there that lead to the operator's files."""
        kept = house.folder / "kept"
        kept.mkdir(mode=0o700)
        (kept / "thesis.docx").write_text("years of work")
        (tmp_path / "in").mkdir()
        shutil.copy(scan_of(scans), tmp_path / "in" / "a.nii.gz")
        names = ("predictions.csv", "predictions.csv.part", "predictions.html", "masks", "masks/a.nii.gz",
                 "masks/a.nii.gz.part", "predictions.html.part")  # fmt: skip
        for number, name in enumerate(names):
            for goal in ("thesis.docx", "new"):
                shared = house.folder / f"shared{number}-{goal}"
                shared.mkdir()
                shared.chmod(0o777)

                def plant(link=shared / name, goal=kept / goal) -> bool:
                    link.parent.mkdir(exist_ok=True)
                    link.symlink_to(goal)
                    return True

                assert as_another_login({name: plant})
                with contextlib.suppress(StepError):
                    predict_folder(tmp_path / "in", shared, CHAMPION, house.state, False)
                campaign.count("another login, links planted among results")
                assert [path.name for path in kept.iterdir()] == ["thesis.docx"], name
                assert (kept / "thesis.docx").read_text() == "years of work", name

    def test_a_folder_of_the_name_that_we_use_in_tmp(self, campaign, house, monkeypatch):
        monkeypatch.delenv("SCRATCH_DIR")
        for number, link in enumerate((False, True)):
            everybodys = house.folder / f"tmp{number}"
            everybodys.mkdir()
            everybodys.chmod(0o1777)
            monkeypatch.setattr(tempfile, "tempdir", str(everybodys))
            planted = everybodys / "dwi-stroke"
            as_another_login({"": lambda p=planted, link=link: p.symlink_to("/etc") if link else p.mkdir()})
            campaign.count("another login, temporary folders taken")
            with pytest.raises(StepError, match="belongs to another user"):
                scratch()

    @pytest.mark.parametrize("service", [services.S3, services.MLflow])
    def test_a_port_that_is_taken_before(self, campaign, house, tmp_path, service, monkeypatch):
        """It answers as the server would."""
        forget_services(monkeypatch)
        port, seen = int(free_port()), house.folder / f"seen-{service.name}"
        seen.mkdir()
        seen.chmod(0o777)
        monkeypatch.setenv(f"{service.name.upper()}_PORT", str(port))
        with squatter(lambda: True, port, seen / "requests"):
            (tmp_path / "logs").mkdir()
            with pytest.raises(StepError, match=f"port {port} on .* is taken"):
                service(tmp_path).up() if service is services.S3 else service(tmp_path).up(dict(house.environment))
        campaign.count("another login, ports taken before a server starts")
        assert not tells_secrets(seen / "requests", house)

    def test_a_port_that_is_taken_while_the_server_starts(self, campaign, house, tmp_path, monkeypatch):
        """MLflow needs seconds until it listens: whoever sees its process may be faster, and answer in its place."""
        forget_services(monkeypatch)
        port, seen = int(free_port()), house.folder / "seen-race"
        seen.mkdir()
        seen.chmod(0o777)
        monkeypatch.setenv("MLFLOW_PORT", str(port))
        (tmp_path / "logs").mkdir()
        server = services.MLflow(tmp_path)

        def starting() -> bool:
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                with contextlib.suppress(OSError):
                    if b"mlflow\0server" in (content := path.read_bytes()) and str(port).encode() in content:
                        return True
            return False

        with squatter(starting, port, seen / "requests"):
            try:
                with pytest.raises(StepError):
                    server.up(dict(house.environment))
            finally:
                server.down()
        campaign.count("another login, ports taken while a server starts")
        assert not tells_secrets(seen / "requests", house)


@contextlib.contextmanager
def squatter(when, port: int, log: Path):
    """Another login that takes the port at its moment, answers 200 to all, and writes down what it is sent."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to become another login")
    child = os.fork()
    if not child:
        with contextlib.suppress(BaseException):
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            while not when():
                time.sleep(0.01)
            with socket.create_server(("127.0.0.1", port)) as server:
                while True:
                    connection, _ = server.accept()
                    with connection, log.open("ab") as file:
                        connection.settimeout(2)
                        file.write(connection.recv(65536))
                        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")
        os._exit(0)
    try:
        time.sleep(0.5)
        yield
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)


def tells_secrets(log: Path, house) -> list[str]:
    sent = log.read_bytes() if log.exists() else b""
    return [secret[:4] for secret in house.secrets if secret.encode() in sent] + ["a login"] * (b"uthorization" in sent)


class TestAWriterOfTheBucket:
    """Somebody with the keys of the object storage, and no right in the registry, alters what lies there."""

    @pytest.fixture(scope="class")
    def questions(self, house, scans):
        """What a person asks, by name: what it comes to. An answer is compared with the undisturbed one."""
        rows = TestMetrics.read(house.run / "evaluation").cases
        split = json.loads((house.run / "split.json").read_text())
        listed = json.loads((house.run / "cases" / "cases.json").read_text())
        facts = json.loads((house.run / "model" / "model.json").read_text())
        drawn = split_history.split_settings((0.5, 0.25, 0.25), 0, facts["inputs"])

        def printed(ask, *arguments) -> tuple[int, str]:
            with contextlib.redirect_stdout(io.StringIO()) as out:
                code = ask(*arguments)
            if code:
                raise StepError(out.getvalue())
            return code, out.getvalue()

        def compared() -> dict:
            """The champion's facts stand in for its results: altered facts would give others."""
            found = compare_with_champion(
                rows, split["patients"],
                lambda network, trained, patients: [row.model_copy(update={"dice": trained.threshold}) for row in rows],
                listed["synthetic"],
            )  # fmt: skip
            if found.reason:
                raise StepError(found.reason)
            return found.model_dump(mode="json")

        def mask() -> str:
            return RegisteredSegmenter(CHAMPION, house.state).segment(scan_of(scans)).mask.hex()

        asked = {
            "make champion": lambda: printed(promotion.champion, house.state),
            "make lineage": lambda: printed(lineage, CHAMPION, house.state),
            "make predict": mask,
            "the champion compared with": compared,
            "the split history": lambda: split_history.history_to_extend(
                listed["data_uri"], listed["data_version"], drawn, listed["synthetic"]
            ),
        }
        for name, ask in asked.items():
            _, refusal = answer_or_refusal(ask)  # the first time some print more
            assert not refusal, (name, refusal)
        return asked

    def test_each_answer_is_the_undisturbed_one_or_a_refusal(self, campaign, house, questions):
        expected = {name: answer_or_refusal(ask) for name, ask in questions.items()}
        writer = BucketWriter(campaign.random)
        keys = sorted(key for key in writer.places() if not key.startswith("checkpoints/"))
        targets = [[k for k in keys if part in k] for part in TARGETS]
        assert all(targets)
        wrong = Counter()
        for _ in campaign.rounds(most=300):
            key = campaign.random.choice(campaign.random.choice(targets))
            act = campaign.random.choice(writer.ACTS)
            writer.harm(key, act)
            for name, ask in questions.items():
                answer, refusal = answer_or_refusal(ask)
                told = refusal and (not expected[name][1] or refusal != expected[name][1])
                missed = name == "make lineage" and "NOT REACHED" in str(answer)
                what = "refused by name" if told or missed else "undisturbed"
                if what == "undisturbed" and (answer, refusal) != expected[name]:
                    wrong[f"{name}, {act}: {key}"] += 1
                    what = "WRONG"
                campaign.count(f"bucket, {name}: {what}")
            writer.mend()
            campaign.count(f"bucket, {act}")
        assert not wrong
        assert {name: answer_or_refusal(ask) for name, ask in questions.items()} == expected

    def test_training_goes_on_from_no_altered_checkpoint(self, campaign, house, scans, tmp_path):
        wanted = file_sha256(house.run / "model" / "best_model.pth")
        writer = BucketWriter(campaign.random)
        for number in campaign.rounds(most=40):
            key = campaign.random.choice([k for k in writer.places() if k.startswith("checkpoints/")])
            act = campaign.random.choice(writer.ACTS)
            writer.harm(key, act)
            out = tmp_path / f"{number}"
            shutil.copytree(house.run, out, ignore=shutil.ignore_patterns("model", "curves.html"))
            try:
                steps.steps(scans, out)["train"]()
                assert file_sha256(out / "model" / "best_model.pth") == wanted, (act, key)
                campaign.count("bucket, checkpoint altered: same weights to the bit")
            except StepError as refusal:
                assert str(refusal)
                campaign.count("bucket, checkpoint altered: refused in words")
            writer.mend()
            shutil.rmtree(out)

    def test_no_decision_of_its_own_moves_the_champion(self, campaign, house):
        """Entries written, copied, reordered and removed, each with a digest that fits its key."""
        import hashlib

        from components.register.decision import decide
        from components.register.policy import load
        from components.registry.ledger import Ledger

        client, bucket = mlflow.MlflowClient(), Storage(f"s3://{work_bucket()}/ledger")
        first = client.get_model_version(MODEL_NAME, "1")
        model = first.source.removeprefix("models:/")
        other = client.create_model_version(MODEL_NAME, first.source, first.run_id, TAG, model_id=model)
        before = {o.key: bucket.get(o.key) for o in bucket.list()}
        key = max(k for k in before if k.endswith(".json"))
        last = json.loads(before[key])
        number = last["number"] + 1

        def entry(facts: dict) -> tuple[str, bytes]:
            blob = json.dumps(facts, indent=1).encode()
            return f"20991231T000000.000000Z-{hashlib.sha256(blob).hexdigest()[:16]}.json", blob

        previous = [hashlib.sha256(before[key]).hexdigest()]
        of_person = {"decision": "promoted by a person", "who": "somebody", "from": "1", "to": other.version,
                     "words": "\x1b[2Jpromoted", "previous": previous, "number": number, "subject": "x"}  # fmt: skip
        forgeries = {
            "forged": entry(last | of_person),
            "unchained": entry(last | of_person | {"previous": []}),
            "incomplete": entry(
                {"number": number, "decision": "refused", "to": "1", "from": "1", "previous": previous}
            ),
            "replayed": (key.replace(key[:8], "20991231"), before[key]),
            "first again": entry(
                last | {"decision": "first", "to": other.version, "number": number, "previous": previous}
            ),
        }

        def refuses(ask) -> bool:
            try:
                return not ask()
            except StepError:
                return True
            except Exception:  # a stack trace is no refusal
                return False

        followed = []
        for name, (forged, blob) in forgeries.items():
            bucket.put(forged, blob)
            with contextlib.redirect_stdout(io.StringIO()) as out:
                refused = refuses(lambda: promotion.champion(house.state) == 0)
            version = client.get_model_version(MODEL_NAME, "1")
            with contextlib.suppress(Exception):
                decide(client, version, NOT_COMPARED, {}, load(), Ledger())
            with contextlib.suppress(Exception):
                promotion.rollback("", house.state)
            moved = client.get_registered_model(MODEL_NAME).aliases.get("champion") != "1"
            if moved or not refused or "The ledger is complete" in out.getvalue() or "\x1b" in out.getvalue():
                followed.append(name)
            campaign.count(f"bucket, forged decisions {'FOLLOWED' if name in followed else 'refused'}")
            client.set_registered_model_alias(MODEL_NAME, "champion", "1")
            bucket.delete([k for k in (o.key for o in bucket.list()) if k not in before])
        client.delete_model_version(MODEL_NAME, other.version)
        assert not followed


HOSTILE = (
    "$(touch PWNED)", "$(shell touch PWNED)", "`touch PWNED`", "; touch PWNED;", "\n", "\x1b[2J",
    "\x1b]0;owned\x07", "\r", "\u202e", "'", '"', "\\", "%s%n", "{{ 7*7 }}", "<script>alert(1)</script>", "*", "?", "~",
    "#", "&", "|", "--help", "-rf", "=1+1", " ", "é", "e\u0301", "ผู้ป่วย", "\udcff",
)  # fmt: skip
"""What a name may hold that means something to a shell, make, a terminal, a page, a spreadsheet or a format."""


class TestACraftedFolder:
    """The sender of a folder of scans. Two good cases lie among what was crafted."""

    @pytest.fixture
    def outside(self, tmp_path) -> Path:
        path = tmp_path / "outside" / "mask.nii.gz"
        path.parent.mkdir()
        nib.save(nib.Nifti1Image(np.ones((32, 24, 5), np.uint8), np.eye(4)), path)
        (path.parent / "secret.txt").write_text("OUTSIDE-SECRET")
        return path

    def test_nothing_of_it_runs_leaves_or_reaches_outside(
        self, campaign, scans, outside, tmp_path, monkeypatch, caplog
    ):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("SCRATCH_DIR", str(tmp_path / "scratch"))
        for number in campaign.rounds(most=200):
            name = "".join(campaign.random.choices(HOSTILE, k=3)).replace("/", "")
            folder = tmp_path / f"{number}" / name
            shutil.copytree(scans, folder, ignore=lambda _, names: [n for n in names if n in ("sub-6", "sub-7")])
            made = [craft(campaign.random, folder, outside) for _ in range(6)]
            before = {path: path.read_bytes() for path in outside.parent.iterdir()}
            caplog.clear()
            with contextlib.redirect_stdout(io.StringIO()) as out, caplog.at_level("INFO"):
                began = time.monotonic()
                _, refusal = answer_or_refusal(lambda folder=folder: check_data(str(folder), tmp_path / "state"))
                taken = time.monotonic() - began
            kept = (tmp_path / "state" / "data-report.html").read_text() if not refusal else ""
            assert not list(tmp_path.rglob("PWNED")), made
            assert {path: path.read_bytes() for path in outside.parent.iterdir()} == before, made
            assert "OUTSIDE-SECRET" not in out.getvalue() + kept + caplog.text + refusal, made
            assert "<script>alert(1)" not in kept, made
            assert all(can_be_shown(c) for c in "".join(caplog.messages) if c != "\n"), made
            assert taken < 120, made
            sent = {(folder / key).resolve() for key in files_of(folder.resolve())}
            assert all(path.is_relative_to(folder.resolve()) for path in sent), made
            campaign.count("crafted folders checked")
            campaign.count("crafted folders refused as a whole, in words", bool(refusal))
            for what in made:
                campaign.count(f"crafted: {what}")
            shutil.rmtree(tmp_path / f"{number}")

    def test_make_runs_nothing_that_a_name_says(self, campaign, scans, tmp_path):
        for _ in campaign.rounds(most=20):
            name = "".join(campaign.random.choices(HOSTILE, k=4)).replace("/", "")
            (tmp_path / name).mkdir(exist_ok=True)
            environment = {**os.environ, "STATE": str(tmp_path / "state")}
            place = campaign.random.choice(["command line", "environment"])
            words = [f"DATA={tmp_path / name}"] if place == "command line" else []
            given = environment if words else environment | {"DATA": str(tmp_path / name)}
            done = subprocess.run(
                ["make", "--silent", "check-data", *words], cwd=ROOT, env=given, capture_output=True, timeout=300
            )
            said = (done.stdout + done.stderr).decode(errors="surrogateescape")
            assert done.returncode and "Traceback" not in said and "\x1b" not in said, (name, said)
            assert not list(ROOT.glob("PWNED")) and not list(tmp_path.rglob("PWNED"))
            campaign.count(f"names of folders given to make, {place}")


def craft(random: random.Random, folder: Path, outside: Path) -> str:
    """Put one thing into the folder; what it is."""
    case = f"sub-{random.randrange(6)}"
    stem = f"{case}/ses-0001/dwi/{case}_ses-0001"
    dwi, mask = folder / f"{stem}_dwi.nii.gz", folder / f"derivatives/{case}/ses-0001/{case}_ses-0001_msk.nii.gz"

    def header(**fields) -> bytes:
        made = nib.Nifti1Header()
        made.set_data_shape((32, 24, 5))
        raw = bytearray(made.binaryblock)
        for at, value in fields.values():
            raw[at : at + len(value)] = value
        return bytes(raw)

    def write(path: Path, content: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.write_bytes(content)

    def link(path: Path, goal: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.symlink_to(goal)

    secret = outside.parent / "secret.txt"
    huge = np.array([3, 32767, 32767, 32767, 1, 1, 1, 1], "<i2").tobytes()
    extension = b"\1\0\0\0" + (1 << 30).to_bytes(4, "little") + b"\6\0\0\0" + b"x" * 64
    odd = "".join(random.choices(HOSTILE, k=2)).replace("/", "")
    crafts = {
        "a mask that is a link out of the folder": lambda: link(mask, outside),
        "a scan that is a link out of the folder": lambda: link(dwi, outside),
        "a table that is a link out of the folder": lambda: link(folder / "participants.tsv", secret),
        "a folder that is a link out": lambda: link(folder / "sub-x", outside.parent),
        "a link to itself": lambda: link(folder / "sub-y", folder / "sub-y"),
        "a link to a device": lambda: link(folder / f"{stem}_adc.nii.gz", Path("/dev/zero")),
        "a header of a huge scan": lambda: write(dwi, gzip.compress(header(dim=(40, huge)) + bytes(4))),
        "a header with a huge extension": lambda: write(dwi, gzip.compress(header() + extension)),
        "a bomb": lambda: write(dwi, gzip.compress(header(dim=(40, huge)) + bytes(50 << 20))),
        "an offset out of the file": lambda: write(dwi, gzip.compress(header(at=(108, b"\xff\xff\x7f\x7f")))),
        "bytes": lambda: write(dwi, random.randbytes(random.randrange(4000))),
        "a sidecar of deep JSON": lambda: write(folder / f"{stem}_dwi.json", b"[" * 200_000),
        "a large sidecar": lambda: write(folder / f"{stem}_dwi.json", b'{"x": "' + b"y" * (20 << 20) + b'"}'),
        "a sidecar that is no object": lambda: write(folder / f"{stem}_dwi.json", b"1e999999"),
        "a large .bval": lambda: write(folder / f"{stem}_dwi.bval", b"1000 " * (4 << 20)),
        "deep JSON about the data": lambda: write(folder / "dataset_description.json", b'{"a":' * 200_000),
        "a table of one long line": lambda: write(folder / "participants.tsv", b"participant_id\n" + b"x" * (20 << 20)),
        "a table of formulas and escapes": lambda: write(
            folder / "participants.tsv", b"participant_id\tsite\nsub-0\t=cmd|' /C calc'!A0\nsub-1\t\x1b[2J\n"
        ),
        "a foreign predictions.csv": lambda: write(
            folder / "predictions.csv", b"case,file,mask,voxels\na,b,../../outside/secret.txt,0\n"
        ),
        "a predictions.csv of bytes": lambda: write(folder / "predictions.csv", random.randbytes(2000)),
        "a name": lambda: write(folder / "sub-n" / f"{odd}_dwi.nii.gz", b"x"),
        "a case of an odd name": lambda: shutil.copytree(folder / case, folder / f"sub-{odd}", symlinks=True),
        "a very long name": lambda: write(folder / "sub-n" / ("x" * 240 + ".nii.gz"), b"x"),
        "a deep tree": lambda: (folder / "/".join(["d"] * 200)).mkdir(parents=True),
        "a file named as a folder of ours": lambda: write(folder / "derivatives" / "masks", b"x"),
        "a named pipe": lambda: os.mkfifo(folder / f"pipe{random.random()}.nii.gz"),
    }  # fmt: skip
    what = random.choice(sorted(crafts))
    with contextlib.suppress(OSError):
        crafts[what]()
    return what


class TestTheCarelessOperator:
    """One who forgets, mistypes and tidies up."""

    @pytest.fixture(scope="class")
    def checkout(self, tmp_path_factory):
        with Checkout(tmp_path_factory.mktemp("careless") / "checkout", one_cpu=True) as checkout:
            yield checkout

    def said(self, campaign, checkout, what: str, *arguments: str, **environment: str) -> str:
        """What a command printed that must fail, in words."""
        kept = checkout.environment
        checkout.environment = kept | environment
        try:
            process = checkout.start(*arguments)
            out, _ = process.communicate(timeout=280)
        finally:
            checkout.environment = kept
        assert process.returncode and "Traceback" not in out, out[-2000:]
        campaign.count(f"careless, refused in words: {what}")
        return out

    def test_two_machines_with_one_bucket(self, campaign, house, tmp_path):
        """The same path on both: neither removes what the other one sent."""
        folder = tmp_path / "data" / "dwi"
        sent = {}
        for who in ("first", "second", "first"):
            shutil.rmtree(folder, ignore_errors=True)
            (folder / "images").mkdir(parents=True)
            (folder / "images" / f"{who}.nii.gz").write_bytes(who.encode() * 100)
            sent[who] = upload(folder, tmp_path / who)
            campaign.count("careless, uploads of two machines to one bucket")
        assert {who: [o.key for o in Storage(uri).list()] for who, uri in sent.items()} == {
            who: [f"images/{who}.nii.gz"] for who in sent
        }

    def test_a_forgotten_and_a_weak_key(self, campaign, checkout, scans):
        key = "pseudonym-key-5c2e9d7b1f4a60838e17"
        weak = self.said(campaign, checkout, "a weak key", "check-data", "--data", str(scans), PSEUDONYM_KEY="a" * 40)
        assert "easy to guess" in weak
        kept = checkout.environment
        checkout.environment = kept | {"PSEUDONYM_KEY": key}
        checkout.python("check-data", "--data", str(scans))
        checkout.environment = kept
        out = self.said(campaign, checkout, "a forgotten key", "run", "--data", str(scans))
        assert "PSEUDONYM_KEY is not set, but this folder was uploaded under other names before" in out
        assert not (checkout.state / "s3" / "dwi-stroke" / "data").exists()
        typed = subprocess.run(
            ["make", "check-data", f"PSEUDONYM_KEY={key}"], cwd=checkout.folder, capture_output=True, text=True
        )
        assert typed.returncode and "seen by every login" in typed.stderr and key not in typed.stdout + typed.stderr
        campaign.count("careless, refused in words: a key on the command line")

    @pytest.mark.parametrize(
        "data",
        ["/nowhere", "", ".", "s3://", "s3://nix/nix", "https://example.org/x", "README.md", "~nobody/x", "-", "\n"],
        ids=["nowhere", "empty", "here", "S3", "bucket", "address", "file", "home", "dash", "line"],
    )
    def test_wrong_data(self, campaign, checkout, data):
        self.said(campaign, checkout, "wrong DATA", "check-data", "--data", data)

    def test_stray_variables_send_nothing_to_a_cloud(self, campaign, checkout):
        """The only way to AWS is a proxy here, which listens whether anybody asks it."""
        stray = {"AWS_PROFILE": "work", "AWS_ACCESS_KEY_ID": "AKIASTRAY", "AWS_SECRET_ACCESS_KEY": "stray-secret-123",
                 "AWS_SESSION_TOKEN": "t", "AWS_DEFAULT_REGION": "eu-central-1", "S3_ENDPOINT_URL": ""}  # fmt: skip
        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.settimeout(0.1)
            proxy = f"http://127.0.0.1:{listener.getsockname()[1]}"
            kept = checkout.environment
            checkout.environment = kept | stray | {"HTTP_PROXY": proxy, "HTTPS_PROXY": proxy}
            out = checkout.python("up")
            checkout.environment = kept
            with pytest.raises(TimeoutError):
                listener.accept()
        assert "not used here: AWS_ACCESS_KEY_ID" in out and "127.0.0.1" in out and "stray-secret" not in out
        campaign.count("careless, stray AWS_* variables: nothing left the machine")

    def test_the_state_folder_removed_under_running_servers(self, campaign, checkout):
        checkout.python("up")
        pids = [p["pid"] for p in json.loads((checkout.state / "services.json").read_text()).values()]
        try:
            shutil.rmtree(checkout.state)
            process = checkout.start("up")
            out, _ = process.communicate(timeout=280)
            assert "Traceback" not in out, out[-2000:]
            assert "taken" not in out, "it calls its own servers another program"
            checkout.python("down")
            assert not [pid for pid in pids if Path("/proc", str(pid)).exists()]
        finally:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(pid, signal.SIGKILL)
        campaign.count("careless, .local removed under running servers: said or mended")

    def test_wheels_in_the_state_folder_stay(self, campaign, checkout, tmp_path):
        """A stand-in for docker builds nothing and succeeds."""
        wheels = checkout.state / "wheels"
        wheels.mkdir(parents=True, exist_ok=True)
        (wheels / "torch-1-py3-none-any.whl").write_text("a wheel")
        docker = tmp_path / "docker"
        docker.write_text("#!/bin/sh\nexit 0\n")
        docker.chmod(0o755)
        environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "WHEELS": ".local/wheels"}
        subprocess.run(["images/build", "t1"], cwd=checkout.folder, env=environment, capture_output=True)
        assert (wheels / "torch-1-py3-none-any.whl").read_text() == "a wheel"
        campaign.count("careless, WHEELS in .local: kept")

    def test_masks_that_a_person_drew_stay(self, campaign, house, scans, tmp_path):
        (tmp_path / "in").mkdir()
        for number in range(2):
            shutil.copy(scan_of(scans, number), tmp_path / "in" / f"{number}.nii.gz")
        predict_folder(tmp_path / "in", tmp_path / "out", CHAMPION, house.state, False)
        for _ in campaign.rounds(most=10):
            mask = tmp_path / "out" / "masks" / f"{campaign.random.randrange(2)}.nii.gz"
            image, predicted = nib.load(mask), mask.read_bytes()
            drawn = np.asarray(image.dataobj).copy()
            drawn[tuple(campaign.random.randrange(n) for n in drawn.shape)] ^= 1
            nib.save(nib.Nifti1Image(drawn, image.affine, image.header), mask)
            corrected = mask.read_bytes()
            with pytest.raises(StepError, match="was changed since make predict made it"):
                predict_folder(tmp_path / "in", tmp_path / "out", CHAMPION, house.state, False)
            assert mask.read_bytes() == corrected
            mask.write_bytes(predicted)
            campaign.count("careless, a corrected mask in OUTPUT: kept and named")
