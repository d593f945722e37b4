"""What a lineage keeps of each scan: names and digests, and nothing of its header."""

import json

import pytest

from components.registry.scan_digests import KEPT, inventory


@pytest.fixture
def kept(tmp_path):
    """kept(case, ...) -> the inventory of these cases; the first one is learnt from, the second one tested on."""

    def make(*cases: dict) -> dict:
        facts = {
            "data_uri": "s3://b/p", "data_version": "v", "layout": "BIDS", "synthetic": True,
            "refused": {"x": "why"}, "ignored": ["README"], "cases": list(cases),
        }  # fmt: skip
        names = [c["case"] for c in cases]
        parts = {"digest": "d", "cases": {"train": names[:1], "val": [], "test": names[1:2]}}
        (tmp_path / "cases.json").write_text(json.dumps(facts))
        (tmp_path / "split.json").write_text(json.dumps(parts))
        return inventory(tmp_path, tmp_path / "split.json")

    return make


def case(name: str, voxel_mm=(2.0, 2.0, 5.0), **more) -> dict:
    sources = [{"key": f"{name}.nii.gz", "sha256": "0" * 64}]
    return {
        "case": name, "patient": name, "session": None, "labelled": True, "shape": [32, 24, 5], "lesion_ml": 1.0,
        "voxel_mm": voxel_mm and list(voxel_mm), "lesion_voxels": 50, "sources": sources, "voxel_sha256": "1" * 64,
        "slice_sha256": ["2" * 32], "orientation_found": "LPS", "repairs": ["noted"], **more,
    }  # fmt: skip


def test_every_scan_is_listed_with_its_subset_and_its_files_digests(kept):
    found = kept(case("a"), case("b"), case("c", labelled=False))
    assert [(c["case"], c["subset"]) for c in found["cases"]] == [("a", "train"), ("b", "test"), ("c", None)]
    assert found["cases"][0]["sources"] == [{"key": "a.nii.gz", "sha256": "0" * 64}]
    assert (found["data_uri"], found["split_digest"], found["refused"]) == ("s3://b/p", "d", {"x": "why"})


def test_what_is_not_named_is_not_kept_and_what_is_not_known_is_none(kept):
    (found,) = kept(case("a"))["cases"]
    assert set(found) == {*KEPT, "subset"}
    assert (found["site"], found["scanner"]) == (None, None)


def test_site_and_scanner_are_kept_where_they_are_known(kept):
    (found,) = kept(case("a", site="Siriraj", scanner="3 T"))["cases"]
    assert (found["site"], found["scanner"]) == ("Siriraj", "3 T")


def test_the_sizes_seen_are_those_that_were_learnt_from(kept):
    found = kept(case("a"), case("b", voxel_mm=(1.0, 1.0, 3.0)))
    assert found["seen"] == {"voxel_mm": [[2, 2], [2, 2], [5, 5]], "shape": [[32, 32], [24, 24], [5, 5]]}
    assert kept(case("a", voxel_mm=None), case("b"))["seen"]["voxel_mm"] is None
