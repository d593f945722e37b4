"""Every reader under coverage-guided fuzzing; whole sets of spoilt cases, from which the good ones must come out."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from components.ingest.discover import discover
from components.ingest.ingest import check
from pipelines.folder_files import files_of
from tests.corpus import scans
from tests.corpus.doors import TAKEN, kind, seeds
from tests.corpus.files import ADC, MASK, nifti, packed

ROOT = Path(__file__).parents[2]
MOST_EXECUTIONS, SECONDS_TO_START = 2_000_000, 60
GROUPS = {
    ("nifti", "gzipped", "array", "adc"): "scans",
    ("table", "description", "assignments"): "texts",
    ("keys", "ledger", "split"): "names and records",
}
MOST_MEMORY_MB, LONGEST_ANSWER_S = 2048, 20


@pytest.mark.parametrize("readers", GROUPS, ids=GROUPS.get)
def test_fuzz(campaign, tmp_path, readers):
    """No input of any reader ends in anything but its own words; none takes long, none fills memory."""
    pytest.importorskip("atheris", reason="atheris is made for Linux on x86-64 alone")
    fuzzing = {name: _fuzz(name, tmp_path / name, campaign) for name in readers}
    for name, process in fuzzing.items():
        ended = process.wait()
        said = (tmp_path / name / "said.txt").read_text(errors="backslashreplace")
        found = [path.read_bytes() for path in (tmp_path / name).glob("*-*")]
        assert ended == 0 and not found, f"{name}: {found}\n{said[-6000:]}"
        campaign.count(f"{name}: executions", int(re.findall(r"Done (\d+) runs", said)[-1]))
        answers = json.loads((tmp_path / name / "counts.json").read_text())
        campaign.count(f"{name}: taken", answers.pop(TAKEN, 0))
        campaign.count(f"{name}: kinds of refusal", len(answers))


def _fuzz(name: str, folder: Path, campaign) -> subprocess.Popen:
    (folder / "seeds").mkdir(parents=True)
    for number, seed in enumerate(seeds(name)):
        (folder / "seeds" / str(number)).write_bytes(seed)
    seconds = max(5, int(campaign.ends - time.monotonic()) - SECONDS_TO_START)
    with (folder / "said.txt").open("w") as said:
        return subprocess.Popen(
            [sys.executable, "-m", "tests.torture.fuzzed", name, str(folder / "counts.json"),
             f"-max_total_time={seconds}", f"-runs={MOST_EXECUTIONS}", f"-seed={campaign.random.randrange(1, 2**31)}",
             f"-timeout={LONGEST_ANSWER_S}", f"-rss_limit_mb={MOST_MEMORY_MB}", "-max_len=4096",
             f"-artifact_prefix={folder}/", str(folder / "seeds")],
            cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"},
            stdout=said, stderr=said,
        )  # fmt: skip


def test_fuzzed_sets(campaign, tmp_path):
    """Cases of the corpus, some of their bytes changed, beside good ones: each is answered, the good go through."""
    random, tables = campaign.random, {"dwi": scans.IMAGES + scans.GOOD, "mask": scans.MASKS, "adc": scans.ADC_MAPS}
    contents = {part: [file.content() for file in table] for part, table in tables.items()}
    contents = {part: [c for c in blobs if len(c) < 1 << 20] for part, blobs in contents.items()}
    good = {"dwi": packed(nifti()), "mask": packed(nifti(MASK)), "adc": packed(nifti(ADC))}
    for number in campaign.rounds(most=200):
        folder = tmp_path / str(number)
        for case in range(20):
            files = dict(good)
            for part in random.sample(sorted(files), random.randint(1, 3)):
                files[part] = _spoilt(random, random.choice([*contents[part], good[part]]))
            _write(folder, f"sub-spoilt{case}", files)
        for case in range(3):
            _write(folder, f"sub-good{case}", good)
        facts = check(discover(files_of(folder)), folder, folder / "cases").model_dump()
        taken = {record["case"]: record["repairs"] for record in facts["cases"]}
        assert all(taken[f"sub-good{case}_ses-1"] == [] for case in range(3))
        assert len(taken) + len(facts["refused"]) == 23
        campaign.count("good cases that went through", 3)
        campaign.count("spoilt cases taken", len(taken) - 3)
        for why in facts["refused"].values():
            campaign.count(f"refused: {kind(re.sub(r'^[^ ]+: ', '', why))}")
        for line in (line for lines in taken.values() for line in lines):
            campaign.count(f"noted: {kind(line)}")


def _spoilt(random, content: bytes) -> bytes:
    spoilt = bytearray(content)
    for _ in range(random.choice((0, 1, 1, 4))):
        at = random.randrange(random.choice((1, 352, len(spoilt))) if spoilt else 1)
        spoilt[at : at + 1] = random.randbytes(random.choice((0, 1, 1, 1, 8)))
    return bytes(spoilt[: random.choice((None, None, None, max(len(spoilt) // 2, 1)))])


def _write(folder: Path, name: str, files: dict[str, bytes]) -> None:
    stem = f"{name}/ses-1/dwi/{name}_ses-1"
    keys = {"dwi": f"{stem}_dwi.nii.gz", "adc": f"{stem}_adc.nii.gz"}
    for part, content in files.items():
        path = folder / keys.get(part, f"derivatives/{name}/ses-1/{name}_ses-1_msk.nii.gz")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
