"""The masks of a DICOM data set: masks/NAME.nii.gz for the study in the folder NAME."""

from collections.abc import Collection
from pathlib import Path

from components.core.text import shown
from components.ingest.file_names import FLAT, SOURCE
from components.ingest.found_files import in_predictions, is_table, prediction_folders
from components.ingest.label_masks import Predictions
from components.scans.geometry import BadVolume
from components.scans.prediction_mark import DIGEST, FIRST_COLUMNS
from pipelines.dicom.owner import LAYOUT, Owner, owner
from pipelines.strip_header import stripped


def find_masks(folder: Path, keys: list[str], owners: Collection[Owner]) -> tuple[dict[str, bytes], dict[str, str]]:
    """Return the masks of these owners by their keys in the layout of BIDS, without header text.

    Also return why each other scan file is left out, by key. Results of `make predict` are passed over.
    """
    found: dict[str, bytes] = {}
    left_out: dict[str, str] = {}
    predicted = prediction_folders(keys)
    for key in keys:
        flat = FLAT.match(key)
        if SOURCE.search(key) or not key.lower().endswith((".nii", ".nii.gz", ".npy")):
            continue
        if in_predictions(key, predicted) and "/" in key.partition("/")[2]:
            continue
        if not flat or flat["kind"].lower() != "masks" or flat["parent"] or flat["ending"].lower() == ".npy":
            left_out[key] = f"it is no mask of a DICOM study. {LAYOUT}"
            continue
        whose = owner(flat["stem"])
        if whose not in owners:
            left_out[key] = f"there is no DICOM study of {shown(whose.named)}. {LAYOUT}"
        elif whose.mask_key in found:
            left_out[key] = f"{shown(whose.named)} has another mask already. Keep one"
        else:
            try:
                found[whose.mask_key] = stripped(folder / key)
            except (BadVolume, OSError) as reason:
                left_out[key] = str(reason)
    return found, left_out


def table_of_predictions(folder: Path, keys: list[str]) -> bytes:
    """Return a table with the digests of the masks that `make predict` made in a folder; empty without any."""
    digests = Predictions([key for key in keys if is_table(key)], folder).digests
    lines = [",".join((*FIRST_COLUMNS, "mask", DIGEST)), *(f",,,{digest}" for digest in sorted(digests))]
    return "".join(f"{line}\n" for line in lines).encode() if digests else b""
