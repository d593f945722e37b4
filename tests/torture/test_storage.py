"""Object storage that fails in every way it can, before a real server: the results are those of a quiet day."""

import os
import time

import pytest

from components.core import s3_client, storage
from components.core.errors import StepError
from components.core.storage import Storage, work_bucket
from tests.faults import steps
from tests.faults.proxy import FAULTS, one_in

PASSING = tuple(fault for fault in FAULTS if fault not in ("expired", "denied", "stall"))


@pytest.fixture
def quick(monkeypatch):
    """Silence is noticed in a second."""
    monkeypatch.setattr(s3_client, "ANSWER_SECONDS", 2)
    monkeypatch.setattr(s3_client, "CONNECT_SECONDS", 1)


def test_one_request_in_five_fails_and_the_results_are_the_same(
    campaign, faulty, scans, undisturbed, quick, tmp_path, monkeypatch
):
    for number in campaign.rounds(most=12):
        steps.forget()
        out = tmp_path / str(number)
        monkeypatch.setenv("KFP_RUN_ID", f"round-{number}")
        monkeypatch.setenv("SCRATCH_DIR", str(out))
        faulty.s3.counts.clear()
        faulty.s3.plan = one_in(0.2, campaign.random, PASSING)
        began = len(faulty.s3.requests)
        steps.run(scans, out, lambda step, error: campaign.count("steps that failed in words and were tried again"))
        faulty.heal()
        assert steps.digests(out) == steps.digests(undisturbed)
        assert [r.info.status for r in steps.runs_of(f"round-{number}")] == ["FINISHED"]
        assert len(steps.versions()) == 1
        campaign.count("pipeline runs with results equal to the bit")
        campaign.count("requests to S3", len(faulty.s3.requests) - began)
        for fault, times in faulty.s3.counts.items():
            campaign.count(f"faults injected: {fault}", times)


def test_every_altered_transfer_is_noticed(campaign, faulty, quick, tmp_path):
    place = Storage(f"s3://{work_bucket()}/altered")
    for number in campaign.rounds(most=60):
        size = campaign.random.choice((1, 1000, 1 << 20, 9 << 20, 17 << 20))
        content = campaign.random.randbytes(size)
        (tmp_path / "sent").write_bytes(content)
        times = campaign.random.choice((1, 2))

        def spoil(times: int):
            left = {"flipped": times, "sent flipped": times}

            def plan(request):
                fault = "flipped" if request.method == "GET" and request.is_object else "sent flipped"
                if (fault == "sent flipped" and request.method != "PUT") or request.is_listing or not left[fault]:
                    return None
                left[fault] -= 1
                return fault

            return plan

        faulty.s3.plan = spoil(times)
        place.put(f"{number}", tmp_path / "sent")
        (listed,) = (o for o in place.list() if o.key == f"{number}")
        place.download([listed], tmp_path / "came")
        faulty.heal()
        assert (tmp_path / "came" / f"{number}").read_bytes() == content
        campaign.count("altered on the way there and back, noticed and sent again", 2 * times)

        faulty.s3.plan = lambda request: "flipped" if request.method == "GET" and request.is_object else None
        with pytest.raises(StepError, match="not what its checksum"):
            place.download([listed], tmp_path / "never")
        with pytest.raises(StepError, match="not what its checksum"):
            place.get(f"{number}")
        assert not (tmp_path / "never" / f"{number}").exists()
        faulty.heal()
        campaign.count("altered at every try, refused", 2)
        place.delete([f"{number}"])


@pytest.mark.parametrize("fault", ["500", "503", "429", "reset", "stall", "cut", "expired", "denied"])
def test_what_does_not_pass_ends_in_one_sentence_in_bounded_time(campaign, faulty, quick, monkeypatch, fault, tmp_path):
    monkeypatch.setattr(storage, "PATIENCE_SECONDS", 6)
    for name, call in {
        "list": lambda place: place.list(),
        "get": lambda place: place.get("x"),
        "put": lambda place: place.put("x", b"1" * 1000),
        "delete": lambda place: place.delete(["x"]),
        "download": lambda place: place.download([storage.Object(str(i), 10, "e") for i in range(1000)], tmp_path),
    }.items():
        if fault == "cut" and name in ("put", "delete"):
            continue
        place = Storage(f"s3://{work_bucket()}/permanent")
        place.put("x", b"22")
        faulty.s3.plan = lambda request: fault
        began = time.monotonic()
        with pytest.raises(StepError) as error:
            call(place)
        seconds = time.monotonic() - began
        faulty.heal()
        assert seconds < 6 + 3 * 2 + 20
        assert "\n" not in str(error.value) and len(str(error.value)) < 400
        assert os.environ["AWS_SECRET_ACCESS_KEY"] not in str(error.value)
        campaign.count(f"ended in one sentence: {fault}")


def test_an_endpoint_that_is_gone_for_a_minute_is_waited_for(campaign, faulty, tmp_path):
    import threading

    for _ in campaign.rounds(most=2):
        for i in range(20):
            (tmp_path / str(i)).write_bytes(bytes([i]) * 1000)
        place = Storage(f"s3://{work_bucket()}/gone")
        faulty.s3.gone = True
        back = threading.Timer(60, faulty.heal)
        back.start()
        began = time.monotonic()
        place.upload(tmp_path, [str(i) for i in range(20)])
        assert time.monotonic() - began > 50
        faulty.heal()
        assert len(place.list()) == 20
        place.delete([o.key for o in place.list()])
        campaign.count("minutes without an endpoint, waited out")
