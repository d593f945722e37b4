"""What several tests share: small scans, written the way users lay them out; which tests share a worker."""

import fcntl
import functools
import os
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

TESTS = Path(__file__).parent
REAL_SCANS = Path(__file__).parents[2] / "shared" / "data" / "real-scans"
VOXEL_2X2X5_MM = np.diag([2.0, 2.0, 5.0, 1.0])
TOGETHER = {
    "the local run": ("e2e/test_local_run.py", "e2e/test_mlflow_ui.py"),
    "MONAI, which takes seconds to import": tuple(
        f"unit/components/{name}.py"
        for name in ("evaluate/test_metrics", "evaluate/test_surface", "model/test_deep_supervision",
                     "model/test_losses", "train/test_validation")
    ),
}  # fmt: skip
"""Files that share a fixture or an import that takes long."""
LONGEST_FIRST = ("e2e", "integration", "relations", "corpus", "unit")

sys.modules.setdefault("rfc3987_syntax", None)  # Kubernetes' client imports it, for a second: no test needs it
MOST_WORKERS = 4


def _cores() -> list[int]:
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [*range(os.cpu_count() or 1)]


if worker := os.environ.get("PYTEST_XDIST_WORKER"):
    # Threads of several workers would wait for each other. With a core for each worker, so would their processes.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if hasattr(os, "sched_setaffinity") and int(os.environ["PYTEST_XDIST_WORKER_COUNT"]) <= len(cores := _cores()):
        os.sched_setaffinity(0, {cores[int(worker.removeprefix("gw")) % len(cores)]})


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One more worker than cores: while one waits for a server, another computes."""
    return min(MOST_WORKERS, len(_cores()) + 1)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Keep on one worker the tests of a file, and the files that go together, so that fixtures are made once."""
    from xdist.scheduler import LoadFileScheduling

    class Files(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            name = file.removeprefix("tests/")
            return next((shared for shared, files in TOGETHER.items() if name in files), file)

    return Files(config, log)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(items):
    """Mark what `sampled` leaves out as slow, before pytest deselects by marker.

    Then begin with the folders whose files take longest, so that the workers end together.
    """
    values = Counter()
    for item in items:
        if mark := item.get_closest_marker("sampled"):
            test = item.nodeid.partition("[")[0]
            if values[test] % mark.args[0]:
                item.add_marker(pytest.mark.slow)
            values[test] += 1
    result = yield
    order = {folder: place for place, folder in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: order.get(item.path.relative_to(TESTS).parts[0], len(order)))
    return result


@pytest.fixture(autouse=True, scope="session")
def one_reading_of_botocores_files():
    """Every S3 client reads megabytes of JSON; those of one process share them here."""
    from botocore.loaders import JSONFileLoader

    read = functools.cache(JSONFileLoader().load_file)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(JSONFileLoader, "load_file", lambda _, path: read(path))
        yield


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory) -> Path:
    """An MLflow database with its tables, which take seconds to make; all workers share it, so copy it."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore  # seconds too

    base = tmp_path_factory.getbasetemp()
    folder = base.parent if worker else base
    path, making = folder / "empty.db", folder / "making.db"
    with (folder / "making.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            SqlAlchemyStore(f"sqlite:///{making}", "mlflow-artifacts:/")  # artifacts as the server has them
            making.rename(path)
    return path


@pytest.fixture(scope="session")
def real_scans() -> Path:
    """Real scans of patients; they are not part of the repository."""
    if not REAL_SCANS.is_dir():
        pytest.skip("needs the real scans in ../shared/data, which are not in the repository")
    return REAL_SCANS


@pytest.fixture(scope="session")
def make_scan() -> Callable[..., tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """make_scan(seed=0, shape=(32, 24, 5)) -> DWI (float32), ADC in 1e-3 mm2/s (float32), lesion mask (uint8).

    No two voxels of the brain are alike, and it has no symmetry, so a flipped or shifted copy never passes for it.
    """

    def make(seed: int = 0, shape: tuple[int, int, int] = (32, 24, 5)) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rng = np.random.default_rng(seed)
        x, y, s = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
        brain = x**2 + y**2 + 0.2 * s**2 < 0.9
        lesion = (x - 0.35) ** 2 + (y + 0.2) ** 2 + 0.1 * s**2 < 0.06
        dwi = brain * (100 + 100 * lesion + rng.uniform(0, 10, shape))
        adc = brain * (0.8 - 0.4 * lesion + rng.uniform(0, 0.1, shape))
        return dwi.astype(np.float32), adc.astype(np.float32), lesion.astype(np.uint8)

    return make


@pytest.fixture(scope="session")
def make_head() -> Callable[..., np.ndarray]:
    """make_head(fluid, tissue, lesion=tissue) -> a head (96, 96, 9), 2 mm pixels: fluid in its middle and at its rim.

    The lesion fills a fifth of one side. Without `air` that is its own, there is none.
    """

    def make(fluid: float, tissue: float, lesion: float | None = None, air: np.ndarray | float = 0) -> np.ndarray:
        x, y, _ = np.meshgrid(*[np.linspace(-1, 1, n) for n in (96, 96, 9)], indexing="ij")
        radius, shape = np.hypot(x / 0.72, y / 0.85), x.shape
        head = np.full(shape, tissue)
        head[(x + 0.4) ** 2 + (y - 0.1) ** 2 < 0.05] = tissue if lesion is None else lesion
        head[(np.hypot(x / 0.14, y / 0.3) < 1) | ((radius > 0.82) & (np.cos(9 * np.arctan2(y, x)) > 0.2))] = fluid
        grain = np.random.default_rng(0).normal(1, 0.05, shape)
        return np.where(radius < 1, head * grain, air).astype(np.float32)

    return make


@pytest.fixture(scope="session")
def write_case() -> Callable[..., Path]:
    """write_case(folder, "sub-1", dwi=..., mask=..., adc=...) writes one session in the ISLES'22 (BIDS) layout.

    `session=None` leaves the session out; `affine` is for all three, or a dict by kind ("dwi", "adc", "mask").
    """

    def write(folder: Path, name: str, session: str | None = "ses-0001", affine=VOXEL_2X2X5_MM, **volumes) -> Path:
        stem, below = (f"{name}_{session}", f"{name}/{session}") if session else (name, name)
        for kind, data in volumes.items():
            path = folder / f"derivatives/{below}/{stem}_msk.nii.gz"
            if kind != "mask":
                path = folder / f"{below}/dwi/{stem}_{kind}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(data, affine[kind] if isinstance(affine, dict) else affine), path)
        return folder

    return write


@pytest.fixture(scope="session")
def write_npy() -> Callable[..., Path]:
    """write_npy(folder, "Patient_001", image, mask) writes images/NAME.npy and, where given, masks/NAME.npy."""

    def write(folder: Path, name: str, image: np.ndarray, mask: np.ndarray | None = None) -> Path:
        for kind, data in (("images", image), ("masks", mask)):
            if data is not None:
                (folder / kind).mkdir(parents=True, exist_ok=True)
                np.save(folder / kind / f"{name}.npy", data)
        return folder

    return write


@pytest.fixture(scope="session")
def keys_of() -> Callable[[Path], list[str]]:
    """keys_of(folder): its files as the keys that a bucket with this content would list."""
    return lambda folder: [p.relative_to(folder).as_posix() for p in sorted(folder.rglob("*")) if p.is_file()]
