"""Patients, never slices, are assigned; every subset can be measured, and none has seen another's images."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from components.artifacts.cases import Case
from components.artifacts.split_file import SUBSETS, Split
from components.core.errors import StepError
from components.split.assignment import assign, linked_patients, require_disjoint
from components.split.split import split
from tests.support.artifacts import make_case, make_cases

USER_RATIOS = (0.80, 0.15, 0.05)


def case(patient: str, ml: float | None = 1.0, session: str | None = None, **fields) -> Case:
    """Return a case with a lesion of this volume, and by default with images of its own."""
    name = f"{patient}_{session}" if session else patient
    voxels = 0 if ml == 0 else round((1.0 if ml is None else ml) * 1000)
    return make_case(
        name, **{"patient": patient, "session": session, "lesion_voxels": voxels, "lesion_ml": ml} | fields
    )


def patients(count: int, lesion_free: int = 0) -> list[Case]:
    """`count` patients with a lesion of 1, 2, 3, ... mL and some without."""
    with_lesion = [case(f"P{i:03d}", ml=float(i)) for i in range(1, count + 1)]
    return with_lesion + [case(f"F{i:03d}", ml=0.0) for i in range(1, lesion_free + 1)]


@pytest.fixture
def split_of(tmp_path):
    def run(cases: list[Case], ratios=USER_RATIOS, seed: int = 42, inputs: str = "dwi") -> Split:
        make_cases(cases).write(tmp_path)
        split(tmp_path, tmp_path / "split.json", tmp_path / "split.html", ratios, seed, inputs)
        return Split.read(tmp_path)

    return run


def sizes(found: Split) -> tuple[int, int, int]:
    return tuple(len(found.patients[subset]) for subset in SUBSETS)


def subset_of(found: Split, patient: str) -> str:
    (subset,) = (subset for subset in SUBSETS if patient in found.patients[subset])
    return subset


def test_every_patient_is_in_exactly_one_subset(split_of):
    cases = patients(37, lesion_free=8)
    assigned = [p for members in split_of(cases).patients.values() for p in members]
    assert sorted(assigned) == sorted(c.patient for c in cases)


@pytest.mark.parametrize("lesion_free", [0, 4, 10, 25, 50, 90])
def test_a_hundred_patients_become_80_15_and_5(split_of, lesion_free):
    found = split_of(patients(100 - lesion_free, lesion_free))
    assert sizes(found) == (80, 15, 5)
    assert found.ratios_reached == {"train": 0.80, "val": 0.15, "test": 0.05}
    assert found.ratios_asked == {"train": 0.80, "val": 0.15, "test": 0.05}


def test_the_same_seed_gives_the_same_split(split_of):
    assert split_of(patients(60, 9), seed=7) == split_of(patients(60, 9), seed=7)


def test_another_seed_gives_another_split_and_another_digest(split_of):
    one, other = split_of(patients(60, 9), seed=7), split_of(patients(60, 9), seed=8)
    assert one.patients != other.patients
    assert one.digest != other.digest


def test_the_order_of_the_cases_does_not_matter(split_of):
    cases = [*patients(30, 5), case("P007", session="ses-2", ml=40.0), case("P031", slice_sha256=["slice 0 of P001"])]
    expected = split_of(cases)
    for seed in range(5):
        shuffled = [cases[i] for i in np.random.default_rng(seed).permutation(len(cases))]
        assert split_of(shuffled) == expected


@pytest.mark.sampled(10)
@pytest.mark.parametrize("seed", range(10))
def test_every_subset_sees_small_and_large_lesions_and_lesion_free_patients(split_of, seed):
    found = split_of(patients(80, lesion_free=20), seed=seed)
    for subset in SUBSETS:
        volumes = [int(p[1:]) for p in found.patients[subset] if p.startswith("P")]
        assert min(volumes) <= 27  # of 80: the smallest third and the largest
        assert max(volumes) > 53
        assert any(p.startswith("F") for p in found.patients[subset])


def test_one_test_patient_comes_from_each_fifth_of_the_volumes(split_of):
    ranks = sorted(int(p[1:]) for p in split_of(patients(100)).patients["test"])
    assert [(rank - 1) // 20 for rank in ranks] == [0, 1, 2, 3, 4]


@pytest.mark.sampled(4)
@pytest.mark.parametrize("ratios", [USER_RATIOS, (0.6, 0.2, 0.2), (0.98, 0.01, 0.01), (0.01, 0.01, 0.98)])
def test_every_subset_has_a_patient_with_a_lesion_whatever_the_numbers(ratios):
    for count, lesion_free in itertools.product([*range(3, 30), 57, 100, 251], [0, 1, 2, 7, 100]):
        groups = linked_patients(patients(count, lesion_free))
        assignment = assign(groups, {g: float(next(iter(g)).startswith("P")) for g in groups}, ratios, seed=count)
        having = {subset for p, subset in assignment.items() if p.startswith("P")}
        assert having == set(SUBSETS), f"{count} patients with a lesion, {lesion_free} without"
        assert len(assignment) == count + lesion_free


def test_two_patients_with_a_lesion_are_too_few_and_the_error_gives_the_number_needed(split_of):
    with pytest.raises(StepError, match=r"^3 different patients with a lesion are needed.* 2 found"):
        split_of(patients(2, lesion_free=50))


def test_patients_that_share_an_image_count_as_one_toward_the_three(split_of):
    twins = [case("A"), case("B", voxel_sha256="volume of A"), case("C")]
    with pytest.raises(StepError, match="2 found"):
        split_of(twins)


def test_sessions_of_one_patient_stay_together(split_of):
    cases = [case(f"P{i}", session=f"ses-{s}", ml=float(i + s)) for i in range(12) for s in range(3)]
    found = split_of(cases)
    for subset in SUBSETS:
        expected = {c.case for c in cases if c.patient in found.patients[subset]}
        assert set(found.cases[subset]) == expected
        assert len(expected) == 3 * len(found.patients[subset])


@pytest.mark.sampled(15)
@pytest.mark.parametrize(
    "shared", [{"voxel_sha256": "volume of P005"}, {"slice_sha256": ["slice 1 of P005"]}], ids=["volume", "one slice"]
)
@pytest.mark.parametrize("seed", range(8))
def test_patients_that_share_an_identical_image_stay_in_one_subset(split_of, shared, seed):
    found = split_of([*patients(10), case("twin", ml=20.0, **shared)], (0.4, 0.3, 0.3), seed)
    assert subset_of(found, "twin") == subset_of(found, "P005")
    assert found.linked == [["P005", "twin"]]


def test_a_chain_of_shared_images_links_all_its_patients():
    chain = [
        case("A", slice_sha256=["1", "2"]),
        case("C", slice_sha256=["3", "4"]),
        case("B", slice_sha256=["2", "3"]),
        case("D", slice_sha256=["5"]),
    ]
    assert linked_patients(chain) == [frozenset("ABC"), frozenset("D")]


def test_unlabelled_cases_are_not_assigned(split_of):
    unlabelled = {"labelled": False, "lesion_voxels": None, "lesion_ml": None}
    found = split_of([*patients(6), case("unknown", **unlabelled), case("P001", session="ses-2", **unlabelled)])
    assert "unknown" not in itertools.chain(*found.patients.values())
    assert sorted(itertools.chain(*found.cases.values())) == [f"P00{i}" for i in range(1, 7)]


def scattered(i: int) -> int:
    """1 to 100 in an order that has nothing to do with i's."""
    return 37 * i % 101


def test_a_patient_is_as_large_as_its_largest_lesion_of_all_sessions(split_of):
    first = [case(f"P{i:03d}", session="ses-1", ml=float(scattered(i))) for i in range(1, 101)]
    later = [case(f"P{i:03d}", session="ses-2", ml=100.0 + i) for i in range(1, 101)]
    ranks = sorted(int(p[1:]) for p in split_of([*first, *later]).patients["test"])
    assert [(rank - 1) // 20 for rank in ranks] == [0, 1, 2, 3, 4]


def test_lesion_free_patients_are_named(split_of):
    followed_up = case("F001", session="ses-2", ml=3.0)
    assert split_of([*patients(5, lesion_free=3), followed_up]).lesion_free == ["F002", "F003"]


def test_cases_without_voxel_size_are_stratified_by_the_share_of_their_voxels(split_of):
    """All have a lesion of 1000 voxels, in scans of 1 to 100 slices."""
    in_slices = {f"P{i:03d}": scattered(i) for i in range(1, 101)}
    cases = [case(p, ml=None, lesion_voxels=1000, shape=(100, 100, slices)) for p, slices in in_slices.items()]
    found = split_of(cases)
    assert sizes(found) == (80, 15, 5)
    ranks = sorted(in_slices[p] for p in found.patients["test"])
    assert [(rank - 1) // 20 for rank in ranks] == [0, 1, 2, 3, 4]


def test_the_disjointness_check_names_the_two_cases_and_their_subsets():
    cases = [case("A"), case("B", slice_sha256=["slice 2 of A"])]
    with pytest.raises(StepError, match=r"^A \(train\) and B \(test\) have the same image"):
        require_disjoint(cases, {"A": "train", "B": "test"})


def test_the_disjointness_check_passes_where_the_shared_image_is_in_one_subset():
    require_disjoint([case("A"), case("B", voxel_sha256="volume of A")], {"A": "val", "B": "val"})


def test_the_digest_is_of_who_is_where_and_of_nothing_else(split_of):
    one = split_of(patients(100))
    other = split_of([c.model_copy(update={"shape": (8, 8, 8)}) for c in patients(100)])
    assert one.digest == other.digest
    assert one.digest != split_of(patients(99)).digest


def test_the_file_holds_the_whole_split(split_of, tmp_path: Path):
    split_of(patients(4))
    content = json.loads((tmp_path / "split.json").read_text())
    assert set(content) == {
        "format_version", "patients", "cases", "lesion_free", "linked", "alike", "ratios_asked", "ratios_reached",
        "random_seed", "digest", "carry_split", "carried_from", "lineage", "lineage_digest", "held_out",
    }  # fmt: skip
    assert content["random_seed"] == 42


def test_a_case_without_a_field_is_named_with_the_file(tmp_path):
    make_cases(patients(4)).write(tmp_path)
    content = json.loads((tmp_path / "cases.json").read_text())
    del content["cases"][2]["voxel_sha256"]
    (tmp_path / "cases.json").write_text(json.dumps(content))
    with pytest.raises(StepError, match=r"/cases\.json: the field cases\.2\.voxel_sha256 is missing"):
        split(tmp_path, tmp_path / "split.json", tmp_path / "split.html", USER_RATIOS, 0)


def test_with_adc_asked_for_cases_without_are_in_no_subset(split_of):
    cases = [c.model_copy(update={"files": {"adc": "a"} if i else {}}) for i, c in enumerate(patients(6))]
    found = split_of(cases, (0.6, 0.2, 0.2), 0, "dwi+adc")
    assert sorted(p for members in found.patients.values() for p in members) == [f"P{i:03d}" for i in range(2, 7)]


@pytest.mark.parametrize(
    ("ratios", "reason"), [((0.8, 0.3, 0.2), "is 1.3, not 1"), ((1.5, -0.25, -0.25), "train_ratio=1.5 is impossible")]
)
def test_ratios_typed_into_kubeflows_form_are_checked(split_of, ratios, reason):
    with pytest.raises(StepError, match=reason):
        split_of(patients(10), ratios)
