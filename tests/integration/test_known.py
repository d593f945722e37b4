"""From a registered split to the next one, through a real MLflow: what fingerprint finds, split carries on."""

import json
from pathlib import Path

import pytest

from components.artifacts.synthetic import DESCRIPTION
from components.core.step import StepError
from components.core.storage import Storage, work_bucket
from components.fingerprint.fingerprint import lineage
from components.registry import split_history
from components.registry.run_records import data_tags, record_inputs
from components.registry.tracking import MODEL_NAME, Run
from components.split.split import split

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

    def lineage(self, patients: int, seed: int = 42) -> str:
        """What fingerprint tells the split of that many patients."""
        return lineage(URI, f"data of {patients}", RATIOS, seed, "dwi")

    def split(self, patients: int, seed: int = 42, lineage: str | None = None, carry: bool = True) -> dict:
        cases = [
            {
                "case": f"P{i:03d}", "patient": f"P{i:03d}", "labelled": True, "shape": [64, 64, 20],
                "lesion_voxels": i, "lesion_ml": float(i), "portrait": None,
                "voxel_sha256": f"volume {i}", "slice_sha256": [f"slice {i}"],
            }
            for i in range(1, patients + 1)
        ]  # fmt: skip
        facts = {"cases": cases, "synthetic": self.synthetic, "data_uri": URI, "data_version": f"data of {patients}"}
        (self.folder / "cases.json").write_text(json.dumps(facts))
        given = self.lineage(patients, seed) if lineage is None else lineage
        split(self.folder, self.folder / "split.json", self.folder / "split.html", RATIOS, seed, "dwi", given, carry)
        return json.loads((self.folder / "split.json").read_text())

    def register(self):
        """The split made last, as a version's."""
        parts = self.folder / "split.json"
        run = Run.open(f"training of {parts.read_text()}")
        record_inputs(run, self.folder, parts, self.folder / "split.html")
        run.finish()
        tags = data_tags(self.folder, parts)
        return self.client.create_model_version(MODEL_NAME, f"runs:/{run.id}/model", run.id, tags)

    def run(self, patients: int, seed: int = 42) -> dict:
        facts = self.split(patients, seed)
        self.register()
        return facts


@pytest.fixture
def pipeline(versionless, tmp_path):
    return Pipeline(versionless, tmp_path)


def subsets(facts: dict) -> dict[str, str]:
    return {patient: subset for subset, members in facts["patients"].items() for patient in members}


def test_with_nothing_registered_there_is_nothing_to_carry_on(pipeline):
    assert pipeline.lineage(12) == ""


def test_ten_new_patients_move_none_of_the_old_ones_over_two_growths(pipeline):
    first, second, third = (subsets(pipeline.run(patients)) for patients in (12, 22, 32))
    assert first.items() <= second.items() <= third.items()
    assert len(third) == 32


@pytest.mark.slow
def test_the_version_that_was_carried_on_from_is_named(pipeline):
    pipeline.run(12)
    assert pipeline.run(22)["carried_from"]["version"] == "1"
    assert pipeline.run(32)["carried_from"]["version"] == "2"


@pytest.mark.slow
def test_with_nothing_changed_the_split_is_asked_the_same_again(pipeline):
    """So it comes from cache: its arguments are in the cache's key."""
    for patients in (12, 22, 32):
        before = pipeline.lineage(patients)
        pipeline.run(patients)
        assert pipeline.lineage(patients) == before


@pytest.mark.slow
def test_another_seed_and_back_ends_with_the_same_questions(pipeline):
    pipeline.run(12)
    asked = [pipeline.run(12, seed)["carried_from"] for seed in (42, 43, 42, 43)]
    assert asked[0] is None
    assert pipeline.lineage(12, 42) == "" and pipeline.lineage(12, 43) == asked[1]["lineage"] == asked[3]["lineage"]


@pytest.mark.slow
def test_older_data_after_grown_ones_forget_nobody(pipeline):
    pipeline.run(12)
    grown = subsets(pipeline.run(22))
    pipeline.run(12)
    assert subsets(pipeline.run(32)).items() >= grown.items()


@pytest.mark.slow
def test_of_other_code_nothing_is_asked_again_but_carried_on(pipeline, monkeypatch):
    facts = pipeline.run(12)
    assert pipeline.lineage(12) == ""
    monkeypatch.setattr(split_history, "steps_digest", lambda *steps: "another")
    assert pipeline.lineage(12) == facts["lineage_digest"]


def test_a_version_whose_run_holds_no_split_is_passed_over(pipeline):
    facts = pipeline.run(12)
    run = pipeline.client.create_run("0").info.run_id
    pipeline.client.create_model_version(MODEL_NAME, "s3://dwi-stroke/mlflow/model", run)
    assert pipeline.lineage(22) == facts["lineage_digest"]


def test_a_split_of_before_there_were_lineages_is_carried_on_by_name(pipeline):
    old = {"patients": {"train": ["P001", "P002"], "val": ["P003"], "test": ["P004", "P005"]}}
    old["digest"] = split_history.split_digest(old["patients"])
    run = pipeline.client.create_run("0").info.run_id
    pipeline.client.log_param(run, "data_uri", URI)
    pipeline.client.log_text(run, json.dumps(old), "split.json")
    pipeline.client.create_model_version(
        MODEL_NAME, "s3://dwi-stroke/mlflow/model", run, {"split_digest": old["digest"]}
    )
    facts = pipeline.run(12)
    assert facts["carried_from"]["stay"] == 5
    assert {p: s for s, members in old["patients"].items() for p in members}.items() <= subsets(facts).items()
    assert pipeline.lineage(12) == facts["carried_from"]["lineage"]


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
    facts = pipeline.run(12)
    run = pipeline.client.get_model_version(MODEL_NAME, "1").run_id
    spoil(facts)
    pipeline.client.log_text(run, json.dumps(facts), "split.json")
    with pytest.raises(StepError, match=r"version 1 is not the one that was registered.*carry_split=false"):
        pipeline.lineage(22)


def test_a_lineage_that_is_gone_is_said_to_be(pipeline):
    pipeline.run(12)
    asked = pipeline.lineage(22)
    pipeline.client.delete_model_version(MODEL_NAME, "1")
    with pytest.raises(StepError, match=r"lineage \w{12}\) is in no registered version .* any more.*Run again"):
        pipeline.split(22, lineage=asked)
    assert pipeline.lineage(22) == ""


def test_an_mlflow_that_does_not_answer_is_named(monkeypatch, free_port):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(StepError, match=r"MLflow at http://127.0.0.1:\d+: .*The patients of earlier splits are kept"):
        lineage(URI, "1", RATIOS, 42, "dwi")


@pytest.mark.slow
def test_a_split_drawn_anew_leaves_the_chain_that_later_runs_carry_on(pipeline):
    first = pipeline.run(12)
    anew = pipeline.split(12, seed=7, lineage="", carry=False)
    pipeline.register()
    assert anew["digest"] != first["digest"]
    assert subsets(pipeline.split(14)).items() >= subsets(first).items()


def test_a_split_drawn_anew_is_carried_on_where_there_is_no_other(pipeline):
    anew = pipeline.split(12, seed=7, lineage="", carry=False)
    pipeline.register()
    assert subsets(pipeline.split(14)).items() >= subsets(anew).items()


def test_a_registered_split_that_was_lost_stops_the_next_one(pipeline):
    pipeline.run(12)
    entry = pipeline.register()
    storage = Storage(f"s3://{work_bucket()}")
    storage.delete([o.key for o in storage.list() if o.key.endswith(f"{entry.run_id}/artifacts/split.json")])
    with pytest.raises(StepError, match=r"version 2 holds no split\.json any more"):
        pipeline.lineage(12)


def test_a_version_registered_by_hand_is_passed_over(pipeline, versionless):
    first = pipeline.run(12)
    versionless.create_model_version(MODEL_NAME, "s3://dwi-stroke/mlflow/model")
    assert pipeline.run(12) == first | {"lineage": first["lineage"]}


def test_the_same_data_at_another_address_are_carried_on_and_not_drawn_anew(pipeline):
    pipeline.run(12)
    assert lineage(f"{URI}-moved", "data of 12", RATIOS, 42, "dwi") == pipeline.lineage(14)


def test_patients_and_synthetic_scans_are_carried_on_each_from_their_own_versions(pipeline):
    pipeline.synthetic_scans(True)
    synthetic = pipeline.run(12)
    pipeline.synthetic_scans(False)
    assert pipeline.lineage(12) == ""
    patients = pipeline.run(14)
    assert patients["carried_from"] is None
    assert pipeline.lineage(22) == patients["lineage_digest"]
    pipeline.synthetic_scans(True)
    assert pipeline.lineage(12) == ""
    assert pipeline.lineage(22) == synthetic["lineage_digest"]


@pytest.mark.slow
def test_patients_who_were_carried_on_from_synthetic_scans_by_an_earlier_release_keep_their_subsets(pipeline):
    pipeline.synthetic_scans(True)
    pipeline.run(12)
    pipeline.synthetic_scans(False)
    patients = pipeline.split(22, lineage=split_history.lineage_digest(pipeline.split(12, lineage="")["lineage"]))
    assert patients["carried_from"]["version"] == "1"
    pipeline.register()
    assert pipeline.lineage(22) == patients["lineage_digest"]
    assert subsets(pipeline.split(22)) == subsets(patients)
