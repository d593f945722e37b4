"""Preprocessing against its floor: decompress each file and resize each slice once, as parallel; within 2 is wanted."""

import gzip
import statistics
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np

from components.artifacts.cases import Case
from components.core.machine import cpus
from components.ingest.discover import discover
from components.ingest.ingest import check
from components.preprocess.preprocess import preprocess
from tests.benchmarks.scans import write_scans

SIDE, CASES, ROUNDS = 384, 16, 3
HEADER = 352


def measure() -> Iterator[dict]:
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        write_scans(root / "scans", CASES)
        found = discover(p.relative_to(root / "scans").as_posix() for p in (root / "scans").rglob("*.nii.gz"))
        validated = check(found, root / "scans", root / "cases")
        validated.write(root / "cases")
        ratios, ours = [], []
        for round_number in range(ROUNDS + 1):
            start = time.perf_counter()
            preprocess(root / "cases", root / f"slices{round_number}", SIDE, "slice")
            middle = time.perf_counter()
            _floor(root / "cases", validated.cases)
            if round_number:
                ours.append(middle - start)
                ratios.append(ours[-1] / (time.perf_counter() - middle))
    yield {
        "what": f"preprocessing {CASES} scans to {SIDE}², ours to decompressing and resizing alone",
        "ratio": round(statistics.median(ratios), 2),
        "wanted": "<= 2",
        "spread": [round(min(ratios), 2), round(max(ratios), 2)],
        "ours_seconds": round(statistics.median(ours), 2),
    }


def _floor(folder: Path, cases: list[Case]) -> None:
    def one(job: tuple[Case, str, type]) -> None:
        case, kind, dtype = job
        raw = gzip.decompress((folder / case.files[kind]).read_bytes())
        volume = np.frombuffer(raw, dtype, int(np.prod(case.shape)), HEADER).reshape(case.shape, order="F")
        for s in range(volume.shape[2]):
            cv2.resize(np.ascontiguousarray(volume[:, :, s], np.float32), (SIDE, SIDE), interpolation=cv2.INTER_LINEAR)

    with ThreadPoolExecutor(cpus()) as pool:
        list(pool.map(one, [(c, k, d) for c in cases for k, d in (("dwi", np.float32), ("mask", np.uint8))]))
