"""Who learns, who chooses, who tests: by patient, never by slice."""

import hashlib
import json
import logging
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from components.core.cases import learnable
from components.core.step import StepError
from components.split.table import write_table

SUBSETS = ("train", "val", "test")


def split(
    cases: Path, out: Path, page: Path, ratios: tuple[float, float, float], seed: int, inputs: str = "dwi"
) -> None:
    """Assign the labelled patients of `cases/cases.json` to train, val and test; write `out` (JSON) and a page of it.

    Cases without all that `inputs` asks for are left out.

    Raises:
        StepError: too few patients, or one patient would be in two subsets.
    """
    labelled = learnable(cases, inputs)
    groups = linked_patients(labelled)
    assignment = assign(groups, _volumes(groups, labelled), ratios, seed)
    require_disjoint(labelled, assignment)
    patients = {subset: sorted(p for p, s in assignment.items() if s == subset) for subset in SUBSETS}
    total = sum(map(len, patients.values()))
    facts = {
        "patients": patients,
        "cases": {s: sorted(c["case"] for c in labelled if assignment[c["patient"]] == s) for s in SUBSETS},
        "lesion_free": sorted(
            {c["patient"] for c in labelled} - {c["patient"] for c in labelled if c["lesion_voxels"]}
        ),
        "linked": [sorted(g) for g in groups if len(g) > 1],
        "ratios_asked": dict(zip(SUBSETS, ratios, strict=True)),
        "ratios_reached": {s: len(p) / total for s, p in patients.items()},
        "random_seed": seed,
    }
    facts["digest"] = hashlib.sha256(json.dumps(patients, sort_keys=True).encode()).hexdigest()
    out.write_text(json.dumps(facts, indent=1))
    write_table(facts, json.loads((cases / "cases.json").read_text())["synthetic"], page)
    for group in facts["linked"]:
        logging.info("linked     %s: they share a byte-identical image and stay in one subset", ", ".join(group))
    for subset in SUBSETS:
        logging.info("%-5s %3d patients, %3d scans", subset, len(patients[subset]), len(facts["cases"][subset]))


def linked_patients(cases: Iterable[dict]) -> list[frozenset[str]]:
    """Patients that must stay together: those that share a byte-identical image, each other one alone."""
    owner: dict[str, str] = {}
    parent: dict[str, str] = {}

    def root(p: str) -> str:
        while parent[p] != p:
            p = parent[p]
        return p

    for case in cases:
        parent.setdefault(case["patient"], case["patient"])
        for digest in _image_digests(case):
            first = owner.setdefault(digest, case["patient"])
            parent[root(case["patient"])] = root(first)
    groups = defaultdict(set)
    for p in parent:
        groups[root(p)].add(p)
    return sorted(map(frozenset, groups.values()), key=min)


def assign(
    groups: list[frozenset[str]], volume: dict[frozenset[str], float], ratios: tuple[float, float, float], seed: int
) -> dict[str, str]:
    """Patient to subset. Groups with a lesion, sorted by its volume, are cut into as many runs as a subset needs
    patients and one is drawn from each run, so every subset sees small and large lesions; lesion-free ones likewise,
    as many as make the ratios those of all groups.

    Raises:
        StepError: fewer than three groups have a lesion.
    """
    with_lesion = sorted((g for g in groups if volume[g] > 0), key=lambda g: (volume[g], min(g)))
    lesion_free = sorted((g for g in groups if volume[g] == 0), key=min)
    if len(with_lesion) < 3:
        raise StepError(
            f"3 unlike patients with a lesion are needed (one each to train, to validate and to test), "
            f"{len(with_lesion)} found. Add labelled scans."
        )
    n = len(with_lesion)
    test = max(1, min(round(n * ratios[2]), n - 2))
    val = max(1, min(round(n * ratios[1]), n - test - 1))
    free_test = max(0, min(round(len(groups) * ratios[2]) - test, len(lesion_free)))
    free_val = max(0, min(round(len(groups) * ratios[1]) - val, len(lesion_free) - free_test))
    rng = np.random.default_rng(seed)
    subset_of: dict[frozenset[str], str] = {}
    for pool, n_test, n_val in ((with_lesion, test, val), (lesion_free, free_test, free_val)):
        for subset, n in (("test", n_test), ("val", n_val)):
            left = [g for g in pool if g not in subset_of]
            for run in np.array_split(np.arange(len(left)), n) if n else []:
                subset_of[left[rng.choice(run)]] = subset
    return {p: subset_of.get(g, "train") for g in groups for p in g}


def require_disjoint(cases: Iterable[dict], assignment: dict[str, str]) -> None:
    """Raises StepError where a patient's session or a byte-identical image lies in two subsets."""
    seen: dict[str, dict] = {}
    for case in cases:
        for digest in _image_digests(case):
            first = seen.setdefault(digest, case)
            if assignment[first["patient"]] != assignment[case["patient"]]:
                raise StepError(
                    f"{first['case']} ({assignment[first['patient']]}) and {case['case']} "
                    f"({assignment[case['patient']]}) hold the same image: the test would be of what was learnt. "
                    "Remove one of them, or give both one patient's name."
                )


def _image_digests(case: dict) -> list[str]:
    """Of the whole image and of each slice that shows anything, in canonical orientation."""
    return [case["voxel_sha256"], *case["slice_sha256"]]


def _volumes(groups: list[frozenset[str]], cases: list[dict]) -> dict[frozenset[str], float]:
    """Largest lesion of each group: mL where every scan has a voxel size, else the share of the scan's voxels."""
    in_ml = all(c["lesion_ml"] is not None for c in cases)
    size = {c["case"]: c["lesion_ml"] if in_ml else c["lesion_voxels"] / np.prod(c["shape"]) for c in cases}
    return {g: max(size[c["case"]] for c in cases if c["patient"] in g) for g in groups}
