"""Artifacts for tests: complete ones from the few fields that a test cares about."""

from components.artifacts.cases import Case, Cases
from components.artifacts.split_file import Split, SplitHistory, SplitSource, split_digest

RATIOS = {"train": 0.6, "val": 0.2, "test": 0.2}


def make_case(name: str, **fields) -> Case:
    """Return a labelled case with a lesion of 1 mL and images of its own."""
    given = {
        "case": name, "patient": name, "session": None, "labelled": True, "shape": (64, 64, 20),
        "voxel_mm": (2.0, 2.0, 5.0), "orientation_found": "RAS", "slice_numbers": None,
        "files": {"dwi": f"{name}_dwi.nii.gz", "mask": f"{name}_mask.nii.gz"}, "sources": [],
        "voxel_sha256": f"volume of {name}", "slice_sha256": [f"slice {s} of {name}" for s in range(3)],
        "lesion_voxels": 1000, "lesion_ml": 1.0, "adc_unit_found": None, "portrait": None,
    }  # fmt: skip
    return Case(**given | fields)


def make_cases(cases: list[Case], **fields) -> Cases:
    """Return the cases of a data set of patients."""
    given = {
        "layout": "BIDS", "refused": {}, "ignored": [], "notes": [], "synthetic": False,
        "data_uri": "s3://bucket/scans", "data_version": "1",
    }  # fmt: skip
    return Cases(cases=cases, **given | fields)


def make_split(patients: dict[str, list[str]], **fields) -> Split:
    """Return the first split of these patients, with one case each."""
    history = SplitHistory(
        patients=[], drawn=SplitSource(data_uri="s3://bucket/scans", data_version="1", settings={}, extended_history="")
    )
    given = {
        "cases": patients, "lesion_free": [], "linked": [], "alike": [],
        "ratios_asked": RATIOS, "ratios_reached": RATIOS,
        "random_seed": 42, "carry_split": True, "extends": None, "history": history, "digest": split_digest(patients),
        "history_digest": history.digest,
    }  # fmt: skip
    return Split(patients=patients, **given | fields)
