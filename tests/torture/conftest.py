"""Long campaigns of faults: bounded in rounds and in time, the same for the same SEED, and counted.

def test_kills(campaign, checkout):
    for _ in campaign.rounds(most=50):
        moment = campaign.random.uniform(0, 10)
        ...
        campaign.count("train: kills survived")
"""

import json
import os
import random
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.demo.scans import write_demo_scans
from tests.faults import steps
from tests.faults.services import behind_proxies

SECONDS_EACH, SEED = int(os.environ.get("SECONDS_EACH") or 300), int(os.environ.get("SEED") or 1)
FIGURES = Path(__file__).parents[2] / ".local" / "torture.json"
COUNTED = pytest.StashKey[dict[str, dict[str, int]]]()


class Campaign:
    """`random`, which the seed decides; rounds within the campaign's time; counts for the final table."""

    def __init__(self, name: str, counts: Counter):
        self.random, self.counts = random.Random(f"{SEED} {name}"), counts
        self.ends = time.monotonic() + SECONDS_EACH

    def rounds(self, most: int) -> Iterator[int]:
        """0, 1, ... up to `most` of them, while there is time; at least one."""
        for number in range(most):
            if number and time.monotonic() > self.ends:
                return
            yield number

    def count(self, what: str, times: int = 1) -> None:
        self.counts[what] += times


@pytest.fixture
def campaign(request) -> Campaign:
    counts = request.config.stash.setdefault(COUNTED, {}).setdefault(request.node.nodeid.rpartition("/")[2], Counter())
    return Campaign(request.node.nodeid, counts)


@pytest.fixture(scope="module")
def demo_scans(tmp_path_factory) -> Path:
    """Six synthetic patients."""
    folder = tmp_path_factory.mktemp("scans") / "demo"
    write_demo_scans(folder, patients=6, processes=1)
    return folder


@pytest.fixture(scope="module")
def scans(tmp_path_factory, make_scan, write_case) -> Path:
    """Eight tiny scans, with which all steps take seconds."""
    folder = tmp_path_factory.mktemp("scans")
    for number in range(8):
        dwi, adc, mask = make_scan(number)
        write_case(folder, f"sub-{number}", dwi=dwi, adc=adc, mask=mask)
    return folder


@pytest.fixture(scope="module")
def faulty(tmp_path_factory):
    """Real servers of S3 and MLflow, each behind a proxy that does harm."""
    with behind_proxies(tmp_path_factory.mktemp("servers")) as proxies:
        yield proxies


@pytest.fixture(scope="module")
def undisturbed(faulty, scans, tmp_path_factory) -> Path:
    """What an undisturbed pipeline run of `scans` left."""
    out = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KFP_RUN_ID", "undisturbed")
        patch.setenv("SCRATCH_DIR", str(out))
        steps.run(scans, out)
    return out


def pytest_collection_modifyitems(items) -> None:
    for item in items:
        if "/tests/torture/" in item.path.as_posix():
            item.add_marker(pytest.mark.torture)


def pytest_terminal_summary(terminalreporter, config) -> None:
    """What was counted, as a table and in .local/torture.json."""
    counted = config.stash.get(COUNTED, {})
    if not counted:
        return
    terminalreporter.section(f"counted (SEED={SEED}, SECONDS_EACH={SECONDS_EACH})")
    for campaign, counts in counted.items():
        terminalreporter.write_line(campaign)
        for what, times in counts.items():
            terminalreporter.write_line(f"  {times:>8,}  {what}")
    FIGURES.parent.mkdir(exist_ok=True)
    FIGURES.write_text(json.dumps({"seed": SEED, "seconds_each": SECONDS_EACH, "counted": counted}, indent=1))
