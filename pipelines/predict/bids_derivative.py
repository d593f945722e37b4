"""Results as a derivative of BIDS: names of files, `dataset_description.json`, a sidecar beside each mask.

Names and fields are those of the Brain Imaging Data Structure (BIDS) 1.10: "Derivatives", "Imaging data types: masks".
"""

import json
import re
from pathlib import Path

from components.core.errors import StepError
from components.ingest.found_files import FoundCase
from pipelines.atomic_write import write_bytes, write_json
from pipelines.predict.results import Row

VERSION = "1.10.0"
LAYOUT = "BIDS"
"""The layout, as discovery names it, whose results get these names."""
DESCRIPTION = "dataset_description.json"
NAME = "dwi-stroke-segment"
KIND = re.compile(r"_dwi\.nii(?:\.gz)?$", re.IGNORECASE)
OUTPUT = r"(?:sub-[^/\0]+/)?(?:ses-[^/\0]+/)?dwi/[^/\0]+_space-orig_label-L_(?:mask|probseg)\.nii\.gz"
"""A pattern of the files that `outputs` names, in the data set or in the folder of a participant."""
NOT_BIDS = ("predictions.csv", "predictions.html")
"""Files in the same folder that BIDS does not know."""


def start_of_names(case: FoundCase) -> str:
    """Return how the names of a case's results begin, in the folder of its participant: ses-Y/dwi/sub-X_ses-Y."""
    name = case.image[0].rsplit("/", 1)[-1]
    return "/".join(filter(None, (case.session, "dwi", KIND.sub("", name))))


def outputs(start: str) -> tuple[str, str]:
    """Return the names of a mask and of its probabilities. `L` is the label that BIDS has for a lesion."""
    return f"{start}_space-orig_label-L_mask.nii.gz", f"{start}_space-orig_label-L_probseg.nii.gz"


def require_own(folder: Path) -> None:
    """Raise StepError if the folder is a data set of BIDS that this container did not make."""
    file = folder / DESCRIPTION
    try:
        made_by = [entry["Name"] for entry in json.loads(file.read_text())["GeneratedBy"]]
    except (FileNotFoundError, NotADirectoryError):
        return
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        made_by = []
    if made_by != [NAME]:
        raise StepError(f"{file} describes the data set of another program. Name another output folder.")


def describe(folder: Path, source: Path, version: str, image: str) -> None:
    """Write `dataset_description.json` and `.bidsignore`.

    Raises:
        OSError: a file cannot be written.
    """
    raw = source.resolve().as_uri()
    description = {
        "Name": "Stroke lesions on diffusion MRI. Research use only",
        "BIDSVersion": VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [{
            "Name": NAME, "Version": version, "Container": {"Type": "docker", "Tag": image},
            "Description": "Lesion masks as a model predicts them. Nobody has checked them. Not a medical device.",
        }],
        "DatasetLinks": {"raw": raw},
        "SourceDatasets": [{"URL": raw}],
    }  # fmt: skip
    write_json(folder / DESCRIPTION, description)
    write_bytes(folder / ".bidsignore", "".join(f"{name}\n" for name in NOT_BIDS).encode())


def write_sidecars(folder: Path, rows: list[Row]) -> None:
    """Write a JSON file beside each result of `rows` in `folder`, and remove those whose result is gone.

    Raises:
        OSError: a file cannot be written.
    """
    for row in rows:
        for output in filter(None, (row.mask, row.probability)):
            write_json(folder / f"{output.removesuffix('.nii.gz')}.json", _sidecar(row))
    for file in folder.rglob("*_space-orig_label-L_*.json"):
        if not file.with_suffix(".nii.gz").exists():
            file.unlink()


def _sidecar(row: Row) -> dict:
    numbers = {
        "LesionVolumeMl": row.lesion_ml, "LesionVolumeLowMl": row.lesion_ml_low,
        "LesionVolumeHighMl": row.lesion_ml_high, "IntervalLevel": row.interval_level,
    }  # fmt: skip
    return {
        "Type": "Lesion",
        "Sources": [f"bids:raw:{row.file}"],
        **{name: float(number) for name, number in numbers.items() if number},
        "NeedsReview": row.needs_review,
        "ReviewReasons": row.reasons,
        "Model": row.model,
        "ResearchUseOnly": True,
    }
