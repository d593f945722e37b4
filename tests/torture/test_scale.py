"""Ten thousand objects and two thousand small cases: time in proportion to them, memory hardly more than for half.

Two sizes are compared, one twice the other: linear time gives a ratio of 2, quadratic one of 4.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from components.core.storage import Storage, digest_of, work_bucket
from components.ingest.discover import discover
from pipelines.image_tags import ROOT
from tests.faults.services import behind_proxies

LINEAR = 3
"""The ratio up to which doubled work counts as linear: 2, and what a busy machine adds."""
MEASURED = """
import json, resource, sys, time
from pathlib import Path
from components.ingest.discover import discover
from components.ingest.ingest import check
from components.ingest.report import write_report
from components.split.split import split

source, out, count = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
seconds, began = {}, time.process_time()

def took(what):
    global began
    now = time.process_time()
    seconds[what], began = now - began, time.process_time()

keys = [f"{kind}/P{i:05d}.npy" for i in range(count) for kind in ("images", "masks")]
found = discover(keys)
took("listing")
validated = check(found, source, out / "cases", data_uri="s3://scale/x", data_version="0" * 64)
validated.write(out / "cases")
took("validation")
write_report(validated, out / "cases", out / "report.html")
took("report")
split(out / "cases", out / "split.json", out / "split.html", (0.8, 0.15, 0.05), 1)
took("split")
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({"seconds": seconds, "peak_mib": peak, "cases": len(validated.cases)}))
"""


@pytest.fixture(scope="module")
def scans(tmp_path_factory) -> Path:
    """2,000 scans of 24 x 24 x 8 voxels, no two alike, with a lesion each."""
    import numpy as np

    folder = tmp_path_factory.mktemp("scans")
    for kind in ("images", "masks"):
        (folder / kind).mkdir()
    head = sum(g**2 for g in np.meshgrid(*[np.linspace(-1, 1, n) for n in (24, 24, 8)], indexing="ij")) < 1.8
    for i in range(2000):
        rng = np.random.default_rng(i)
        image = head * np.kron(rng.uniform(100, 300, (8, 8, 8)), np.ones((3, 3, 1)))
        x, y, _ = rng.integers(6, 16, 3)
        mask = np.zeros(image.shape, np.uint8)
        mask[x : x + 3, y : y + 3, 3:5] = 1
        np.save(folder / "images" / f"P{i:05d}.npy", image.astype(np.float32))
        np.save(folder / "masks" / f"P{i:05d}.npy", mask)
    return folder


def measured(scans: Path, out: Path, count: int) -> dict:
    """In a process of its own: its peak is its own."""
    out.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, str(scans), str(out), str(count)],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True,
    )  # fmt: skip
    assert not done.returncode, done.stdout[-2000:] + done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_two_thousand_cases(campaign, scans, tmp_path):
    measured(scans, tmp_path / "warm", 50)
    half, whole = measured(scans, tmp_path / "half", 1000), measured(scans, tmp_path / "whole", 2000)
    assert (half["cases"], whole["cases"]) == (1000, 2000)
    for what, seconds in whole["seconds"].items():
        before = half["seconds"][what]
        campaign.count(f"{what}: ms of CPU for 1,000 cases", round(1000 * before))
        campaign.count(f"{what}: ms of CPU for 2,000 cases", round(1000 * seconds))
        assert seconds < max(LINEAR * before, before + 1), what
    campaign.count("peak MiB for 1,000 cases", round(half["peak_mib"]))
    campaign.count("peak MiB for 2,000 cases", round(whole["peak_mib"]))
    assert whole["peak_mib"] < 1.25 * half["peak_mib"]


def test_ten_thousand_objects(campaign, tmp_path):
    with behind_proxies(tmp_path / "servers") as faulty:
        seconds = {}
        for count in (5000, 10000):
            place = tmp_path / "servers" / "s3" / work_bucket() / f"many-{count}" / "images"
            place.mkdir(parents=True)
            for i in range(count):
                (place / f"P{i:05d}.npy").write_bytes(b"%05d" % i)
            storage = Storage(f"s3://{work_bucket()}/many-{count}")
            storage.list_until(lambda listed, count=count: len(listed) == count)
            requests, began = len(faulty.s3.requests), time.monotonic()
            listed = storage.list()
            digest_of(listed)
            discover(o.key for o in listed)
            seconds[count] = time.monotonic() - began
            assert len(listed) == count
            assert len(faulty.s3.requests) - requests == count // 1000
            campaign.count(f"ms to list {count:,} objects", round(1000 * seconds[count]))
        assert seconds[10000] < max(LINEAR * seconds[5000], seconds[5000] + 2)
        storage = Storage(f"s3://{work_bucket()}/many-10000")
        storage.download(storage.list(), tmp_path / "came")
        assert sum(1 for path in (tmp_path / "came").rglob("*.npy")) == 10000
        storage.delete([o.key for o in storage.list()])
        assert storage.list() == []
        campaign.count("objects listed, fetched and removed", 10000)
