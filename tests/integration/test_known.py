"""From a registered split to the next one, through a real MLflow: split extends the history that fingerprint finds."""

import json
from pathlib import Path

import pytest

from components.artifacts.cases import Cases
from components.artifacts.split_file import Split, split_digest
from components.artifacts.synthetic import DESCRIPTION
from components.core.errors import StepError
from components.core.storage import Storage, work_bucket
from components.fingerprint.fingerprint import history_to_extend
from components.registry import split_history
from components.registry.run_records import data_tags, record_inputs
from components.registry.tracking import MODEL_NAME, Run
from components.split.split import split
from tests.support.artifacts import make_case, make_cases

pytestmark = pytest.mark.usefixtures("servers_here")

RATIOS, URI = (0.6, 0.2, 0.2), f"s3://{work_bucket()}/data/known"


class Pipeline:
    """Fingerprint, split, and of train and register what they leave in MLflow."""

    def __init__(self, client, folder: Path):
        self.client, self.folder = client, folder
        self.synthetic_scans(False)

    def synthetic_scans(self, synthetic: bool) -> None:
        """From now on the bucket holds such scans, or a patients' set."""
        self.synthetic = synthetic
        name = "SYNTHETIC demo" if synthetic else "stroke patients"
        Storage(URI).put(DESCRIPTION, json.dumps({"Name": name}).encode())

    def history(self, patients: int, seed: int = 42, folds: int = 1) -> str:
        """Return the digest that fingerprint gives to the split of that many patients."""
        return history_to_extend(URI, f"data of {patients}", RATIOS, seed, "dwi", folds)

    def split(
        self, patients: int, seed: int = 42, history: str | None = None, carry: bool = True, folds: int = 1
    ) -> Split:
        cases = [make_case(f"P{i:03d}", lesion_voxels=i, lesion_ml=float(i)) for i in range(1, patients + 1)]
        made = make_cases(cases, synthetic=self.synthetic, data_uri=URI, data_version=f"data of {patients}")
        made.write(self.folder)
        given = self.history(patients, seed, folds) if history is None else history
        files = self.folder, self.folder / "split.json", self.folder / "split.html"
        split(*files, RATIOS, seed, "dwi", given, carry, folds)
        return Split.read(self.folder)

    def register(self):
        """The split made last, as a version's."""
        parts = self.folder / "split.json"
        run = Run.open(f"training of {parts.read_text()}")
        record_inputs(run, Cases.read(self.folder), Split.read(parts), parts, self.folder / "split.html")
        run.finish()
        tags = data_tags(Cases.read(self.folder), Split.read(parts))
        return self.client.create_model_version(MODEL_NAME, f"runs:/{run.id}/model", run.id, tags)

    def run(self, patients: int, seed: int = 42) -> Split:
        found = self.split(patients, seed)
        self.register()
        return found


@pytest.fixture
def pipeline(versionless, tmp_path):
    return Pipeline(versionless, tmp_path)


def subsets(found: Split) -> dict[str, str]:
    return {patient: subset for subset, members in found.patients.items() for patient in members}


def test_with_nothing_registered_there_is_no_history(pipeline):
    assert pipeline.history(12) == ""


def test_ten_new_patients_move_none_of_the_old_ones_over_two_growths(pipeline):
    first, second, third = (subsets(pipeline.run(patients)) for patients in (12, 22, 32))
    assert first.items() <= second.items() <= third.items()
    assert len(third) == 32


@pytest.mark.slow
def test_the_extended_version_is_named(pipeline):
    pipeline.run(12)
    assert pipeline.run(22).extends.version == "1"
    assert pipeline.run(32).extends.version == "2"


@pytest.mark.slow
def test_with_nothing_changed_the_split_is_asked_the_same_again(pipeline):
    """So it comes from cache: its arguments are in the cache's key."""
    for patients in (12, 22, 32):
        before = pipeline.history(patients)
        pipeline.run(patients)
        assert pipeline.history(patients) == before


@pytest.mark.slow
def test_another_seed_and_back_ends_with_the_same_questions(pipeline):
    pipeline.run(12)
    asked = [pipeline.run(12, seed).extends for seed in (42, 43, 42, 43)]
    assert asked[0] is None
    assert (
        pipeline.history(12, 42) == ""
        and pipeline.history(12, 43) == asked[1].history_digest == asked[3].history_digest
    )


@pytest.mark.slow
def test_older_data_after_grown_ones_forget_nobody(pipeline):
    pipeline.run(12)
    grown = subsets(pipeline.run(22))
    pipeline.run(12)
    assert subsets(pipeline.run(32)).items() >= grown.items()


@pytest.mark.slow
def test_of_other_code_the_newest_split_is_extended(pipeline, monkeypatch):
    found = pipeline.run(12)
    assert pipeline.history(12) == ""
    monkeypatch.setattr(split_history, "steps_digest", lambda *steps: "another")
    assert pipeline.history(12) == found.history_digest


@pytest.mark.slow
def test_a_version_whose_run_holds_no_split_is_skipped(pipeline):
    found = pipeline.run(12)
    run = pipeline.client.create_run("0").info.run_id
    pipeline.client.create_model_version(MODEL_NAME, "s3://dwi-stroke/mlflow/model", run)
    assert pipeline.history(22) == found.history_digest


@pytest.mark.slow
def test_a_split_from_before_there_were_histories_is_extended_by_name(pipeline):
    old = {"patients": {"train": ["P001", "P002"], "val": ["P003"], "test": ["P004", "P005"]}}
    old["digest"] = split_digest(old["patients"])
    run = pipeline.client.create_run("0").info.run_id
    pipeline.client.log_param(run, "data_uri", URI)
    pipeline.client.log_text(run, json.dumps(old), "split.json")
    pipeline.client.create_model_version(
        MODEL_NAME, "s3://dwi-stroke/mlflow/model", run, {"split_digest": old["digest"]}
    )
    found = pipeline.run(12)
    assert found.extends.patients_kept == 5
    assert {p: s for s, members in old["patients"].items() for p in members}.items() <= subsets(found).items()
    assert pipeline.history(12) == found.extends.history_digest


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    "spoil",
    [
        lambda facts: facts["lineage"]["people"].pop(),
        lambda facts: facts.pop("digest"),
        lambda facts: facts["patients"]["test"].append(facts["patients"]["train"].pop()),
    ],
    ids=["a person less", "no digest", "a patient in another subset, beside the digest as it was"],
)
def test_a_registered_split_that_was_altered_is_not_carried_on(pipeline, spoil):
    pipeline.run(12)
    facts = json.loads((pipeline.folder / "split.json").read_text())
    run = pipeline.client.get_model_version(MODEL_NAME, "1").run_id
    spoil(facts)
    pipeline.client.log_text(run, json.dumps(facts), "split.json")
    with pytest.raises(StepError, match=r"version 1 is not the one that was registered.*carry_split=false"):
        pipeline.history(22)


def test_a_history_that_was_deleted_is_named(pipeline):
    pipeline.run(12)
    asked = pipeline.history(22)
    pipeline.client.delete_model_version(MODEL_NAME, "1")
    with pytest.raises(StepError, match=r"no registered version of .* has the split history \w{12}: .*Run again"):
        pipeline.split(22, history=asked)
    assert pipeline.history(22) == ""


def test_an_mlflow_that_does_not_answer_is_named(monkeypatch, free_port):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(StepError, match=r"MLflow at http://127.0.0.1:\d+: .*The patients of earlier splits are kept"):
        history_to_extend(URI, "1", RATIOS, 42, "dwi")


@pytest.mark.slow
def test_later_runs_do_not_extend_a_split_that_was_drawn_again(pipeline):
    first = pipeline.run(12)
    again = pipeline.split(12, seed=7, history="", carry=False)
    pipeline.register()
    assert again.digest != first.digest
    assert subsets(pipeline.split(14)).items() >= subsets(first).items()


def test_a_split_that_was_drawn_again_is_extended_if_there_is_no_other(pipeline):
    again = pipeline.split(12, seed=7, history="", carry=False)
    pipeline.register()
    assert subsets(pipeline.split(14)).items() >= subsets(again).items()


def test_a_registered_split_that_was_lost_stops_the_next_one(pipeline):
    pipeline.run(12)
    entry = pipeline.register()
    storage = Storage(f"s3://{work_bucket()}")
    storage.delete([o.key for o in storage.list() if o.key.endswith(f"{entry.run_id}/artifacts/split.json")])
    with pytest.raises(StepError, match=r"split\.json is missing from the MLflow run of .* version 2"):
        pipeline.history(12)


@pytest.mark.slow
def test_a_version_registered_by_hand_is_skipped(pipeline, versionless):
    first = pipeline.run(12)
    versionless.create_model_version(MODEL_NAME, "s3://dwi-stroke/mlflow/model")
    assert pipeline.run(12) == first


@pytest.mark.slow
def test_the_same_data_at_another_address_are_extended(pipeline):
    pipeline.run(12)
    assert history_to_extend(f"{URI}-moved", "data of 12", RATIOS, 42, "dwi") == pipeline.history(14)


@pytest.mark.slow
def test_patients_and_synthetic_scans_extend_their_own_versions(pipeline):
    pipeline.synthetic_scans(True)
    synthetic = pipeline.run(12)
    pipeline.synthetic_scans(False)
    assert pipeline.history(12) == ""
    patients = pipeline.run(14)
    assert patients.extends is None
    assert pipeline.history(22) == patients.history_digest
    pipeline.synthetic_scans(True)
    assert pipeline.history(12) == ""
    assert pipeline.history(22) == synthetic.history_digest


@pytest.mark.slow
def test_patients_whose_history_began_with_synthetic_scans_keep_their_subsets(pipeline):
    pipeline.synthetic_scans(True)
    pipeline.run(12)
    pipeline.synthetic_scans(False)
    patients = pipeline.split(22, history=pipeline.split(12, history="").history.digest)
    assert patients.extends.version == "1"
    pipeline.register()
    assert pipeline.history(22) == patients.history_digest
    assert subsets(pipeline.split(22)) == subsets(patients)


@pytest.mark.slow
def test_a_split_into_folds_continues_one_with_as_many_folds_and_a_single_split_a_single_one(pipeline):
    single = pipeline.run(12)
    dealt = pipeline.split(12, folds=3)
    assert dealt.extends is None and set(dealt.patients) == {"fold-1", "fold-2", "fold-3"}
    first = pipeline.register().version
    more = pipeline.split(15, seed=7, folds=3)
    assert more.extends.version == first
    assert all(set(dealt.patients[fold]) <= set(more.patients[fold]) for fold in dealt.patients)
    pipeline.register()
    assert pipeline.split(15, folds=5).extends is None
    again = pipeline.split(15, seed=9)
    assert all(set(single.patients[subset]) <= set(again.patients[subset]) for subset in single.patients)


@pytest.mark.slow
def test_with_nothing_changed_a_split_into_folds_comes_from_the_cache(pipeline):
    before = pipeline.history(12, folds=3)
    pipeline.split(12, folds=3)
    pipeline.register()
    assert pipeline.history(12, folds=3) == before == ""
    assert pipeline.history(13, folds=3) != ""
