"""Find cases in the layout images/NAME and masks/NAME: pairs of one name in two folders of one parent."""

from collections import defaultdict

from components.core.text import composed, look, shown
from components.ingest.file_names import (
    FLAT,
    MOST_SLICE_NUMBER,
    SLICE,
    data_set_folder,
    owner_conflict,
    patient_and_session,
    similar_names,
)
from components.ingest.found_files import Found, FoundCase, in_predictions, mask_candidate

KeysByStem = dict[str, dict[str, list[str]]]
"""File name without extension to the keys in images/, in masks/, and among predicted masks."""


def find_flat(keys: list[str], prediction_folders: set[str]) -> Found:
    """Find the cases among `keys`. `make predict` wrote into `prediction_folders`."""
    by_stem: KeysByStem = defaultdict(lambda: {"images": [], "masks": [], "predicted": []})
    refused: dict[str, str] = {}
    for key in keys:
        if match := FLAT.match(key):
            predicted, kind = in_predictions(key, prediction_folders), match["kind"].lower()
            by_stem[composed(match["stem"])]["predicted" if predicted else kind].append(key)
            if not predicted and (why := owner_conflict(key)):
                refused[composed(match["stem"])] = why
    by_stem = {stem: files for stem, files in by_stem.items() if files["images"] or files["masks"]}
    refused |= _refused_by_name(by_stem)

    cases: dict[str, FoundCase] = {}
    slices: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for stem, files in sorted(by_stem.items()):
        if stem in refused:
            continue
        match = SLICE.match(stem)
        if match and files["images"][0].lower().endswith(".npy"):
            slices[match[1]].append((int(match[2]), stem))
        else:
            cases[stem] = FoundCase(stem, *patient_and_session(stem), files["images"])
            for kind in ("masks", "predicted"):
                cases[stem].candidates += [
                    mask_candidate(files["images"][:1], [key], kind != "masks") for key in files[kind]
                ]
    for stem in list(cases):
        if (match := SLICE.match(stem)) and match[1] in slices:
            slices[match[1]].append((int(match[2]), stem))
            del cases[stem]
    for name, numbered in slices.items():
        case = _from_slices(name, sorted(numbered), by_stem)
        refused_slices = sorted(s for s in refused if (m := SLICE.match(s)) and m[1] == name)
        if name in cases:
            del cases[name]
            refused[name] = "given twice: as one volume and as single slices"
        elif refused_slices:
            refused[name] = f"its slice {refused_slices[0]} was refused: {refused[refused_slices[0]]}"
        elif isinstance(case, str):
            refused[name] = case
        else:
            cases[name] = case
    used = {key for files in by_stem.values() for found in files.values() for key in found}
    return Found("images/masks", [cases[n] for n in sorted(cases)], refused, [k for k in keys if k not in used])


def _refused_by_name(by_stem: KeysByStem) -> dict[str, str]:
    refused: dict[str, str] = {}
    spelled: dict[str, list[str]] = defaultdict(list)
    for stem in by_stem:
        spelled[look(stem)].append(stem)
    for stems in spelled.values():
        if len(stems) > 1:
            refused |= {s: similar_names(stems) for s in stems}
    for stem, files in by_stem.items():
        if len(files["images"]) > 1:
            refused[stem] = f"two files in images/ for one name: {', '.join(files['images'])}"
        if not files["images"]:
            refused.setdefault(stem, "mask without an image of the same name")
    return refused


def _from_slices(name: str, numbered: list[tuple[int, str]], files: KeysByStem) -> FoundCase | str:
    numbers = [number for number, _ in numbered]
    if len(set(numbers)) < len(numbers):
        return f"slice number {next(n for n in numbers if numbers.count(n) > 1)} is given twice"
    if max(numbers) > MOST_SLICE_NUMBER:
        return f"slice number {shown(str(max(numbers)))} is too large: at most {MOST_SLICE_NUMBER}"
    images = [files[stem]["images"][0] for _, stem in numbered]
    if len({data_set_folder(key) for key in images}) > 1:
        return f"its slices are in several folders: {images[0]}, {images[-1]}. Move them into one images/."
    case = FoundCase(name, *patient_and_session(name), images, slice_numbers=numbers)
    masks = [key for _, stem in numbered for key in files[stem]["masks"]]
    if several := next((files[s]["masks"] for _, s in numbered if len(files[s]["masks"]) > 1), None):
        return f"{len(several)} masks where one is expected: {', '.join(several)}"
    if other := [key for key in (*images, *masks) if not key.lower().endswith(".npy")]:
        return f"single slices in two formats: {other[0]} is not .npy"
    if masks and len(masks) < len(numbers):
        missing = next(stem for _, stem in numbered if not files[stem]["masks"])
        return f"{len(numbers) - len(masks)} of {len(numbers)} slices have no mask (the first: {missing})"
    predicted = [files[stem]["predicted"] for _, stem in numbered]
    case.candidates = [mask_candidate(images, masks, predicted=False)] if masks else []
    if all(len(found) == 1 for found in predicted):
        case.candidates.append(mask_candidate(images, [key for found in predicted for key in found], predicted=True))
    return case
