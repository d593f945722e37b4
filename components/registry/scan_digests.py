"""What a model learnt from and was tested on, scan by scan, as its lineage keeps it: names and digests, no header."""

import json
from collections.abc import Iterable
from pathlib import Path

SUBSETS = ("train", "val", "test")
KEPT = (
    "case", "patient", "session", "labelled", "lesion_voxels", "lesion_ml", "site", "scanner", "sources",
    "voxel_sha256",
)  # fmt: skip


def inventory(cases: Path, split: Path) -> dict:
    """The content of the lineage's `cases.json`, from ingest's `cases/cases.json` and the split.

    Returns:
        data_uri, data_version, layout, synthetic, split_digest; refused: case to reason; seen: voxel_mm and shape of
        the scans that were learnt from, lowest and highest per axis (voxel_mm None where a scan has none); cases:
        what `KEPT` names (None where unknown) and subset, None for a scan in none. A source is a key and its SHA-256.
    """
    facts, parts = json.loads((cases / "cases.json").read_text()), json.loads(split.read_text())
    subset_of = {case: subset for subset, names in parts["cases"].items() for case in names}
    learnt = [c for c in facts["cases"] if subset_of.get(c["case"]) == "train"]
    sized = all(c["voxel_mm"] for c in learnt)
    return {
        **{name: facts[name] for name in ("data_uri", "data_version", "layout", "synthetic", "refused")},
        "split_digest": parts["digest"],
        "seen": {
            "voxel_mm": _range(c["voxel_mm"] for c in learnt) if sized else None,
            "shape": _range(c["shape"] for c in learnt),
        },
        "cases": [{**{name: c.get(name) for name in KEPT}, "subset": subset_of.get(c["case"])} for c in facts["cases"]],
    }


def _range(sizes: Iterable[list]) -> list[list]:
    return [[min(axis), max(axis)] for axis in zip(*sizes, strict=True)]
