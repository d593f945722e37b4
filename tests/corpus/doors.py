"""Each reader as a door that takes any bytes: it answers in words of its own, or what it let in is what it promises.

`DOORS[name](content)` returns "taken" or the kind of the refusal; anything that it raises is a fault of the product.
"""

import hashlib
import json
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np

from components.artifacts.split_file import split_digest
from components.core.errors import StepError
from components.core.settings import Settings
from components.ingest.discover import discover
from components.ingest.file_names import name_problem
from components.ingest.ingest import check
from components.ingest.participants import read_participants
from components.registry import split_history
from components.registry.ledger import NAMES_ENTRY, Ledger
from components.scans.adc import from_b0, in_kept_unit
from components.scans.volumes import BadVolume, Geometry, read, read_nifti_bytes, require_scan
from pipelines import presets
from pipelines.predict.find_scans import find
from tests.corpus.files import AFFINE, DWI, npy, packed

SMALL = DWI[:16, :16, :3]
GRID = Geometry(SMALL.shape, AFFINE)
TAKEN = "taken"


def kind(reason: Exception | str) -> str:
    """A reason without what differs from input to input."""
    text = str(reason)
    assert "Traceback" not in text and "\0" not in text and len(text) < 6000
    text = re.sub(r"/\S*/|\(.*\)|'[^']*'|-?\d[\d.,e+-]*%?|\b(nan|inf)\b", "…", text.splitlines()[0])
    return re.sub(r"^(\w+)=.* is impossible", r"\1 is impossible", text)[:70]


def _volume(take: Callable[[], tuple[np.ndarray, Geometry]]) -> str:
    try:
        data, geometry = take()
        require_scan(data)
    except BadVolume as reason:
        assert "\n" not in str(reason)
        return kind(reason)
    assert data.dtype == np.float32 and data.ndim == 3 and np.isfinite(data).all()
    assert geometry.native(data).shape == geometry.shape and data.min() < data.max()
    assert geometry.voxel_mm is None or np.isfinite(geometry.canonical_affine).all()
    return TAKEN


def nifti(content: bytes) -> str:
    return _volume(lambda: read_nifti_bytes(content))


def gzipped(content: bytes) -> str:
    return _volume(lambda: read_nifti_bytes(packed(content)))


def array(content: bytes) -> str:
    with tempfile.NamedTemporaryFile(suffix=".npy") as file:
        file.write(content)
        file.flush()
        return _volume(lambda: read(Path(file.name)))


def keys(content: bytes) -> str:
    listed = list(dict.fromkeys(content.decode(errors="surrogateescape").split("\n")))
    answers = []
    with patch("pipelines.predict.find_scans.files_of", lambda _: [k for k in listed if not name_problem(k)]):
        for search in (lambda: discover(listed), lambda: find(Path("somewhere"))):
            try:
                found = search()
            except StepError as reason:
                answers.append(kind(reason))
                continue
            names = [case.name for case in found.cases]
            assert len(set(names)) == len(names) and not found.refused.keys() & set(names)
            assert all(key in listed and not name_problem(key) for case in found.cases for key in case.keys)
            answers += [TAKEN] * bool(found.cases) or [kind(next(iter(found.refused.values()), "nothing"))]
    return answers[0]


def table(content: bytes) -> str:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "participants.tsv").write_bytes(content)
        told = read_participants(Path(folder), ["sub-1", "sub-2"])
    for values in (told.site, told.scanner):
        assert values.keys() <= {"sub-1", "sub-2"}
        assert all(0 < len(v) <= 40 and v.isprintable() for v in values.values())
    assert all(note.isprintable() for note in told.notes)
    return TAKEN if told.site or told.scanner else kind(told.notes[0]) if told.notes else "nothing in it"


def description(content: bytes) -> str:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "dataset_description.json").write_bytes(content)
        found = check(discover(["images/none.nii", "masks/none.nii"]), Path(folder), Path(folder) / "cases")
    return f"synthetic: {found.synthetic}"


def _settings(load: Callable[[], Settings]) -> str:
    try:
        settings = load()
    except StepError as reason:
        assert str(reason).replace("\n", "").isprintable()
        return kind(reason)
    assert Settings(**settings.model_dump()) == settings
    return TAKEN


def assignments(content: bytes) -> str:
    return _settings(lambda: presets.load("demo", content.decode(errors="surrogateescape")))


def adc(content: bytes) -> str:
    """Values of an ADC map, then of a b0."""
    map_ = np.resize(np.frombuffer(content[: len(content) // 4 * 4], np.float32), SMALL.shape)
    answers = []
    for make in (lambda: in_kept_unit(map_, GRID, SMALL, GRID)[0], lambda: from_b0(map_, GRID, SMALL, GRID, 1000)):
        try:
            assert np.isfinite(make()).all()
            answers.append(TAKEN)
        except BadVolume as reason:
            answers.append(kind(reason))
    return answers[0]


def ledger(content: bytes) -> str:
    """An entry that somebody put into the bucket under the name that its digest asks for."""
    key = f"20260101T000000.000000Z-{hashlib.sha256(content).hexdigest()[:16]}.json"
    stored = SimpleNamespace(key=key, etag="")
    storage = SimpleNamespace(list=lambda: [stored], get=lambda _: content, uri="s3://b/ledger")
    model = SimpleNamespace(tags={})
    version = SimpleNamespace(version="1", tags={NAMES_ENTRY: key})
    registry = SimpleNamespace(search_registered_models=lambda _: [model], search_model_versions=lambda _: [version])
    there = Ledger(storage, registry)
    return TAKEN if there.entries() else kind(there.faults[0].partition(" ")[2])


def split(content: bytes) -> str:
    """The split.json of an MLflow run, as the next split extends it."""
    entry = SimpleNamespace(run_id="r", version="1", tags={})
    client = SimpleNamespace(
        search_model_versions=lambda _: [entry],
        get_run=lambda _: SimpleNamespace(
            info=SimpleNamespace(run_id="r", artifact_uri="a"), data=SimpleNamespace(params={})
        ),
        list_artifacts=lambda _: [SimpleNamespace(path=split_history.SPLIT)],
    )
    text = content.decode(errors="replace")
    with patch("mlflow.MlflowClient", lambda: client), patch("mlflow.artifacts.load_text", lambda _: text):
        try:
            assert len(split_history.history_to_extend("s3://b/data", "v", {}, False)) == 64
        except StepError as reason:
            return kind(reason)
    return TAKEN


DOORS: dict[str, Callable[[bytes], str]] = {
    door.__name__: door for door in (nifti, gzipped, array, keys, table, description, assignments, adc, ledger, split)
}


def seeds(name: str) -> list[bytes]:
    """Inputs to start from, most of them good."""
    import nibabel as nib

    from tests.corpus import names, texts

    small = nib.Nifti1Image((SMALL * 2).astype(np.uint8), AFFINE).to_bytes()
    entry = {
        "number": 1, "when": "2026-01-01T00:00:00+00:00", "previous": [], "decision": "first", "who": "me",
        "version": "1", "model": "models:/m-1", "from": None, "to": "1", "words": "w", "subject": "", "lineage": {},
    }  # fmt: skip
    person = {"patient": "p", "data_uri": "s3://b/data", "subset": "train", "images": []}
    patients, lineage = {"train": ["p"]}, {"people": [person], "drawn": None}
    old = {"digest": split_digest(patients), "patients": patients}
    return {
        "nifti": [small, packed(small), small + bytes(99)],
        "gzipped": [small, packed(small)],
        "array": [npy(SMALL), npy(SMALL.astype(">i2")), npy(np.asfortranarray(SMALL)), npy(SMALL[:, :, 0])],
        "keys": [b"images/a.npy\nmasks/a.npy\nimages/b_Slice_1.npy",
                 b"sub-1/ses-1/dwi/sub-1_ses-1_dwi.nii.gz\nx_b0.nii",
                 *["\n".join([*names.GOOD, *k.keys]).encode(errors="surrogateescape") for k in names.KEYS]],
        "table": [b"participant_id\tsite\tscanner\nsub-1\tA\tX\nsub-2\tB\tY\n",
                  *[t.text for t in texts.PARTICIPANTS if isinstance(t.text, bytes) and len(t.text) < 9999]],
        "description": [b'{"Name": "SYNTHETIC"}', *[d for d in texts.DESCRIPTIONS if len(d) < 9999]],
        "assignments": [b"epochs=5 base_channels=16",
                        *[t.text.encode() for t in texts.ASSIGNMENTS if len(t.text) < 999]],
        "adc": [SMALL.tobytes(), (SMALL / 200).tobytes(), (SMALL * 9).tobytes()],
        "ledger": [json.dumps(entry).encode(), b"[]", b"{}", b"null"],
        "split": [json.dumps(s).encode() for s in (old, old | {"lineage": lineage}, old | {"lineage": []}, [])]
                 + [b"[" * 9999, b'{"digest": "d", "lineage": {"people": [3], "drawn": null}}'],
    }[name]  # fmt: skip
