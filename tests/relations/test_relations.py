"""What must hold between the predictions of a scan and of the same scan changed; see `changes.py` and `measure.py`.

`make test` asks a small network that has learnt phantoms. `make relations` asks the demo's champion, on every real
scan of ../shared/data.
"""

import json
import shutil

import pytest

from tests.relations import real
from tests.relations.changes import Scan, relations
from tests.relations.measure import dice, measure
from tests.relations.phantoms import phantom

PHANTOM, LESION, _ = phantom(seed=100)
PHANTOMS = {"phantom": PHANTOM, "phantom.npy": Scan("phantom.npy", PHANTOM.voxels, None)}


def every_relation(nifti: list[str], npy: list[str]) -> list:
    """Name of scan and relation, for all of both."""
    pairs = [(name, relation) for name in nifti for relation in relations(npy=False)]
    pairs += [(name, relation) for name in npy for relation in relations(npy=True)]
    return [pytest.param(name, relation, id=f"{name}: {relation.name}") for name, relation in pairs]


@pytest.mark.sampled(6)
@pytest.mark.parametrize(("name", "relation"), every_relation(["phantom"], ["phantom.npy"]))
def test_it_holds_for_a_small_network(name, relation, small_model):
    row = small_model.row(relation, PHANTOMS[name])
    assert row.holds, row


@pytest.mark.parametrize("name", PHANTOMS)
def test_the_small_network_finds_the_lesion_of_a_phantom_that_it_has_not_seen(name, small_model):
    assert dice(small_model.before(PHANTOMS[name]), LESION) > 0.7


@pytest.mark.slow
def test_padding_shows_a_model_that_measures_intensities_against_the_air(small_model, tmp_path):
    """As before the head was found: the same weights, the whole plane resized, intensities of all voxels."""
    shutil.copytree(small_model.weights, tmp_path / "weights")
    path = tmp_path / "weights/model.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"pixel_mm": 0, "normalization": "volume"}))
    rows = {row.relation: row for row in measure(tmp_path / "weights", PHANTOM)}
    assert not rows["padded by a sixth, all sides"].holds
    assert not rows["cropped, all sides"].holds
    assert rows["renamed"].holds


@pytest.mark.relations
@pytest.mark.parametrize(("name", "relation"), every_relation(real.nifti_names(), real.npy_names()))
def test_it_holds_for_the_champion_on_a_real_scan(name, relation, champion, real_scans):
    row = champion.row(relation, real.scan(name))
    assert row.holds, row
