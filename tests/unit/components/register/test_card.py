"""The model card: complete or refused."""

import copy
import json
import re
from pathlib import Path

import pytest
import yaml

from components.artifacts.trained_model import TrainedModel
from components.core.errors import StepError
from components.ensemble.ensemble import ensemble
from components.register import card_text
from components.register.card import STATEMENT, Card, Statement, load, validate
from components.register.card_facts import limits, make_card
from tests.support import measured
from tests.support.folds import split_into_folds, write_networks

PACKAGES = {"torch": "2.13.0", "numpy": "2.4.6"}
SENTENCE = "Dice 0.700 (95 % interval 0.600 to 0.800) on 12 held-out patients. Research use only."


@pytest.fixture
def trained(model):
    """trained(git_commit=None) -> the `model` folder, with what train says of its code changed so."""

    def write(**lineage) -> Path:
        folder = model(**measured.trained(**lineage))
        (folder / "history.json").write_text(json.dumps(measured.HISTORY))
        for name in ("training_curve.png",):
            (folder / name).write_bytes(b"a picture")
        return folder

    return write


@pytest.fixture
def card(trained, tmp_path):
    """card(test_metrics={...}, cases={...}, champion=..., ...) with these parts changed."""

    def make(test_metrics: dict | None = None, cases: dict | None = None, lineage: dict | None = None, **comparison):
        evaluation = measured.write_evaluation(
            tmp_path / "evaluation",
            measured.metrics(**test_metrics or {}),
            measured.listed(**cases or {}),
            **comparison,
        )
        return make_card(load(), trained(**lineage or {}), evaluation, PACKAGES)

    return make


def fields(values: dict, path: tuple = ()) -> list[tuple]:
    """The paths of all fields of a card, and of those within them."""
    found = []
    for name, value in values.items():
        here = (*path, name)
        found.append(here)
        if isinstance(value, dict):
            found += fields(value, here)
    return found


MAY_BE_EMPTY = {
    ("developer",), ("contact",), ("versions", "git_commit"), ("comparison", "champion"), ("comparison", "reason"),
    ("comparison", "differences"), ("data", "refused"), ("data", "sites"), ("data", "scanners"),
    ("data", "lesion_ml"), ("data", "voxel_mm"), ("training", "seconds"), ("folds",), ("parent",),
}  # fmt: skip
"""Where nothing is an answer: the card says so in its limits."""


def test_every_field_that_is_emptied_is_refused_by_name(card):
    values = json.loads(card().model_dump_json())
    tried = 0
    for path in fields(values):
        own = path[:2] in MAY_BE_EMPTY or path[:1] in MAY_BE_EMPTY
        measured_unknown = path[0] in ("strata", "lesion_free", "calibration", "volume", "subsets") and len(path) > 1
        no_interval = path[0] == "eval_metrics" and path[-1] in ("ci_low", "ci_high")
        if own or measured_unknown or no_interval or path[:2] == ("training", "settings") or path[-1] == "value_range":
            continue
        for empty in (None, {} if isinstance(at(values, path), dict) else "", []):
            emptied = copy.deepcopy(values)
            at(emptied, path[:-1])[path[-1]] = empty
            with pytest.raises(StepError, match=re.escape(".".join(path)) + ".* (is empty|is wrong)"):
                validate(emptied, Card)
            tried += 1
    assert tried > 150


def at(values: dict, path: tuple):
    for name in path:
        values = values[name]
    return values


@pytest.mark.parametrize("name", Statement.model_fields)
def test_every_field_that_is_left_out_is_refused_too(card, name):
    values = json.loads(card().model_dump_json())
    del values[name]
    with pytest.raises(StepError, match=f"{name} is empty"):
        validate(values, Card)


@pytest.mark.parametrize("name", measured.FOUND)
def test_an_evaluation_without_a_part_makes_no_card(card, name):
    with pytest.raises(StepError, match=rf"test_metrics\.json: the field {name} is invalid.*\n.*run that step again"):
        card({name: None})


def test_nan_is_refused(card):
    with pytest.raises(StepError, match=r"test_metrics\.json: the field calibration\.temperature is invalid"):
        card({"calibration": measured.FOUND["calibration"] | {"temperature": float("nan")}})


def test_without_an_image_tag_the_version_is_refused_with_a_remedy(card):
    with pytest.raises(StepError, match=r"versions.image_tag is empty.*make pipeline-run"):
        card(lineage={"image_tag": None})


@pytest.mark.parametrize(("commit", "limit"), [
    (None, "not in a git checkout"), ("unknown", "not in a git checkout"), (f"{'c' * 40}-dirty", "in no commit"),
])  # fmt: skip
def test_code_without_a_commit_is_identified_by_its_image_tag(card, commit, limit):
    made = card(lineage={"git_commit": commit})
    assert made.versions.image_tag == "dwi-stroke-python-train:0123456789abcdef"
    assert any(limit in line for line in made.limits)


def test_the_cards_own_text_is_complete_and_names_nobody():
    statement = load()
    assert (statement.developer, statement.contact) == ("", "")
    assert "no authority" not in statement.release_stage and "not a medical device" in statement.release_stage


@pytest.mark.parametrize("name", [name for name in Statement.model_fields if name not in ("developer", "contact")])
def test_an_empty_line_of_the_sites_text_is_named(tmp_path, name):
    path = tmp_path / "card.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(STATEMENT.read_text()) | {name: "  "}))
    with pytest.raises(StepError, match=rf"card\.yaml: {name}: .*\nCorrect the card"):
        load(path)


def test_a_line_that_no_card_has_is_refused(tmp_path):
    path = tmp_path / "card.yaml"
    path.write_text(STATEMENT.read_text() + "\nintendeduse: x\n")
    with pytest.raises(StepError, match="intendeduse is unknown"):
        load(path)


def test_the_same_training_and_evaluation_have_the_same_card_to_the_byte(card):
    texts = [(made.model_dump_json(), card_text.markdown(made, SENTENCE)) for made in (card(), card())]
    assert texts[0] == texts[1]


def test_the_card_as_json_is_a_card_again(card):
    assert Card.model_validate_json(card().model_dump_json()) == card()


def test_the_data_are_counted_by_hand(card):
    data = card().data
    assert (data.patients, data.scans, data.lesion_free_scans) == (20, 20, 2)
    assert data.sites == {"Siriraj": 10, "Zürich": 10} and data.scanners == {}
    assert (data.lesion_ml.scans, data.lesion_ml.smallest, data.lesion_ml.median, data.lesion_ml.largest) == (
        18, 1.0, 9.5, 19.0,
    )  # fmt: skip
    subsets = card().subsets
    assert {name: s.patients for name, s in subsets.items()} == {"train": 5, "val": 3, "test": 12}
    assert subsets["test"].lesion_free_scans == 1 and subsets["test"].lesion_ml_median == 6.0


def test_the_first_lines_say_for_whom_the_numbers_hold(card):
    made = card()
    assert made.holds_for == (
        "These numbers hold for patients like the 12 patients of the test: lesions of 1 to 11 mL (median 6), 1 without "
        "a lesion; site Siriraj (6), Zürich (6); scanner unknown."
    )
    assert card_text.markdown(made, SENTENCE).split("\n\n")[2].startswith("These numbers hold for patients like the")
    assert card_text.description(made, SENTENCE, "there").split("\n\n")[1].startswith("These numbers hold for")
    assert "12 synthetic patients of the test" in card(cases={"synthetic": True}).holds_for


def test_the_first_lines_count_patients_whose_site_is_unknown_and_name_few_of_many_sites(card):
    cases = measured.listed()["cases"]
    for number, case in enumerate(cases):
        case["site"] = None if number < 3 else f"site {number}"
    assert "; site site 10 (1), site 11 (1), site 3 (1), site 4 (1), site 5 (1) and 4 more, unknown (3);" in (
        card(cases={"cases": cases}).holds_for
    )


def test_a_site_breaks_no_markdown(card):
    cases = measured.listed()["cases"]
    for case in cases:
        case["site"] = "<img src=x>\n# *big*"
    made = card(cases={"cases": cases})
    for text in (card_text.markdown(made, SENTENCE), card_text.description(made, SENTENCE, "there")):
        assert r"&lt;img src=x> # \*big\*" in text


ADDRESS = "models:/dwi-attention-unet/3"


def write_parent(evaluation: Path, **fields) -> None:
    """What evaluate writes of a fine-tuned model and its parent."""
    known = {"parent": f"{ADDRESS}#{'e' * 64}", "unknown": [], "reason": ""}
    (evaluation / "parent_comparison.json").write_text(json.dumps(known | fields))


def test_a_card_of_random_weights_names_no_parent(card):
    made = card()
    assert made.parent is None
    assert "parent" not in card_text.markdown(made, SENTENCE)


def test_the_card_names_the_parent_and_what_was_forgotten(card, tmp_path):
    (tmp_path / "evaluation").mkdir()
    pairs = {"dice": {f"P{n}": (0.5, 0.6) for n in range(7)}}
    write_parent(
        tmp_path / "evaluation", pairs=pairs, differences={"dice": {"mean": -0.1, "ci_low": -0.2, "ci_high": -0.05}}
    )
    made = card()
    assert (made.parent.address, made.parent.weights_sha256, made.parent.patients) == (ADDRESS, "e" * 64, 7)
    assert any(line.startswith(f"It started from the weights of {ADDRESS}") for line in made.limits)
    text = " ".join(card_text.markdown(made, SENTENCE).split())
    assert "This version less the parent, on 7 of the parent's own test patients." in text
    assert "| Dice, all patients | -0.100 | -0.200 to -0.050 |" in text


def test_the_card_says_what_is_not_known_of_the_parent(card, tmp_path):
    (tmp_path / "evaluation").mkdir()
    write_parent(tmp_path / "evaluation", unknown=["s3://models/theirs"], reason="its test scans are gone")
    made = card()
    assert "The training scans of s3://models/theirs are unknown: test patients may be among them." in made.limits
    assert "What it has forgotten of its parent was not measured: its test scans are gone." in made.limits
    assert "Not measured on the parent's test patients: its test scans are gone." in card_text.markdown(made, SENTENCE)


def test_the_training_took_its_epochs_times_the_usual_one_and_a_pause_does_not_count(card, trained, tmp_path):
    assert card().training.seconds == pytest.approx(30)
    paused = [row | {"time": row["time"] + 1e5 * (row["epoch"] > 5)} for row in measured.HISTORY]
    folder = trained()
    (folder / "history.json").write_text(json.dumps(paused))
    made = make_card(load(), folder, measured.write_evaluation(tmp_path / "e"), PACKAGES)
    assert made.training.seconds == pytest.approx(30)


def test_the_failures_are_the_worst_scans_with_their_pictures_by_artifact_path(card):
    made = card()
    assert [f.case for f in made.failures] == ["sub-01", "sub-02", "sub-03", "sub-04", "sub-05"]
    assert made.failures[0].pictures == ["test_predictions/08_worst.png"]
    assert made.failures[0].needs_review == ["darker than all it has seen"]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"cases": {"synthetic": True}}, "The scans are synthetic"),
        ({}, "12 test patients: the intervals are wide"),
        ({}, "Every run measures its model on the same test patients, and every promotion decides by them"),
        ({}, "No scanner is known"),
        ({}, "By lesion volume, fewer than 5 test patients, too few for a result: <1 mL (0), >20 mL (0)"),
        ({}, "1 of 21 cases were refused"),
        ({}, "The 90 % volume intervals contained only 83 % of the true volumes"),
        ({}, "1 of 2 failures was not flagged for review"),
        ({}, "The card names no contact"),
        ({"test_metrics": {"lesion_free": measured.FOUND["lesion_free"] | {"scans": 0}}}, "No test scan is free of"),
        ({"test_metrics": {"calibration": measured.FOUND["calibration"] | {"ece_after": 0.2}}}, "not better"),
        ({"test_metrics": {"volume": dict.fromkeys(measured.FOUND["volume"])}}, "volume has no interval"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)  # fmt: skip
def test_the_limits_follow_from_the_numbers(card, change, text):
    assert any(text in line for line in card(**change).limits)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"normalization": "slice"}, True),
        ({"normalization": "slice", "pixel_mm": 0.0}, True),
        ({"normalization": "slice", "pixel_mm": 1.5}, False),
        ({"normalization": "volume", "pixel_mm": 0.0}, False),
        ({"normalization": "head", "pixel_mm": 1.5}, False),
    ],
)
def test_the_card_explains_the_users_own_preparation(card, settings, told):
    made = card()
    made = made.model_copy(update={"training": made.training.model_copy(update={"settings": settings})})
    assert ("each slice is z-scored with the air in it" in " ".join(limits(made))) is told


def test_the_card_claims_nothing_unmeasured_about_missed_lesions():
    risks = " ".join(load().known_risks)
    assert "more often" not in risks and "has not been measured" in risks


def test_a_limit_that_does_not_apply_is_left_out(card):
    review = measured.FOUND["review"] | {"failures_flagged": 2}
    volume = measured.FOUND["volume"] | {"interval_coverage": 0.95}
    made = card(
        {"review": review, "volume": volume, "summary": measured.metrics()["summary"] | {"test_patients": 60}},
        {"refused": {}}, champion="3", model="m",
    )  # fmt: skip
    text = " ".join(made.limits)
    for absent in (
        "synthetic",
        "wide",
        "refused",
        "contained only",
        "not flagged",
        "no champion",
        "last epoch",
        "checkout",
    ):
        assert absent not in text
    assert "another hospital" in text


def test_the_markdown_shows_all_fields(card):
    made = card(champion="3", model="m", differences={"dice": {"mean": 0.1, "ci_low": 0.05, "ci_high": 0.15}})
    text = card_text.markdown(made, SENTENCE)
    assert text.startswith(f"# dwi-attention-unet\n\n{SENTENCE}\n")
    for told in (
        "| Dice, patients with a lesion | 0.680 | 0.580 to 0.780 | 0.730 | 0.630 to 0.760 |",
        "| Dice of the rule without a network | 0.470 | 0.370 to 0.570 |",
        "| Lesion F1, matched one to one (IoU of 0.25 or more) | 0.650 |",
        "| Siriraj | 6 | 6 | 0.700 | 0.600 to 0.800 | 0.750 | 0.900 |",
        "-0.400 mL", "contains 90 % by design, 83 % of the test volumes", "0.120 before, 0.040 after temperature 1.700",
        "3 of 12 scans, among them 1 of 2 failures (Dice below 0.5)", "test_predictions/08_worst.png",
        "| Dice, all patients | 0.100 | 0.050 to 0.150 |", "Siriraj (10 patients), Zürich (10 patients)",
        "| test | 12 | 12 | 1 | 6.000 |",
        "1 to 2 × 1 to 2 × 5 mm", "on cpu, 2 threads. 10 epochs in 30 s, the best was 7.",
        "- learning_rate: 0.002", "d" * 64,
        "torch 2.13.0, numpy 2.4.6",
    ):  # fmt: skip
        assert told in " ".join(text.split()), told
    assert "None" not in text and "{{" not in text
    assert made.strata["lesion volume"]["<1 mL"].scans == 0 and "| &lt;1 mL |" not in text, "a row without a number"


def test_text_from_data_is_shown_as_written_and_breaks_no_table(card):
    nasty = "a|b <img src=x onerror=alert(1)> *_x_* `c`"
    made = card({"cases": [measured.case(1, case=nasty)]})
    line = next(line for line in card_text.markdown(made, SENTENCE).splitlines() if "onerror" in line)
    assert line.startswith(r"- **a\|b &lt;img src=x onerror=alert(1)> \*\_x\_\* \`c\`**: Dice 0.700,")


def test_the_description_fits_the_database_and_lists_the_sections_that_it_leaves_out(card):
    made = card()
    text = card_text.description(made, SENTENCE, "[whole](#/x)")
    assert len(text) <= card_text.DESCRIPTION_LIMIT
    assert text.startswith(SENTENCE) and "The complete card: [whole](#/x)" in text
    shown, left = (
        re.findall(r"^## (.*)$", text, re.MULTILINE),
        re.search(r"Only in the complete card: (.*)\.\*\*", text),
    )
    assert shown[:5] == ["Use", "Out of scope", "Metrics", "Limits", "Subgroups"]
    everything = re.findall(r"^## (.*)$", card_text.markdown(made, SENTENCE), re.MULTILINE)
    assert [name.lower() for name in shown] + left[1].split(", ") == [name.lower() for name in everything]


def test_a_description_that_would_be_far_too_long_is_still_one(card):
    made = card().model_copy(update={"summary": "x" * 20_000})
    assert len(card_text.description(made, SENTENCE, "there")) <= card_text.DESCRIPTION_LIMIT


def write_tests_of_folds(folder: Path) -> Path:
    """The evaluation of an ensemble of three networks."""
    subsets = [f"fold-{1 + n % 3}" for n in range(20)]
    cases = [known | {"subset": fold} for known, fold in zip(measured.listed()["cases"], subsets, strict=True)]
    whole = measured.metrics()
    whole["summary"]["test_folds"] = 3
    evaluation = measured.write_evaluation(folder, whole, measured.listed(cases=cases))
    (evaluation / "folds").mkdir()
    for fold in (1, 2, 3):
        (evaluation / "folds" / f"fold-{fold}.json").write_text(json.dumps(measured.metrics()))
    return evaluation


@pytest.fixture
def of_folds(trained, tmp_path):
    """The card of an ensemble of three networks."""
    folder = trained()
    facts = json.loads((folder / "model.json").read_text())
    network = facts | {"weights_sha256": "e" * 64, "threshold": 0.3}
    (folder / "model.json").write_text(json.dumps(facts | {"networks": [network] * 3}))
    return make_card(load(), folder, write_tests_of_folds(tmp_path / "evaluation"), PACKAGES)


@pytest.fixture
def of_networks(tmp_path):
    """of_networks({...}, {...}, {...}): the card of the ensemble of three networks with these facts."""

    def make(*facts: dict) -> Card:
        split, known = split_into_folds(), measured.trained()
        split.write(tmp_path / "split.json")
        folders = write_networks(tmp_path, split, lineage=known["lineage"], params=known["params"])
        for folder, changed in zip(folders, facts, strict=True):
            TrainedModel.read(folder).model_copy(update=changed).write(folder)
        ensemble(tmp_path / "split.json", folders, tmp_path / "model")
        return make_card(load(), tmp_path / "model", write_tests_of_folds(tmp_path / "evaluation"), PACKAGES)

    return make


def test_networks_of_different_devices_have_a_card(of_networks):
    params = measured.trained()["params"]
    made = of_networks(*({"params": params | {"device": device}} for device in ("GPU", "CPU", "GPU")))
    assert made.training.hardware == "GPU; CPU"


LIMITED = {"mask": 0.2, "empty": 0.3}


@pytest.mark.parametrize(
    ("last", "scans"),
    [
        (None, "scans"),
        ({"mask": 1.0, "empty": 1.0}, "scans"),
        ({"mask": 1.0, "empty": 0.4}, "scans with a predicted lesion"),
        ({"mask": 0.4, "empty": 1.0}, "scans without a predicted lesion"),
        ({"mask": None, "empty": 0.4}, None),
    ],
)
def test_the_card_says_if_the_ensemble_never_doubts_where_a_network_does(of_networks, last, scans):
    limits = of_networks({"uncertainty": LIMITED}, {"uncertainty": LIMITED}, {"uncertainty": last}).limits
    found = [line for line in limits if "by doubt" in line]
    assert found == ([f"In use, {scans} are not flagged by doubt; for some test patients they could be."] * bool(scans))


def test_the_card_of_an_ensemble_says_how_its_numbers_were_obtained(of_folds):
    untested = "The model is the mean of these networks, which was never tested itself."
    assert any(untested in limit for limit in of_folds.limits)
    assert any("None of them was tested on the ensemble" in limit for limit in of_folds.limits)
    text = card_text.markdown(of_folds, "first")
    metrics = text.partition("## Metrics")[2].partition("## Limits")[0]
    assert "out-of-fold: of 3 networks" in metrics and untested in metrics
    assert "| fold-3 | 12 | 0.700 | 0.600 to 0.800 | 0.750 | 0.900 | 0.300 |" in metrics
    assert "3 networks: Attention U-Net, 1.97 M parameters" in text


def test_the_card_of_an_ensemble_names_every_network_and_every_fold(of_folds):
    assert list(of_folds.subsets) == list(of_folds.folds) == ["fold-1", "fold-2", "fold-3"]
    assert sum(subset.patients for subset in of_folds.subsets.values()) == 20
    assert {fold.weights_sha256 for fold in of_folds.folds.values()} == {"e" * 64}
    versions = card_text.markdown(of_folds, "first").partition("## Versions")[2]
    assert f"- **fold-2:** training {'d' * 64}, weights {'e' * 64}" in versions


def test_the_card_of_one_network_has_no_folds(card):
    text = card_text.markdown(card(), "first")
    assert "out-of-fold" not in text and "fold-1" not in text and "networks" not in text
