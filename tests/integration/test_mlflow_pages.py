"""The links that are printed, each opened in a browser that has never been there."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import mlflow
import numpy as np
import pytest

from components.core.html_page import render
from components.register.register import CARD, _card_link
from components.registry.run_records import record_page
from components.registry.tracking import MODEL_NAME, TRAINING_VIEW, Run
from components.scans.viewer.page import PLACE, Viewer, Volumes
from pipelines.summary import links
from tests.support.browser import launch
from tests.support.mlflow_login import log_in

pytestmark = pytest.mark.slow

WAIT_MS = 120_000
OF_GENAI = ("AI Gateway", "Prompts")
"""Entries of the menu beside each page of the GenAI view."""


@pytest.fixture
def printed(versionless, tmp_path, monkeypatch) -> dict[str, tuple[str, str]]:
    """What is opened: name to address, and to a word that the page then shows."""
    monkeypatch.setenv("KFP_RUN_ID", "20261125-222254-demo")
    run = Run.open("digest")
    (tmp_path / f"{CARD}.md").write_text("# A whole card\n")
    run.log_artifact(tmp_path / f"{CARD}.md", CARD)
    run.log_metrics({"test_dice_mean": 0.472})
    address = _card_link(run)
    version = versionless.create_model_version(
        MODEL_NAME, "s3://dwi-stroke/mlflow/m", run.id, description=address
    ).version
    uri = mlflow.get_tracking_uri()
    found = links(uri, run.client.get_run(run.id).info.experiment_id, run.id, MODEL_NAME, version)
    card = f"{uri}/{address.split('(')[1].rstrip(')')}"
    return {
        "runs": (found["runs"], "Version"),  # a column that MLflow's own view does not show
        "run": (found["run"], "test_dice_mean"),
        "model": (found["model"], f"Version {version}"),
        "card": (card, "A whole card"),
    }


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = launch(playwright)
        yield browser
        browser.close()


@pytest.fixture
def page(browser, servers):
    """A page of a new profile that a link has logged in."""
    page = browser.new_context(viewport={"width": 1360, "height": 950}).new_page()
    page.set_default_timeout(WAIT_MS)
    log_in(page, servers)
    return page


@pytest.mark.parametrize("name", ["runs", "run", "model", "card"])
def test_a_printed_link_opens_the_view_of_model_training(printed, name, page):
    address, word = printed[name]
    page.goto(address, timeout=WAIT_MS)
    page.get_by_text(word, exact=True).first.wait_for(timeout=WAIT_MS)
    page.get_by_text("Model registry", exact=True).first.wait_for(timeout=WAIT_MS)
    menu = page.inner_text("body")
    assert not [entry for entry in OF_GENAI if entry in menu]


def test_the_viewer_of_a_page_works_in_the_artifact_view(registry, page, servers, tmp_path, monkeypatch):
    monkeypatch.setenv("KFP_RUN_ID", "20261126-160000-viewer")
    volumes = Volumes(np.random.default_rng(0).normal(size=(32, 32, 4)))
    with Viewer() as viewer:
        viewer.add("sub-1", "", None, lambda: volumes)
        viewer.write(render("{{ viewer }}", title="Evaluation", viewer=PLACE), tmp_path / "page.html")
    run = Run.open("digest of a run with a viewer")
    record_page(run, tmp_path / "page.html")
    experiment = run.client.get_run(run.id).info.experiment_id
    uri = servers["MLFLOW_TRACKING_URI"]
    page.goto(f"{uri}/#/experiments/{experiment}/runs/{run.id}/artifacts/evaluation.html{TRAINING_VIEW}")
    frame = page.frame_locator("iframe.mlflow-html-iframe")
    frame.locator("#viewer[data-ready]").wait_for(timeout=WAIT_MS)
    assert frame.locator("#viewer select").input_value() == "sub-1"


def test_a_link_logs_a_browser_in_once_and_every_page_of_it_stays_logged_in(servers, browser, page):
    uri = servers["MLFLOW_TRACKING_URI"]
    assert "/login" not in page.url and servers["MLFLOW_TRACKING_TOKEN"] not in page.url
    another = page.context.new_page()
    another.goto(f"{uri}/#/models?workflowType=machine_learning")
    another.get_by_text("Model registry", exact=True).first.wait_for(timeout=WAIT_MS)
    stranger = browser.new_context().new_page()
    stranger.goto(f"{uri}/#/models")
    assert "make mlflow shows a link" in stranger.inner_text("body")


def test_a_used_link_says_where_a_new_one_is(servers, browser):
    opened = browser.new_context().new_page()
    used = []
    opened.on("request", lambda asked: used.append(asked.post_data) if asked.method == "POST" else None)
    log_in(opened, servers)
    again = browser.new_context().new_page()
    again.goto(f"{servers['MLFLOW_TRACKING_URI']}/login#{used[0]}")
    again.get_by_text("This link was used").wait_for(timeout=WAIT_MS)


def test_no_other_port_of_this_machine_gets_the_login(servers, page):
    """Where another user may wait for it; a cookie would go there."""
    sent = []

    class Waits(BaseHTTPRequestHandler):
        timeout = 5

        def do_GET(self):
            sent.append(dict(self.headers))
            self.send_response(200 if self.path == "/" else 401)
            self.send_header("WWW-Authenticate", 'Basic realm="MLflow"')
            self.end_headers()

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Waits) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        page.goto(f"http://127.0.0.1:{server.server_port}/")
        page.evaluate("void fetch('/again').catch(() => 0)")
        page.wait_for_timeout(500)
        page.context.close()
        server.shutdown()
    assert len(sent) > 1 and not any({"Authorization", "Cookie"} & headers.keys() for headers in sent)
