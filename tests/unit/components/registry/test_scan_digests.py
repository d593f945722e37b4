"""What a registered version keeps of each scan: names and digests, and nothing from its header."""

import json

import pytest

from components.artifacts.cases import Case, Source
from components.artifacts.evaluation import ScanDigests
from components.registry.scan_digests import scan_digests
from tests.support.artifacts import make_case, make_cases, make_split


def digests(*cases: Case) -> ScanDigests:
    """Return the digests of these cases; the first one is in train, the second one in test."""
    names = [c.case for c in cases]
    return scan_digests(
        make_cases(list(cases), refused={"x": "reason"}, ignored=["README"]),
        make_split({"train": names[:1], "val": [], "test": names[1:2]}, digest="d"),
    )


def case(name: str, **fields) -> Case:
    source = Source(key=f"{name}.nii.gz", sha256="0" * 64)
    return make_case(name, shape=(32, 24, 5), sources=[source], repairs=["noted"], **fields)


def test_every_scan_is_listed_with_its_subset_and_the_digests_of_its_files():
    found = digests(case("a"), case("b"), case("c", labelled=False))
    assert [(c.case, c.subset) for c in found.cases] == [("a", "train"), ("b", "test"), ("c", None)]
    assert found.cases[0].sources == [Source(key="a.nii.gz", sha256="0" * 64)]
    assert (found.data_uri, found.split_digest, found.refused) == ("s3://bucket/scans", "d", {"x": "reason"})


def test_the_file_has_names_and_digests_alone(tmp_path):
    digests(case("a")).write(tmp_path)
    (found,) = json.loads((tmp_path / "cases.json").read_text())["cases"]
    assert found.keys() == {
        "case", "patient", "session", "labelled", "lesion_voxels", "lesion_ml", "site", "scanner", "sources",
        "voxel_sha256", "subset",
    }  # fmt: skip
    assert (found["site"], found["scanner"]) == (None, None)


def test_site_and_scanner_are_kept_where_they_are_known():
    (found,) = digests(case("a", site="Siriraj", scanner="3 T")).cases
    assert (found.site, found.scanner) == ("Siriraj", "3 T")


@pytest.mark.parametrize(("voxel_mm", "ranges"), [((2.0, 2.0, 5.0), [(2, 2), (2, 2), (5, 5)]), (None, None)])
def test_the_sizes_are_those_of_the_training_scans(voxel_mm, ranges):
    found = digests(case("a", voxel_mm=voxel_mm), case("b", voxel_mm=(1.0, 1.0, 3.0)))
    assert found.seen.voxel_mm == ranges
    assert found.seen.shape == [(32, 32), (24, 24), (5, 5)]
