"""Peak anonymous memory of each step on a set ten times as large; within 10 % is wanted.

RssAnon is summed over the step's process tree every 20 ms: page cache and mapped files do not count.
"""

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from pipelines.image_tags import ROOT
from pipelines.upload import upload
from tests.benchmarks.scans import write_scans
from tests.support.checkout import Checkout

SMALL, TIMES = 8, 10
STEPS = {
    "ingest": """from components.fingerprint.fingerprint import fingerprint
from components.ingest.ingest import ingest
ingest(uri, fingerprint(uri), cases, page)""",
    "preprocess": """from components.preprocess.preprocess import preprocess
preprocess(cases, slices, 96, 'slice')""",
    "split": """from components.split.split import split
split(cases, parts, out, (0.6, 0.2, 0.2), 42)""",
    "train": """from components.core.settings import Settings
from components.train.train import train
from components.train.training_inputs import TrainingPaths
settings = Settings(base_channels=8, epochs=1, batch_size=8, precision='float32',
                    memory_format='channels_last', random_seed=42)
train(TrainingPaths(cases, slices, parts, page, model, out), settings)""",
    "evaluate": """from components.evaluate.evaluate import evaluate
evaluate(cases, parts, page, model, evaluation, out)""",
}
PREAMBLE = """import sys
from pathlib import Path
folder, uri = Path(sys.argv[1]), sys.argv[2]
cases, slices, parts, page, model, evaluation, out = (
    folder / name for name in ('cases', 'slices', 'split', 'page', 'model', 'evaluation', 'out'))
"""


def measure() -> Iterator[dict]:
    peaks: dict[int, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as temporary, Checkout(Path(temporary) / "checkout") as checkout:
        checkout.python("up")
        os.environ.update(checkout.services())
        for count in (SMALL, SMALL * TIMES):
            folder = Path(temporary, str(count))
            write_scans(folder / "scans", count)
            uri = upload(folder / "scans", checkout.state)
            peaks[count] = {name: _peak_mb(PREAMBLE + code, [str(folder), uri]) for name, code in STEPS.items()}
    for name in STEPS:
        small, large = peaks[SMALL][name], peaks[SMALL * TIMES][name]
        yield {
            "what": f"peak RssAnon of {name}, {SMALL * TIMES} scans to {SMALL}",
            "ratio": round(large / small, 3),
            "wanted": "<= 1.10",
            "small_mb": round(small),
            "large_mb": round(large),
        }


def _peak_mb(code: str, arguments: list[str]) -> float:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "KFP_RUN_ID": json.dumps(arguments)[-40:].replace("'", "")}
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    peak = 0
    said: list[bytes] = []
    reader = threading.Thread(target=lambda: said.append(process.stderr.read()))
    reader.start()
    while process.poll() is None:
        peak = max(peak, anonymous_bytes(process.pid))
        time.sleep(0.02)
    reader.join()
    if process.returncode:
        raise RuntimeError(b"".join(said).decode()[-2000:])
    return peak / 1e6


def anonymous_bytes(pid: int) -> int:
    """Return RssAnon of the process and its children, bytes."""
    total = 0
    try:
        parent = psutil.Process(pid)
        for process in [parent, *parent.children(recursive=True)]:
            for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
                if line.startswith("RssAnon:"):
                    total += int(line.split()[1]) * 1024
    except (psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
        pass
    return total
