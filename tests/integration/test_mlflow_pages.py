"""The links that are printed, each opened in a browser that has never been there."""

import shutil

import mlflow
import pytest

from components.core.tracking import MODEL_NAME, Run
from components.register.register import CARD, _address
from pipelines.summary import links

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here (Debian: apt-get install chromium)")
WAIT_MS = 120_000
OF_GENAI = ("AI Gateway", "Prompts")
"""Entries of the menu beside each page of the GenAI view."""


@pytest.fixture
def printed(versionless, tmp_path, monkeypatch) -> dict[str, tuple[str, str]]:
    """What is opened: name to address, and to a word that the page then shows."""
    monkeypatch.setenv("KFP_RUN_ID", "20261125-222254-demo")
    run = Run.open("digest")
    (tmp_path / f"{CARD}.md").write_text("# A whole card\n")
    run.artifact(tmp_path / f"{CARD}.md", CARD)
    run.metrics({"test_dice_mean": 0.472})
    address = _address(run)
    version = versionless.create_model_version(
        MODEL_NAME, "s3://dwi-stroke/mlflow/m", run.id, description=address
    ).version
    uri = mlflow.get_tracking_uri()
    found = links(uri, run.client.get_run(run.id).info.experiment_id, run.id, MODEL_NAME, version)
    card = f"{uri}/{address.split('(')[1].rstrip(')')}"
    return {
        "run": (found["run"], "test_dice_mean"),
        "model": (found["model"], f"Version {version}"),
        "card": (card, "A whole card"),
    }


@pytest.mark.parametrize("name", ["run", "model", "card"])
def test_a_printed_link_opens_the_view_of_model_training(printed, name):
    from playwright.sync_api import sync_playwright

    address, word = printed[name]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1360, "height": 950})  # a new profile
        page.goto(address, timeout=WAIT_MS)
        page.get_by_text(word, exact=True).first.wait_for(timeout=WAIT_MS)
        page.get_by_text("Model registry", exact=True).first.wait_for(timeout=WAIT_MS)
        menu = page.inner_text("body")
        browser.close()
    assert not [entry for entry in OF_GENAI if entry in menu]
