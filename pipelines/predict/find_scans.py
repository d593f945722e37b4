"""Find the scans in a folder to segment: in a layout of the pipeline, or as NIfTI files in any order."""

import re
from collections import defaultdict
from pathlib import Path

from components.core.errors import StepError
from components.core.text import shown
from components.ingest.discover import discover
from components.ingest.file_names import BIDS_DWI, BIDS_MASK, DERIVED, FLAT, SOURCE
from components.ingest.found_files import Found, FoundCase, in_predictions, prediction_folders
from components.scans.prediction_mark import read_mark
from pipelines.folder_files import files_of
from pipelines.predict.file_kind import WORDS, channels, named

NIFTI = re.compile(r"^(.+)\.nii(?:\.gz)?$", re.IGNORECASE | re.DOTALL)
NO_SPACE = "a mask needs a scan's space, which only NIfTI has: give it as .nii or .nii.gz"
OTHER = "its name says that it is {}, not a DWI, so it is not segmented: rename it if it is a DWI"
FURTHER_CHANNEL = "its name says that it is a further channel of {} (nnU-Net), so it is not segmented: rename it"


def find(folder: Path) -> Found:
    """Return the cases in `folder` without masks and predictions, and the files refused for their names or types.

    Raises:
        StepError: there are no scans, or there are two layouts.
    """
    folder = folder.resolve()
    everything = list(files_of(folder))
    results = prediction_folders(everything)
    aside = {k for k in everything if SOURCE.search(k) or in_predictions(k, results) or _is_marked(folder / k)}
    keys = [k for k in everything if k not in aside and not _is_mask(k)]
    laid_out = any(FLAT.match(k) or BIDS_DWI.match(k) for k in keys)
    found = discover(keys) if laid_out else _without_layout(keys)
    found.ignored = sorted({*found.ignored, *aside})
    if found.layout == "images/masks":
        further = channels([case.name for case in found.cases])
        found.refused |= {case.name: why for case in found.cases if (why := _reason_to_leave_out(case.name, further))}
    for case in found.cases:
        if len(case.image) > 1 or not NIFTI.match(case.image[0]):
            found.refused[case.name] = f"{case.image[0]}: {NO_SPACE}"
    found.cases = [case for case in found.cases if case.name not in found.refused]
    if not found.cases and not found.refused:
        seen = ", ".join(map(shown, keys[:3])) or "nothing"
        raise StepError(
            f"INPUT={folder}: no scans among {len(keys)} files ({seen}, ...). Give a folder of .nii or .nii.gz files, "
            "or one laid out as images/NAME.nii.gz or sub-X/ses-Y/dwi/sub-X_ses-Y_dwi.nii.gz."
        )
    return found


def _is_mask(key: str) -> bool:
    flat = FLAT.match(key)
    return flat["kind"].lower() == "masks" if flat else bool(BIDS_MASK.match(key) or DERIVED.search(key))


def _is_marked(path: Path) -> bool:
    return bool(NIFTI.match(path.name) and read_mark(path))


def _without_layout(keys: list[str]) -> Found:
    """Return a case for each NIfTI file under its own name; the names tell which maps and images belong to it.

    `NAME_adc` belongs to `NAME_dwi` or `NAME`, `adc` to `dwi` or to the only scan in its folder, `adc/NAME` to
    `dwi/NAME`.
    """
    stems: dict[str, list[str]] = defaultdict(list)
    refused: dict[str, str] = {}
    for key in keys:
        if match := NIFTI.match(key):
            stems[match[1].casefold()].append(key)
        elif key.lower().endswith(".npy"):
            refused[key] = NO_SPACE
    for same in (s for s in stems.values() if len(s) > 1):
        refused |= {key: f"names that differ only in case or packing: {', '.join(same)}" for key in same}
    scans = {stem: _stem(same[0]) for stem, same in stems.items() if len(same) == 1}
    further = channels(list(scans))
    cases: dict[str, FoundCase] = {}
    belonging: dict[str, list[FoundCase]] = defaultdict(list)
    others: list[str] = []
    for stem, name in sorted(scans.items(), key=lambda item: named(item[0]).kind, reverse=True):
        says = named(stem)
        if stem in further or says.kind not in ("", "dwi"):
            others.append(stem)
        else:
            cases[stem] = FoundCase(name, name, image=[stems[stem][0]])
            belonging[says.of].append(cases[stem])
    for stem in sorted(others):
        says, key = named(stem), stems[stem][0]
        near = belonging[says.of] or _only_scan(says.of, cases)
        if stem in further:
            refused[key] = FURTHER_CHANNEL.format(further[stem])
        elif near and says.kind in ("adc", "b0"):
            if getattr(near[0], says.kind):
                refused[key] = f"{near[0].image[0]} has {WORDS[says.kind]} already: {getattr(near[0], says.kind)}"
            else:
                setattr(near[0], says.kind, key)
        elif not near and not says.is_mask:
            refused[key] = "ADC map without a DWI scan" if says.kind == "adc" else OTHER.format(WORDS[says.kind])
    everything = set(keys)
    for case in cases.values():
        case.find_b_values(everything)
    used = {key for case in cases.values() for key in case.keys} | refused.keys()
    return Found("as they lie", [cases[s] for s in sorted(cases)], refused, [k for k in keys if k not in used])


def _stem(key: str) -> str:
    """Return the key of a NIfTI file without its extension."""
    return NIFTI.sub(r"\1", key)


def _only_scan(folder: str, cases: dict[str, FoundCase]) -> list[FoundCase]:
    """Return the case of the only scan in a folder ("" or ends with "/"), for a file whose name is just its kind."""
    if folder and not folder.endswith("/"):
        return []
    there = [case for stem, case in cases.items() if stem.rpartition("/")[0] == folder.rstrip("/")]
    return there if len(there) == 1 else []


def _reason_to_leave_out(stem: str, further: dict[str, str]) -> str | None:
    """Return why the name of a file excludes it from segmentation; None if it can be a DWI."""
    if stem in further:
        return FURTHER_CHANNEL.format(further[stem])
    kind = named(stem).kind
    return OTHER.format(WORDS[kind]) if kind in WORDS else None
