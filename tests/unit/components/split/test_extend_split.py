"""A later split moves no patient: patients of earlier splits keep their subset, new ones restore the ratios."""

import hashlib
import json
import re

import pytest

from components.artifacts.cases import Case
from components.artifacts.split_file import SUBSETS, EarlierVersion, Split
from components.core.errors import StepError
from components.registry import split_history
from components.registry.split_history import EarlierSplit
from components.scans.near_duplicates import portrait
from components.split.split import split
from tests.support.artifacts import make_case, make_cases

THIRDS = (0.6, 0.2, 0.2)


def case(patient: str, ml: float = 1.0, image: str = "", session: str = "", **fields) -> Case:
    name = f"{patient}_{session}" if session else patient
    image = image or f"image of {name}"
    return make_case(
        name, patient=patient, files={"adc": "adc"}, lesion_voxels=round(1000 * ml), lesion_ml=ml,
        voxel_sha256=image, slice_sha256=[f"slice of {image}"], **fields,
    )  # fmt: skip


def changed(made: Case, /, **fields) -> Case:
    return made.model_copy(update=fields)


def patients(count: int, first: int = 1) -> list[Case]:
    """With lesions of all sizes, every eighth without."""
    return [case(f"P{i:03d}", ml=0.0 if i % 8 == 0 else 37 * i % 101 + 1) for i in range(first, first + count)]


@pytest.fixture
def run(tmp_path, monkeypatch):
    """run(cases, ...) -> the split of a run that extends the runs before it; each is registered as the next version."""
    registered: list[Split] = []

    def find_earlier_split(digest: str) -> EarlierSplit:
        (*_, version) = [n for n, earlier in enumerate(registered, 1) if earlier.history_digest == digest]
        return EarlierSplit(str(version), registered[version - 1].history)

    monkeypatch.setattr(split_history, "find_earlier_split", find_earlier_split)

    def once(cases, ratios=THIRDS, seed=42, inputs="dwi", data_uri="s3://bucket/scans", carry=True, folds=1) -> Split:
        make_cases(cases, data_uri=data_uri).write(tmp_path)
        history = registered[-1].history_digest if registered and carry else ""
        split(tmp_path, tmp_path / "split.json", tmp_path / "split.html", ratios, seed, inputs, history, carry, folds)
        registered.append(Split.read(tmp_path))
        return registered[-1]

    return once


def subsets(found: Split) -> dict[str, str]:
    return {patient: subset for subset, members in found.patients.items() for patient in members}


def moved(before: Split, after: Split) -> set[str]:
    old, new = subsets(before), subsets(after)
    return {patient for patient in old.keys() & new.keys() if old[patient] != new[patient]}


def in_history(found: Split) -> dict[str, str]:
    return {earlier.patient: earlier.subset for earlier in found.history.patients}


@pytest.mark.sampled(6)
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("ratios", [THIRDS, (0.80, 0.15, 0.05)])
def test_ten_new_patients_move_none_of_the_old_ones(run, ratios, seed):
    before = run(patients(38), ratios, seed)
    after = run(patients(48), ratios, seed)
    assert moved(before, after) == set()
    assert len(subsets(after)) == 48
    assert after.extends == EarlierVersion(version="1", history_digest=before.history_digest, patients_kept=38)


def test_ten_new_patients_move_none_for_any_seed_and_ratios(run):
    before = run(patients(38))
    for seed, ratios in ((1, (0.80, 0.15, 0.05)), (2, (0.2, 0.4, 0.4)), (3, THIRDS)):
        assert moved(before, run(patients(48), ratios, seed)) == set()


@pytest.mark.sampled(4)
@pytest.mark.parametrize("seed", range(4))
def test_the_ratios_drift_back_to_those_asked_for(run, seed):
    run(patients(20), (0.9, 0.05, 0.05), seed)
    asked = {"train": 0.6, "val": 0.2, "test": 0.2}
    off = []
    for count in (24, 30, 60, 120):
        reached = run(patients(count), THIRDS, seed).ratios_reached
        off.append(max(abs(reached[s] - asked[s]) for s in SUBSETS))
    assert off == sorted(off, reverse=True) and off[0] > 0.1 and off[-1] < 0.02


@pytest.mark.sampled(4)
@pytest.mark.parametrize("seed", range(4))
def test_new_test_patients_fill_the_gaps_between_the_volumes_of_the_old_ones(run, seed):
    """The old ones have small lesions, the new ones larger: the test gets of the new."""
    old, new = ([case(f"P{i:03d}", ml=i) for i in r] for r in (range(1, 41), range(41, 81)))
    run(old, THIRDS, seed)
    ranks = sorted(int(p[1:]) for p in run(old + new, THIRDS, seed).patients["test"])
    assert len(ranks) == 16 and sum(rank > 40 for rank in ranks) == 8
    assert ranks[-1] > 70 and any(40 < rank <= 55 for rank in ranks)


def test_a_chain_over_two_growths_and_a_removal_knows_everybody(run):
    first = run(patients(20))
    second = run(patients(12, first=15))  # 14 old ones are not here this time, 6 are new
    third = run(patients(40))
    assert second.extends.patients_kept == 6
    assert moved(first, second) == moved(second, third) == moved(first, third) == set()
    assert third.extends == EarlierVersion(version="2", history_digest=second.history_digest, patients_kept=26)
    assert set(in_history(third)) == {f"P{i:03d}" for i in range(1, 41)}


def test_where_no_test_patient_is_left_the_run_stops(run):
    before = run(patients(12))
    left = [c for c in patients(12) if subsets(before)[c.patient] != "test"]
    with pytest.raises(
        StepError, match=r"no patient with a lesion is left for test: .*new patients.*carry_split=false"
    ):
        run(left)
    assert set(run([*left, *patients(1, first=13)]).patients["test"]) == {"P013"}


def test_a_renamed_patient_is_known_by_the_images(run):
    before = run(patients(12))
    renamed = [changed(c, patient=f"X{c.patient}", case=f"X{c.case}") for c in patients(12)]
    after = run(renamed, data_uri="s3://elsewhere/scans")
    assert subsets(after) == {f"X{patient}": subset for patient, subset in subsets(before).items()}


def test_a_patient_with_other_images_is_known_by_the_name_at_the_same_address(run):
    before = run(patients(12))
    followed_up = [changed(c, voxel_sha256=f"later {c.case}", slice_sha256=[]) for c in patients(12)]
    after = run(followed_up)
    assert subsets(after) == subsets(before)
    assert in_history(after) == subsets(before)


@pytest.mark.parametrize(("before", "after"), [("P{}", "p{}"), ("Ren\u00e9 {}", "Rene\u0301 {}")])
def test_a_name_is_known_however_it_is_spelled(run, before, after):
    first = run([case(before.format(i), ml=i + 1) for i in range(12)])
    again = run([case(after.format(i), ml=i + 1, image=f"later {i}") for i in range(12)])
    assert again.extends.patients_kept == 12
    for subset in SUBSETS:
        assert sorted(again.patients[subset]) == sorted(
            after.format(i) for i in range(12) if before.format(i) in first.patients[subset]
        )


def test_the_same_names_at_another_address_are_other_people(run):
    run(patients(12))
    others = [changed(c, voxel_sha256=f"other {c.case}", slice_sha256=[]) for c in patients(12)]
    after = run(others, data_uri="s3://elsewhere/scans")
    assert after.extends.patients_kept == 0
    assert len(after.history.patients) == 24


def test_a_split_without_new_patients_keeps_the_history_unchanged(run):
    before = run(patients(12))
    assert run(patients(12), (0.8, 0.1, 0.1), seed=7).history == before.history
    assert run(patients(9)).history_digest == before.history_digest
    assert run(patients(13)).history_digest != before.history_digest


def under_pseudonyms(cases: list[Case]) -> list[Case]:
    """The same scans as PSEUDONYM_KEY names them; their images are the same."""
    named = {c.patient: f"sub-p{number:016x}" for number, c in enumerate(cases)}
    return [changed(c, patient=named[c.patient], case=named[c.patient]) for c in cases]


def test_a_run_with_a_key_carries_no_name_of_the_runs_without_one_and_moves_nobody(run, tmp_path, caplog):
    plain = run(patients(30))
    keyed = run(under_pseudonyms(patients(33)), data_uri="s3://bucket/copy")
    written = (tmp_path / "split.json").read_text() + (tmp_path / "split.html").read_text()
    assert not re.search(r"(?<!of )P0", written), "only the made-up digests, 'image of P001', hold a name"
    assert keyed.extends.patients_kept == 30
    number = {f"P{i:03d}": f"sub-p{i - 1:016x}" for i in range(1, 31)}
    assert all(subsets(keyed)[number[name]] == subset for name, subset in subsets(plain).items())
    assert "version 1 has patients under their own names" in caplog.text and "P0" not in caplog.text


def test_a_second_run_with_the_key_finds_no_name_to_leave_out(run, caplog):
    run(patients(30))
    once = run(under_pseudonyms(patients(33)), data_uri="s3://bucket/copy")
    caplog.clear()
    twice = run(under_pseudonyms(patients(33)), data_uri="s3://bucket/copy")
    assert twice.history == once.history and subsets(twice) == subsets(once)


def test_a_run_without_a_key_keeps_the_names_that_it_knows(run):
    run(patients(30))
    assert in_history(run(patients(31))).keys() == {f"P{i:03d}" for i in range(1, 32)}


def test_those_left_out_for_want_of_an_adc_map_stay_known(run):
    before = run(patients(16))
    some = [changed(c, files={} if i % 2 else {"adc": "adc"}) for i, c in enumerate(patients(16))]
    between = run(some, inputs="dwi+adc")
    assert len(subsets(between)) == 8 and moved(before, between) == set()
    assert run(patients(16)).patients == before.patients


def test_with_carry_split_off_all_are_drawn_again_and_the_history_begins_again(run, tmp_path):
    before = run(patients(40))
    again = run(patients(30, first=11), seed=7, carry=False)
    assert moved(before, again)
    assert again.extends is None and set(in_history(again)) == set(subsets(again))
    assert "carry_split=false" in (tmp_path / "split.html").read_text()


def test_the_same_image_under_a_new_name_goes_where_it_is_known_from(run):
    before = run(patients(12))
    twins = [case(f"twin of {c.patient}", image=c.voxel_sha256, session="2") for c in patients(12)]
    after = run(patients(12) + twins)
    assert all(subsets(after)[f"twin of {p}"] == s for p, s in subsets(before).items())


def test_a_known_patient_s_image_under_another_known_one_s_name_stops_the_run(run):
    before = run(patients(12))
    learnt, held_out = before.patients["train"][0], before.patients["test"][0]
    wrong = case(held_out, image=f"image of {learnt}", session="2")
    with pytest.raises(StepError, match=rf"{held_out} \(test in earlier runs\) and {learnt} \(train in.* Remove one"):
        run([*patients(12), wrong])


def test_two_known_patients_given_one_name_stop_the_run(run):
    before = run(patients(12))
    learnt, held_out = before.patients["train"][0], before.patients["test"][0]
    one = [changed(c, patient=learnt) if c.patient == held_out else c for c in patients(12)]
    with pytest.raises(StepError, match=rf"{held_out} \(test in earlier runs, here named {learnt}\)"):
        run(one)


def test_an_old_history_of_names_counts_at_its_address_or_at_any(run, monkeypatch):
    patients_then = {"train": ["P003", "P004"], "val": ["P002"], "test": ["P001"]}
    for data_uri, kept in (("s3://bucket/scans", 4), ("s3://elsewhere", 0), (None, 4)):
        old = split_history._history_of_names(patients_then, data_uri)
        monkeypatch.setattr(split_history, "find_earlier_split", lambda _, old=old: EarlierSplit("1", old))
        run(patients(12), carry=False)
        found = run(patients(12))
        assert found.extends.patients_kept == kept
        assert kept == 0 or patients_then["test"][0] in found.patients["test"]
        assert all(earlier.data_uri for earlier in found.history.patients)


def test_the_log_and_the_page_give_the_number_of_patients_kept(run, tmp_path, caplog):
    caplog.set_level("INFO")
    run(patients(38))
    run(patients(48))
    line = "xtends the split of version 1: 38 patients keep their subset, 10 new patients assigned; ratios asked .60/"
    assert f"e{line}" in caplog.text and f"E{line}" in (tmp_path / "split.html").read_text()


def test_the_digest_of_a_history_is_that_of_its_content_in_the_file(run, tmp_path):
    """Versions that were registered by an earlier release keep their digest."""
    run(patients(12))
    content = json.loads((tmp_path / "split.json").read_text())
    expected = hashlib.sha256(json.dumps(content["lineage"], sort_keys=True).encode()).hexdigest()
    assert content["lineage_digest"] == expected
    assert content["lineage"].keys() == {"people", "drawn"}
    assert content["lineage"]["drawn"].keys() == {"data_uri", "data_version", "settings", "lineage"}


# Look-alikes


@pytest.fixture(scope="module")
def portraits(make_scan) -> list[str]:
    """Of one head and its mirror image."""
    scan = make_scan(0, (64, 48, 20))[0]
    return [portrait(scan), portrait(scan[::-1, :, ::-1])]


def planted(portraits: list[str], one: str, other: str) -> list[Case]:
    looks = dict(zip((one, other), portraits, strict=True))
    return [changed(c, portrait=looks.get(c.patient)) for c in patients(12)]


def test_look_alikes_across_subsets_stop_the_run_and_are_named(run, portraits):
    before = run(patients(12))
    learnt, held_out = before.patients["train"][0], before.patients["test"][0]
    one, other = sorted([learnt, held_out])
    with pytest.raises(
        StepError, match=rf"{one} \(\w+\) and {other} \(\w+\), similarity 1.000.*give both one patient name"
    ):
        run(planted(portraits, learnt, held_out))


def test_look_alikes_within_a_subset_are_listed_by_name(run, portraits, tmp_path, caplog):
    caplog.set_level("INFO")
    one, other = run(patients(12)).patients["train"][:2]
    assert run(planted(portraits, one, other)).alike == [(one, other, pytest.approx(1, abs=1e-3))]
    assert f"look-alike {one} and {other}" in caplog.text
    assert f"<li>{one}, {other} (similarity" in (tmp_path / "split.html").read_text()


def test_sessions_of_one_patient_may_look_alike(run, portraits):
    sessions = [case("P001", session=s, portrait=p) for s, p in zip("12", portraits, strict=True)]
    assert run([*sessions, *patients(12, first=2)]).alike == []


def test_scans_that_cannot_be_searched_for_look_alikes_are_counted(run, caplog):
    caplog.set_level("INFO")
    run(patients(12))
    assert "12 scans cannot be searched for look-alikes: fewer than 8 slices, or no head found" in caplog.text


def test_a_patient_never_leaves_its_fold_and_new_ones_are_dealt(run):
    before = run(patients(24), folds=5)
    after = run(patients(41), seed=7, ratios=(0.8, 0.1, 0.1), folds=5)
    assert moved(before, after) == set()
    assert len(subsets(after)) == 41
    sizes = [len(members) for members in after.patients.values()]
    assert len(sizes) == 5 and max(sizes) - min(sizes) <= 1
    assert in_history(after) == subsets(after)


def test_a_patient_who_comes_back_under_another_name_keeps_the_fold(run):
    before = run(patients(12), folds=3)
    renamed = [changed(c, case="new name", patient="new name") if c.patient == "P003" else c for c in patients(12)]
    after = run(renamed, seed=9, folds=3)
    assert subsets(after)["new name"] == subsets(before)["P003"]


def test_a_scan_of_a_patient_that_is_planted_in_another_fold_is_refused(run):
    """The network that holds the one fold out would have learnt from the scan in the other."""
    before = run(patients(12), folds=3)
    one, other = (before.patients[fold][0] for fold in ("fold-1", "fold-2"))
    copied = case(other, session="ses-2", image=f"image of {one}")
    with pytest.raises(StepError, match=r"fold-[12] in earlier runs.* now share an image"):
        run([*patients(12), copied], folds=3)


def test_a_near_duplicate_of_a_patient_in_another_fold_is_refused(run, portraits):
    before = run(patients(12), folds=3)
    one, other = (before.patients[fold][0] for fold in ("fold-1", "fold-2"))
    with pytest.raises(StepError, match=r"these scans look the same: .*\(fold-"):
        run(planted(portraits, one, other), folds=3)
