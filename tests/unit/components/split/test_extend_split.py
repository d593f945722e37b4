"""A later run never moves a patient: known ones stay, new ones are drawn so that the ratios drift back."""

import json
import re

import pytest

from components.core.step import StepError
from components.registry import split_history
from components.registry.split_history import Known, lineage_digest
from components.scans.near_duplicates import portrait
from components.split.split import SUBSETS, split

THIRDS = (0.6, 0.2, 0.2)


def case(patient: str, ml: float = 1.0, image: str = "", session: str = "", **more) -> dict:
    name = f"{patient}_{session}" if session else patient
    image = image or f"image of {name}"
    return {
        "case": name, "patient": patient, "labelled": True, "shape": [64, 64, 20], "files": {"adc": "adc"},
        "lesion_voxels": round(1000 * ml), "lesion_ml": ml, "portrait": None,
        "voxel_sha256": image, "slice_sha256": [f"slice of {image}"], **more,
    }  # fmt: skip


def patients(count: int, first: int = 1) -> list[dict]:
    """With lesions of all sizes, every eighth without."""
    return [case(f"P{i:03d}", ml=0.0 if i % 8 == 0 else 37 * i % 101 + 1) for i in range(first, first + count)]


@pytest.fixture
def run(tmp_path, monkeypatch):
    """run(cases, ...) -> split.json of a run after those before it, each registered as the next version."""
    registered: list[dict] = []

    def find(digest: str) -> Known:
        (*_, version) = [n for n, facts in enumerate(registered, 1) if facts["lineage_digest"] == digest]
        return Known(str(version), registered[version - 1]["lineage"])

    monkeypatch.setattr(split_history, "find", find)

    def once(cases, ratios=THIRDS, seed=42, inputs="dwi", data_uri="s3://bucket/scans", carry=True) -> dict:
        facts = {"cases": cases, "synthetic": False, "data_uri": data_uri, "data_version": "1"}
        (tmp_path / "cases.json").write_text(json.dumps(facts))
        lineage = registered[-1]["lineage_digest"] if registered and carry else ""
        split(tmp_path, tmp_path / "split.json", tmp_path / "split.html", ratios, seed, inputs, lineage, carry)
        registered.append(json.loads((tmp_path / "split.json").read_text()))
        return registered[-1]

    return once


def subsets(facts: dict) -> dict[str, str]:
    return {patient: subset for subset, members in facts["patients"].items() for patient in members}


def moved(before: dict, after: dict) -> set[str]:
    old, new = subsets(before), subsets(after)
    return {patient for patient in old.keys() & new.keys() if old[patient] != new[patient]}


def known_to(facts: dict) -> dict[str, str]:
    return {person["patient"]: person["subset"] for person in facts["lineage"]["people"]}


@pytest.mark.sampled(6)
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("ratios", [THIRDS, (0.80, 0.15, 0.05)])
def test_ten_new_patients_move_none_of_the_old_ones(run, ratios, seed):
    before = run(patients(38), ratios, seed)
    after = run(patients(48), ratios, seed)
    assert moved(before, after) == set()
    assert len(subsets(after)) == 48
    assert after["carried_from"] == {"version": "1", "lineage": before["lineage_digest"], "stay": 38}


def test_ten_new_patients_move_none_whatever_seed_and_ratios_are_asked_for(run):
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
        reached = run(patients(count), THIRDS, seed)["ratios_reached"]
        off.append(max(abs(reached[s] - asked[s]) for s in SUBSETS))
    assert off == sorted(off, reverse=True) and off[0] > 0.1 and off[-1] < 0.02


@pytest.mark.sampled(4)
@pytest.mark.parametrize("seed", range(4))
def test_new_test_patients_fill_the_gaps_between_the_volumes_of_the_old_ones(run, seed):
    """The old ones have small lesions, the new ones larger: the test gets of the new."""
    old, new = ([case(f"P{i:03d}", ml=i) for i in r] for r in (range(1, 41), range(41, 81)))
    run(old, THIRDS, seed)
    ranks = sorted(int(p[1:]) for p in run(old + new, THIRDS, seed)["patients"]["test"])
    assert len(ranks) == 16 and sum(rank > 40 for rank in ranks) == 8
    assert ranks[-1] > 70 and any(40 < rank <= 55 for rank in ranks)


def test_a_chain_over_two_growths_and_a_removal_knows_everybody(run):
    first = run(patients(20))
    second = run(patients(12, first=15))  # 14 old ones are not here this time, 6 are new
    third = run(patients(40))
    assert second["carried_from"]["stay"] == 6
    assert moved(first, second) == moved(second, third) == moved(first, third) == set()
    assert third["carried_from"] == {"version": "2", "lineage": second["lineage_digest"], "stay": 26}
    assert set(known_to(third)) == {f"P{i:03d}" for i in range(1, 41)}


def test_where_no_test_patient_is_left_the_run_stops(run):
    before = run(patients(12))
    left = [c for c in patients(12) if subsets(before)[c["patient"]] != "test"]
    with pytest.raises(
        StepError, match=r"no patient with a lesion is left for test: .*new patients.*carry_split=false"
    ):
        run(left)
    assert set(run([*left, *patients(1, first=13)])["patients"]["test"]) == {"P013"}


def test_a_renamed_patient_is_known_by_the_images(run):
    before = run(patients(12))
    renamed = [c | {"patient": f"X{c['patient']}", "case": f"X{c['case']}"} for c in patients(12)]
    after = run(renamed, data_uri="s3://elsewhere/scans")
    assert subsets(after) == {f"X{patient}": subset for patient, subset in subsets(before).items()}


def test_a_patient_with_other_images_is_known_by_the_name_at_the_same_address(run):
    before = run(patients(12))
    followed_up = [c | {"voxel_sha256": f"later {c['case']}", "slice_sha256": []} for c in patients(12)]
    after = run(followed_up)
    assert subsets(after) == subsets(before)
    assert known_to(after) == subsets(before)


@pytest.mark.parametrize(("before", "after"), [("P{}", "p{}"), ("Ren\u00e9 {}", "Rene\u0301 {}")])
def test_a_name_is_known_however_it_is_spelled(run, before, after):
    first = run([case(before.format(i), ml=i + 1) for i in range(12)])
    again = run([case(after.format(i), ml=i + 1, image=f"later {i}") for i in range(12)])
    assert again["carried_from"]["stay"] == 12
    for subset in SUBSETS:
        assert sorted(again["patients"][subset]) == sorted(
            after.format(i) for i in range(12) if before.format(i) in first["patients"][subset]
        )


def test_the_same_names_at_another_address_are_other_people(run):
    run(patients(12))
    others = [c | {"voxel_sha256": f"other {c['case']}", "slice_sha256": []} for c in patients(12)]
    after = run(others, data_uri="s3://elsewhere/scans")
    assert after["carried_from"]["stay"] == 0
    assert len(after["lineage"]["people"]) == 24


def test_a_split_that_meets_nobody_new_hands_on_the_lineage_as_it_was(run):
    before = run(patients(12))
    assert run(patients(12), (0.8, 0.1, 0.1), seed=7)["lineage"] == before["lineage"]
    assert run(patients(9))["lineage_digest"] == before["lineage_digest"]
    assert run(patients(13))["lineage_digest"] != before["lineage_digest"]


def under_pseudonyms(cases: list[dict]) -> list[dict]:
    """The same scans as PSEUDONYM_KEY names them; their images are the same."""
    named = {c["patient"]: f"sub-p{number:016x}" for number, c in enumerate(cases)}
    return [{**c, "patient": named[c["patient"]], "case": named[c["patient"]]} for c in cases]


def test_a_run_with_a_key_carries_no_name_of_the_runs_without_one_and_moves_nobody(run, tmp_path, caplog):
    plain = run(patients(30))
    keyed = run(under_pseudonyms(patients(33)), data_uri="s3://bucket/copy")
    written = (tmp_path / "split.json").read_text() + (tmp_path / "split.html").read_text()
    assert not re.search(r"(?<!of )P0", written), "only the made-up digests, 'image of P001', hold a name"
    assert keyed["carried_from"]["stay"] == 30
    number = {f"P{i:03d}": f"sub-p{i - 1:016x}" for i in range(1, 31)}
    assert all(subsets(keyed)[number[name]] == subset for name, subset in subsets(plain).items())
    assert "version 1 knows patients by their own names" in caplog.text and "P0" not in caplog.text


def test_a_second_run_with_the_key_finds_no_name_to_leave_out(run, caplog):
    run(patients(30))
    once = run(under_pseudonyms(patients(33)), data_uri="s3://bucket/copy")
    caplog.clear()
    twice = run(under_pseudonyms(patients(33)), data_uri="s3://bucket/copy")
    assert twice["lineage"] == once["lineage"] and subsets(twice) == subsets(once)


def test_a_run_without_a_key_keeps_the_names_that_it_knows(run):
    run(patients(30))
    assert known_to(run(patients(31))).keys() == {f"P{i:03d}" for i in range(1, 32)}


def test_those_left_out_for_want_of_an_adc_map_stay_known(run):
    before = run(patients(16))
    some = [c | {"files": {} if i % 2 else {"adc": "adc"}} for i, c in enumerate(patients(16))]
    between = run(some, inputs="dwi+adc")
    assert len(subsets(between)) == 8 and moved(before, between) == set()
    assert run(patients(16))["patients"] == before["patients"]


def test_with_carry_split_off_all_are_drawn_anew_and_the_lineage_begins_again(run, tmp_path):
    before = run(patients(40))
    anew = run(patients(30, first=11), seed=7, carry=False)
    assert moved(before, anew)
    assert anew["carried_from"] is None and set(known_to(anew)) == set(subsets(anew))
    assert "carry_split=false" in (tmp_path / "split.html").read_text()


def test_the_same_image_under_a_new_name_goes_where_it_is_known_from(run):
    before = run(patients(12))
    twins = [case(f"twin of {c['patient']}", image=c["voxel_sha256"], session="2") for c in patients(12)]
    after = run(patients(12) + twins)
    assert all(subsets(after)[f"twin of {p}"] == s for p, s in subsets(before).items())


def test_a_known_patient_s_image_under_another_known_one_s_name_stops_the_run(run):
    before = run(patients(12))
    learnt, held_out = before["patients"]["train"][0], before["patients"]["test"][0]
    wrong = case(held_out, image=f"image of {learnt}", session="2")
    with pytest.raises(StepError, match=rf"{held_out} \(test in earlier runs\) and {learnt} \(train in.* Remove one"):
        run([*patients(12), wrong])


def test_two_known_patients_given_one_name_stop_the_run(run):
    before = run(patients(12))
    learnt, held_out = before["patients"]["train"][0], before["patients"]["test"][0]
    one = [c | {"patient": learnt} if c["patient"] == held_out else c for c in patients(12)]
    with pytest.raises(StepError, match=rf"{held_out} \(test in earlier runs, here named {learnt}\)"):
        run(one)


def test_what_kept_names_alone_is_carried_on_by_name_at_its_address_or_at_any(run, monkeypatch):
    patients_then = {"train": ["P003", "P004"], "val": ["P002"], "test": ["P001"]}
    for data_uri, stay in (("s3://bucket/scans", 4), ("s3://elsewhere", 0), (None, 4)):
        old = split_history._before_there_were_lineages({"patients": patients_then}, data_uri)
        monkeypatch.setattr(split_history, "find", lambda digest, old=old: Known("1", old))
        run(patients(12), carry=False)
        facts = run(patients(12))
        assert facts["carried_from"]["stay"] == stay
        assert stay == 0 or patients_then["test"][0] in facts["patients"]["test"]
        assert all(p["data_uri"] for p in facts["lineage"]["people"])


def test_the_log_and_the_page_say_who_stayed(run, tmp_path, caplog):
    caplog.set_level("INFO")
    run(patients(38))
    run(patients(48))
    words = "arried on from version 1: 38 known patients stay, 10 new assigned; ratios asked .60/.20/.20, reached .58"
    assert f"c{words}" in caplog.text and f"C{words}" in (tmp_path / "split.html").read_text()


def test_the_lineage_s_digest_is_of_its_content(run):
    facts = run(patients(12))
    assert facts["lineage_digest"] == lineage_digest(facts["lineage"])


# Look-alikes


@pytest.fixture(scope="module")
def portraits(make_scan) -> list[str]:
    """Of one head and its mirror image."""
    scan = make_scan(0, (64, 48, 20))[0]
    return [portrait(scan), portrait(scan[::-1, :, ::-1])]


def planted(facts: dict, portraits: list[str], one: str, other: str) -> list[dict]:
    looks = dict(zip((one, other), portraits, strict=True))
    return [c | {"portrait": looks.get(c["patient"])} for c in patients(12)]


def test_look_alikes_across_subsets_stop_the_run_and_are_named(run, portraits):
    facts = run(patients(12))
    learnt, held_out = facts["patients"]["train"][0], facts["patients"]["test"][0]
    one, other = sorted([learnt, held_out])
    with pytest.raises(StepError, match=rf"{one} \(\w+\) and {other} \(\w+\), likeness 1.000.*give both one name"):
        run(planted(facts, portraits, learnt, held_out))


def test_look_alikes_within_a_subset_are_told_by_name(run, portraits, tmp_path, caplog):
    caplog.set_level("INFO")
    facts = run(patients(12))
    one, other = facts["patients"]["train"][:2]
    assert run(planted(facts, portraits, one, other))["alike"] == [[one, other, pytest.approx(1, abs=1e-3)]]
    assert f"look-alike {one} and {other}" in caplog.text
    assert f"<li>{one}, {other} (likeness" in (tmp_path / "split.html").read_text()


def test_sessions_of_one_patient_may_look_alike(run, portraits):
    sessions = [case("P001", session=s, portrait=p) for s, p in zip("12", portraits, strict=True)]
    assert run([*sessions, *patients(12, first=2)])["alike"] == []


def test_scans_that_cannot_be_searched_for_look_alikes_are_counted(run, caplog):
    caplog.set_level("INFO")
    run(patients(12))
    assert "12 scans show too little (fewer than 8 slices, or no head) to be searched for look-alikes" in caplog.text
