"""A whole run on scans of named patients, in an environment full of secrets: neither is in anything that it leaves.

Planted identifiers stand in file and folder names, headers, extensions, tables and sidecars; planted secrets in the
variables that hold them. Searched is all that a run writes: what is in S3, unpacked, MLflow's database and artifacts,
KFP's outputs, logs, summaries, the terminal. All that may hold them is left out by name, and is its owner's alone.
"""

import json
import shutil
import stat
from pathlib import Path

import pytest

from pipelines.demo.scans import write_demo_scans
from tests.support.checkout import Checkout
from tests.support.planted import IN_HEADERS, places, plant_in_header

SMALL = "image_size=32 base_channels=4 epochs=2 batch_size=8"
NAMES = ["Somchai", "Jaidee", "สมชาย", "ใจดี", "O'Malley", "HN4471920", "19560412"]
OF_NAMES = ["Suksan", "20240131", "Rama9Ward7"]
OF_FILES = ["Dr_Malee", "66-81-555-0199", "DiagnosisGlioma", "AccessionA77120", "083112.5500"]
SECRETS = {
    "KFP_TOKEN": "kfp-token-3f1c0a9be27d4455", "KFP_COOKIE": "session=kfp-cookie-91a77c0d5e2f",
    "PSEUDONYM_KEY": "pseudonym-key-5c2e9d7b1f4a60838e17", "AWS_SESSION_TOKEN": "",
}  # fmt: skip


@pytest.fixture(scope="module")
def clinic(tmp_path_factory) -> Path:
    """Six synthetic patients under real-looking names, one session dated, with all that lies about in a clinic."""
    demo = tmp_path_factory.mktemp("demo") / "demo"
    write_demo_scans(demo, patients=7, processes=1)
    folder = tmp_path_factory.mktemp("data") / "Suksan_ward_Rama9Ward7"
    given = dict(zip(sorted(p.name for p in demo.glob("sub-*")), NAMES, strict=True))
    for path in sorted(p for p in demo.rglob("*") if p.is_file()):
        name = path.relative_to(demo).as_posix()
        for old, new in given.items():
            name = name.replace(old, f"sub-{new}")
        for session in {part for part in path.parts if part.startswith("ses-")}:
            name = name.replace(session, "ses-20240131")
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
        if name.endswith(".nii.gz"):
            plant_in_header(target)
            target.with_name(target.name.replace(".nii.gz", ".json")).write_text(json.dumps({"Words": OF_FILES}))
    rows = [["participant_id", "site", "scanner", "physician", "phone"]]
    rows += [[f"sub-{name}", "Nan", "Skyra", *OF_FILES[:2]] for name in NAMES]
    (folder / "participants.tsv").write_text("\n".join("\t".join(row) for row in rows))
    about = {"Name": f"synthetic scans of {OF_FILES[2]}", "Authors": OF_FILES}
    (folder / "dataset_description.json").write_text(json.dumps(about))
    (folder / f"{OF_FILES[0]}.txt").write_text(" ".join(OF_FILES))
    broken = folder / "sub-Jaidee2" / "dwi" / "sub-Jaidee2_dwi.nii.gz"
    broken.parent.mkdir(parents=True)
    broken.write_bytes(" ".join(NAMES + IN_HEADERS).encode())
    return folder


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    with Checkout(tmp_path_factory.mktemp("clone") / "checkout", one_cpu=True) as checkout:
        services = checkout.services()
        login = f"//clinic:{services['MLFLOW_TRACKING_TOKEN']}@"
        checkout.environment["MLFLOW_TRACKING_URI"] = services["MLFLOW_TRACKING_URI"].replace("//", login)
        yield checkout


def holders(checkout) -> list[Path]:
    """The files that hold the logins of the servers, and are their owner's alone."""
    return [checkout.state / "credentials.json", checkout.state / "mlflow-token"]


def secrets_of(checkout) -> list[str]:
    keys, token = (path.read_text() for path in holders(checkout))
    kept = json.loads(keys)
    return [token, *filter(None, SECRETS.values()), *(str(v) for v in kept.values() if len(str(v)) > 12)]


def run(checkout, campaign, clinic, secrets: dict) -> str:
    """Everything that a person would do with the data, and all that it printed."""
    checkout.environment |= secrets
    said = [checkout.python("check-data", "--data", str(clinic))]
    said += [checkout.python("run", "--data", str(clinic), "--set", SMALL)]
    said += [checkout.python("run", "--data", str(clinic), "--set", SMALL)]
    said += [checkout.python(command, check=False) for command in ("lineage", "champion", "status", "compile")]
    assert checkout.last_run()["status"] == "succeeded"
    campaign.count("commands run", len(said))
    return "".join(said)


def search(campaign, folders: list[Path], planted: list[str], kind: str, but: list[Path]) -> None:
    campaign.count(f"{kind} planted", len(planted))
    for hits, searched in (places(folder, planted, but) for folder in folders):
        campaign.count(f"files, and contents packed in them, searched for {kind}", searched)
        campaign.count(f"{kind} found", len(hits))
        assert not hits, "\n".join(f"{path}: {word}" for path, word in hits[:40])


def test_with_a_key_nothing_tells_whose_the_scans_are(campaign, checkout, clinic, tmp_path):
    said = run(checkout, campaign, clinic, SECRETS)
    (tmp_path / "terminal.txt").write_text(said.replace(str(clinic), "DATA"))
    place = checkout.state / "pseudonyms"
    (the_map,) = place.glob("*.json")
    identifiers = NAMES + OF_NAMES + OF_FILES + IN_HEADERS
    assert {word for _, word in places(clinic.parent, identifiers)[0]} == set(identifiers)  # it finds what is there
    everywhere = [checkout.folder, tmp_path]
    search(campaign, everywhere, identifiers, "identifiers", but=[the_map])
    search(campaign, everywhere, secrets_of(checkout), "secrets", but=holders(checkout))
    assert str(the_map) in said and "8 patients get other names" in said
    told = json.loads(the_map.read_text())["patients"]
    listed = json.loads(next(checkout.state.glob("s3/*/artifacts/**/cases.json")).read_text())
    assert {told[case["patient"]] for case in listed["cases"]} <= {f"sub-{name}" for name in NAMES}
    assert {case["site"] for case in listed["cases"]} == {"Nan"}
    assert stat.S_IMODE(the_map.stat().st_mode) == 0o600 and stat.S_IMODE(place.stat().st_mode) == 0o700
    for pid in (process["pid"] for process in json.loads((checkout.state / "services.json").read_text()).values()):
        assert SECRETS["PSEUDONYM_KEY"].encode() not in Path(f"/proc/{pid}/environ").read_bytes()
