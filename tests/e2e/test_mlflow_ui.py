"""What a person sees in MLflow's pages, in a real browser."""

import os
from pathlib import Path

import pytest

from tests.support.browser import launch
from tests.support.mlflow_login import log_in

WAIT_MS = 60_000


@pytest.fixture(scope="module")
def browser(checkout, first):
    """A browser that is logged in and keeps what it loaded: MLflow's pages are large."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = launch(playwright)
        context = browser.new_context(viewport={"width": 1360, "height": 950})
        context.set_default_timeout(WAIT_MS)
        log_in(context.new_page(), checkout.services())
        yield context
        browser.close()


@pytest.fixture
def page(browser, request):
    page = browser.new_page()
    yield page
    close = page.get_by_role("button", name="Close")
    if close.count():
        close.first.click()
    if folder := os.environ.get("SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"{request.node.name}.png")
    page.close()


@pytest.fixture
def run_url(checkout, first) -> str:
    uri = checkout.services()["MLFLOW_TRACKING_URI"]
    assert first["links"]["run"].startswith(uri)
    return first["links"]["run"]


def below(run_url: str, path: str) -> str:
    """The address of a part of the run's page."""
    page, _, view = run_url.partition("?")
    return f"{page}/{path}?{view}"


@pytest.mark.slow
def test_the_run_page_shows_the_metrics(page, run_url, first):
    page.goto(run_url)
    page.get_by_text("test_dice_mean").first.wait_for()
    assert f"{first['metrics']['test_dice_mean']:.3f}"[:4] in page.content()


@pytest.mark.slow
def test_the_curves_are_drawn(page, run_url):
    page.goto(below(run_url, "model-metrics"))
    page.get_by_placeholder("Search metric charts").fill("val_dice")
    page.get_by_text("(val_dice)").first.wait_for()


@pytest.mark.slow
def test_an_overlay_can_be_looked_at(page, run_url, checkout, first):
    artifacts = checkout.state / "s3" / "dwi-stroke" / "artifacts"
    picture = next(artifacts.glob("*/evaluate/evaluation/test_predictions/*"))
    page.goto(below(run_url, f"artifacts/test_predictions/{picture.name}"))
    image = page.locator("img[src^='blob:'], img[src*='test_predictions'], .image-outer-container img").first
    image.wait_for()
    assert image.evaluate("i => i.naturalWidth") > 300


@pytest.mark.slow
def test_the_versions_page_shows_its_card_and_leads_to_the_whole_of_it(page, checkout, first):
    uri = checkout.services()["MLFLOW_TRACKING_URI"]
    page.goto(first["links"]["model"])
    for title in ("Use", "Out of scope", "Metrics", "Limits", "Subgroups"):
        page.get_by_role("heading", name=title, exact=True).wait_for()
    assert page.get_by_role("cell", name="Lesion F1").count()
    page.goto(f"{uri}/" + page.get_by_role("link", name="model_card/model_card.md").get_attribute("href"))
    page.get_by_role("heading", name="Failures", exact=True).wait_for()


@pytest.mark.slow
def test_the_registry_shows_the_version_and_its_aliases(page, checkout, first):
    uri = checkout.services()["MLFLOW_TRACKING_URI"]
    page.goto(f"{uri}/#/models/{first['model']['name']}")
    for text in ("Version 1", "champion"):
        page.get_by_text(text).first.wait_for()
