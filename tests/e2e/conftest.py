import shutil
from pathlib import Path

import pytest

from pipelines.demo.scans import write_demo_scans
from tests.support.checkout import Checkout
from tests.support.planted import plant_in_header

SMALL = "image_size=32 base_channels=4 epochs=2 batch_size=8"


@pytest.fixture(scope="session")
def demo_scans(tmp_path_factory) -> Path:
    """Six synthetic patients, five with a lesion."""
    folder = tmp_path_factory.mktemp("scans") / "demo"
    write_demo_scans(folder, patients=6, processes=1)
    return folder


@pytest.fixture(scope="session")
def checkout(tmp_path_factory):
    """One whose path holds what means something to a shell, an address, a pattern or a database."""
    with Checkout(tmp_path_factory.mktemp("clone") / "my checkout? 50% #1 [x] $5 'it'", one_cpu=True) as checkout:
        yield checkout


@pytest.fixture(scope="session")
def scans(demo_scans, tmp_path_factory) -> Path:
    """A copy of the demo scans that a test may change; its headers say what no header should."""
    folder = tmp_path_factory.mktemp("own") / "python3 scans"
    shutil.copytree(demo_scans, folder)
    for path in folder.rglob("*.nii.gz"):
        plant_in_header(path)
    return folder


@pytest.fixture(scope="session")
def first(checkout, scans) -> dict:
    """The summary of the first run in `checkout`."""
    checkout.python("run", "--data", str(scans), "--set", SMALL)
    return checkout.last_run()
