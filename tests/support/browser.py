"""A real browser for our pages and MLflow's: the system's Chromium, else the one that playwright installed."""

import shutil

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
INSTALL = ".venv/bin/python -m playwright install --with-deps chromium"
ARGUMENTS = ["--no-sandbox", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
WEBGL = ["--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
"""Draw WebGL on the CPU."""


def launch(playwright):
    """Start Chromium, or skip the test with the command that installs it."""
    from playwright.sync_api import Error

    installed = next(filter(None, map(shutil.which, NAMES)), None)
    try:
        return playwright.chromium.launch(executable_path=installed, args=ARGUMENTS + WEBGL)
    except Error as error:
        if "Executable doesn't exist" not in str(error):
            raise
        pytest.skip(f"needs Chromium; install it: {INSTALL}")
