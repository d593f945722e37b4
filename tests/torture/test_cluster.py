"""On a cluster: pods and services are killed at random, and every run ends as one that was left alone.

make torture TARGET=kind, or TARGET=cluster with KUBE_CONTEXT; SECONDS_EACH bounds when the last run begins.
"""

import os
import time
from collections import Counter

import pytest

from pipelines.cluster import argo_retries
from pipelines.cluster.kubernetes import NEEDS
from pipelines.pipeline import STEPS
from tests.cluster.conftest import (  # noqa: F401 - fixtures
    at_the_cluster,
    cluster,
    demo_scans,
    new_scans,
    start,
)
from tests.cluster.disturb import delete, evict, kill, kill_services, measured

pytestmark = pytest.mark.skipif(
    os.environ.get("TARGET", "local") == "local", reason="kills on a cluster: make torture TARGET=kind"
)

# early_stop_patience counts for nothing in so few epochs, and yet makes it another training: no cache, no checkpoint
EPOCHS = "epochs=8 early_stop_patience={}"
HOWS = (kill, delete, evict)
MOST_RUNS = 50


@pytest.fixture
def tries_again():
    with at_the_cluster() as (_, connection):
        if note := argo_retries.note(connection.core, connection.system_namespace):
            pytest.skip(note)


def test_killed_at_random_on_a_cluster(campaign, tries_again, start):  # noqa: F811 - the fixture
    expected = start(EPOCHS.format(40)).succeeded()["metrics"]
    for number in campaign.rounds(most=MOST_RUNS):
        run, hits = start(EPOCHS.format(41 + number)), Counter()
        while run.process.poll() is None:
            time.sleep(campaign.random.uniform(1, 20))
            if campaign.random.random() < 0.05 and not hits["services"]:
                hits["services"] += 1
                campaign.count(f"{len(kill_services())} services killed at once")
            step, pod = next(((s, pod) for s in reversed(STEPS) if (pod := run.running(s))), ("", ""))
            if pod and hits[step] < NEEDS[step].retries:  # a try is left
                hits[step] += 1
                how = campaign.random.choice(HOWS)
                how(pod)
                campaign.count(f"{step}: {how.__name__}")
        assert measured(run.id) == expected
        campaign.count("runs that ended with the digits of the undisturbed one")
