"""Who learns, who chooses, who tests: by patient, never by slice."""

import json
import logging
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from components.artifacts.cases import learnable
from components.core.settings import checked
from components.core.step import StepError
from components.core.storage import Storage
from components.registry import split_history
from components.split.extend_split import extended, known_subsets, without_plain_names
from components.split.look_alikes import look_alikes
from components.split.split_page import in_words, write_table

SUBSETS = ("train", "val", "test")


def split(
    cases: Path,
    out: Path,
    page: Path,
    ratios: tuple[float, float, float],
    seed: int,
    inputs: str = "dwi",
    lineage: str = "",
    carry_split: bool = True,
) -> None:
    """Assign the labelled patients of `cases/cases.json` to train, val and test; write `out` (JSON) and a page of it.

    Cases without all that `inputs` asks for are left out. Who is known from the registered lineage (its digest; "" for
    none) stays in the same subset, and only the others are assigned. `carry_split` was the fingerprint's to obey.

    Raises:
        StepError: an impossible setting, too few patients, or one patient or scan would be in two subsets, or the
            lineage is gone.
    """
    checked({**{f"{s}_ratio": r for s, r in zip(SUBSETS, ratios, strict=True)}, "random_seed": seed, "inputs": inputs})
    found = json.loads((cases / "cases.json").read_text())
    address = Storage(found["data_uri"]).uri
    labelled = learnable(cases, inputs)
    groups = linked_patients(labelled)
    earlier = split_history.find(lineage) if lineage else None
    before = without_plain_names(earlier.lineage, {c["patient"] for c in labelled}) if earlier else None
    if earlier and before != earlier.lineage:
        logging.warning(
            "version %s knows patients by their own names, from runs without a key. This run does not repeat them; it "
            "knows those patients by their images. MLflow still holds those runs, and who reads both can tell who is "
            "who. To prevent that, delete those runs and versions.",
            earlier.version,
        )
    stay = known_subsets(groups, labelled, before["people"], address) if before else {}
    assignment = assign(groups, _volumes(groups, labelled), ratios, seed, stay)
    require_disjoint(labelled, assignment)
    patients = {subset: sorted(p for p, s in assignment.items() if s == subset) for subset in SUBSETS}
    total = sum(map(len, patients.values()))
    drawn = {
        "data_uri": address,
        "data_version": found["data_version"],
        "settings": split_history.settings(ratios, seed, inputs),
        "lineage": lineage,
    }
    facts = {
        "patients": patients,
        "cases": {s: sorted(c["case"] for c in labelled if assignment[c["patient"]] == s) for s in SUBSETS},
        "lesion_free": sorted(
            {c["patient"] for c in labelled} - {c["patient"] for c in labelled if c["lesion_voxels"]}
        ),
        "linked": [sorted(g) for g in groups if len(g) > 1],
        "alike": look_alikes(labelled, groups, assignment),
        "ratios_asked": dict(zip(SUBSETS, ratios, strict=True)),
        "ratios_reached": {s: len(p) / total for s, p in patients.items()},
        "random_seed": seed,
        "carry_split": carry_split,
        "carried_from": earlier and {"version": earlier.version, "lineage": lineage, "stay": sum(map(len, stay))},
        "lineage": extended(before, labelled, assignment, address, drawn),
    }
    facts["digest"] = split_history.split_digest(patients)
    facts["lineage_digest"] = split_history.lineage_digest(facts["lineage"])
    out.write_text(json.dumps(facts, indent=1))
    write_table(facts, found["synthetic"], page)
    for group in facts["linked"]:
        logging.info("linked     %s: they share a byte-identical image and stay in one subset", ", ".join(group))
    for one, other, likeness in facts["alike"]:
        logging.info("look-alike %s and %s (likeness %.3f): in one subset, as it happens", one, other, likeness)
    logging.info("%s", in_words(facts))
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
    groups: list[frozenset[str]],
    volume: dict[frozenset[str], float],
    ratios: tuple[float, float, float],
    seed: int,
    stay: dict[frozenset[str], str] | None = None,
) -> dict[str, str]:
    """Patient to subset; the groups in `stay` keep theirs. Groups with a lesion, sorted by its volume, are cut into as
    many runs as a subset needs patients and one is drawn from each run that has none of that subset yet, so every
    subset sees small and large lesions; lesion-free ones likewise, as many as make the ratios those of all groups.

    Raises:
        StepError: fewer than three groups have a lesion, or a subset is left without one.
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
    rng = np.random.default_rng(seed)
    subset_of = dict(stay or {})
    _draw(with_lesion, {"test": test, "val": val}, subset_of, rng)
    having = Counter(subset_of[g] for g in with_lesion)
    if empty := [s for s in SUBSETS if not having[s]]:
        raise StepError(
            f"no patient with a lesion is left for {' and '.join(empty)}: of {n}, those known from earlier runs stay "
            f"in the subsets they have there. Add labelled scans of new patients. {split_history.ANEW}"
        )
    free_test = max(0, min(round(len(groups) * ratios[2]) - having["test"], len(lesion_free)))
    free_val = max(0, min(round(len(groups) * ratios[1]) - having["val"], len(lesion_free) - free_test))
    _draw(lesion_free, {"test": free_test, "val": free_val}, subset_of, rng)
    return {p: subset_of[g] for g in groups for p in g}


def _draw(pool: list[frozenset[str]], wanted: dict[str, int], subset_of: dict, rng: np.random.Generator) -> None:
    """Give each group of the sorted pool a subset: `wanted` of test and val with those they have, the rest to train."""
    have = Counter(subset_of[g] for g in pool if g in subset_of)
    wanted = {**wanted, "train": len(pool) - sum(wanted.values())}
    for subset, more in _shares(wanted, have, len(pool) - have.total()).items():
        left = [g for g in pool if subset_of.get(g, subset) == subset]
        runs = np.array_split(np.arange(len(left)), have[subset] + more) if more else []
        free = [run for run in runs if not any(left[i] in subset_of for i in run)]
        for k in range(more):
            subset_of[left[rng.choice(free[k * len(free) // more])]] = subset
    subset_of |= {g: "train" for g in pool if g not in subset_of}


def _shares(wanted: dict[str, int], have: Counter, new: int) -> dict[str, int]:
    """How many of the new ones test and val get, each new one going where, for its size, most are missing."""
    more = Counter()
    for _ in range(new):
        more[max(wanted, key=lambda s: (wanted[s] - have[s] - more[s]) / max(wanted[s], 1))] += 1
    return {subset: more[subset] for subset in ("test", "val")}


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
    largest: dict[str, float] = defaultdict(float)
    for c in cases:
        largest[c["patient"]] = max(largest[c["patient"]], size[c["case"]])
    return {g: max(largest[p] for p in g) for g in groups}
