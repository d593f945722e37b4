"""A real browser for MLflow's pages: the system's Chromium, else the one that playwright installed."""

import shutil

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
INSTALL = ".venv/bin/python -m playwright install --with-deps chromium"
ARGUMENTS = ["--no-sandbox", "--disable-background-networking", "--disable-component-update", "--disable-sync"]


def launch(playwright):
    """Start Chromium, or skip the test with the command that installs it."""
    from playwright.sync_api import Error

    installed = next(filter(None, map(shutil.which, NAMES)), None)
    try:
        return playwright.chromium.launch(executable_path=installed, args=ARGUMENTS)
    except Error as error:
        if "Executable doesn't exist" not in str(error):
            raise
        pytest.skip(f"needs Chromium; install it: {INSTALL}")
