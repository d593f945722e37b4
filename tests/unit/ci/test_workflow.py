"""The workflow for a code host: it makes the cluster and runs the tests that need one, with programs new enough."""

import subprocess

import yaml

from pipelines.cluster.prerequisites import KIND
from pipelines.image_tags import ROOT

WORKFLOW = ROOT / ".github" / "workflows" / "cluster.yaml"


def test_it_makes_the_cluster_and_runs_the_tests_with_a_kind_that_is_new_enough():
    (job,) = yaml.safe_load(WORKFLOW.read_text())["jobs"].values()
    runs = [step["run"] for step in job["steps"] if "run" in step]
    assert runs.index("make kind-up") < runs.index("make test-kind")
    assert tuple(map(int, job["env"]["KIND_VERSION"].removeprefix("v").split(".")[:2])) >= KIND


def test_torture_on_a_cluster_runs_the_campaign_that_is_for_it():
    def command(*settings: str) -> str:
        installed = ["--old-file=.venv/.installed", "--old-file=.venv/.installed-dev"]
        return subprocess.check_output(
            ["make", "--silent", *installed, "torture", "PYTHON=echo", *settings], cwd=ROOT, text=True
        )

    assert "tests/torture/test_cluster.py" in command("TARGET=kind")
    assert "test_cluster.py" not in command() and "tests/torture" in command()
