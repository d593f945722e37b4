"""The layout images/NAME and masks/NAME: pairs of one name in two folders of one parent."""

from collections import defaultdict

from components.core.text import composed, look, shown
from components.ingest.file_names import (
    FLAT,
    MOST_SLICE_NUMBER,
    SLICE,
    contradiction,
    look_alike,
    patient_and_session,
)
from components.ingest.found_files import Case, Found, candidate, in_predictions

Files = dict[str, dict[str, list[str]]]
"""Name of a file, its extension aside, to its keys in images, in masks, and among predictions."""


def flat(keys: list[str], homes: set[str]) -> Found:
    """The cases among `keys`; `homes` are the folders in which `make predict` wrote."""
    by_stem: Files = defaultdict(lambda: {"images": [], "masks": [], "predicted": []})
    refused: dict[str, str] = {}
    for key in keys:
        if match := FLAT.match(key):
            predicted, kind = in_predictions(key, homes), match["kind"].lower()
            by_stem[composed(match["stem"])]["predicted" if predicted else kind].append(key)
            if not predicted and (why := contradiction(key)):
                refused[composed(match["stem"])] = why
    by_stem = {stem: files for stem, files in by_stem.items() if files["images"] or files["masks"]}
    refused |= _refused_by_name(by_stem)

    cases: dict[str, Case] = {}
    slices: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for stem, files in sorted(by_stem.items()):
        if stem in refused:
            continue
        match = SLICE.match(stem)
        if match and files["images"][0].lower().endswith(".npy"):
            slices[match[1]].append((int(match[2]), stem))
        else:
            cases[stem] = Case(stem, *patient_and_session(stem), files["images"])
            for kind in ("masks", "predicted"):
                cases[stem].candidates += [
                    candidate(files["images"][:1], [key], kind != "masks") for key in files[kind]
                ]
    for stem in [s for s in cases if (m := SLICE.match(s)) and m[1] in slices]:
        slices[SLICE.match(stem)[1]].append((int(SLICE.match(stem)[2]), stem))
        del cases[stem]
    for name, numbered in slices.items():
        case = _from_slices(name, sorted(numbered), by_stem)
        lost = sorted(s for s in refused if (m := SLICE.match(s)) and m[1] == name)
        if name in cases:
            del cases[name]
            refused[name] = "given twice: as one volume and as single slices"
        elif lost:
            refused[name] = f"its slice {lost[0]} was refused: {refused[lost[0]]}"
        elif isinstance(case, str):
            refused[name] = case
        else:
            cases[name] = case
    used = {key for files in by_stem.values() for found in files.values() for key in found}
    return Found("images/masks", [cases[n] for n in sorted(cases)], refused, [k for k in keys if k not in used])


def _refused_by_name(by_stem: Files) -> dict[str, str]:
    refused: dict[str, str] = {}
    spelled: dict[str, list[str]] = defaultdict(list)
    for stem in by_stem:
        spelled[look(stem)].append(stem)
    for stems in spelled.values():
        if len(stems) > 1:
            refused |= {s: look_alike(stems) for s in stems}
    for stem, files in by_stem.items():
        if len(files["images"]) > 1:
            refused[stem] = f"two files in images/ for one name: {', '.join(files['images'])}"
        if not files["images"]:
            refused.setdefault(stem, "mask without an image of the same name")
    return refused


def _from_slices(name: str, numbered: list[tuple[int, str]], files: Files) -> Case | str:
    numbers = [number for number, _ in numbered]
    if len(set(numbers)) < len(numbers):
        return f"slice number {next(n for n in numbers if numbers.count(n) > 1)} is given twice"
    if max(numbers) > MOST_SLICE_NUMBER:
        return f"slice number {shown(str(max(numbers)))} is no number of a slice: at most {MOST_SLICE_NUMBER}"
    images = [files[stem]["images"][0] for _, stem in numbered]
    if len({FLAT.match(key)["parent"] for key in images}) > 1:
        return f"its slices lie in several folders: {images[0]}, {images[-1]}. Move them into one images/."
    case = Case(name, *patient_and_session(name), images, slice_numbers=numbers)
    masks = [key for _, stem in numbered for key in files[stem]["masks"]]
    if several := next((files[s]["masks"] for _, s in numbered if len(files[s]["masks"]) > 1), None):
        return f"{len(several)} masks where one is expected: {', '.join(several)}"
    if other := [key for key in (*images, *masks) if not key.lower().endswith(".npy")]:
        return f"single slices in two formats: {other[0]} is no .npy"
    if masks and len(masks) < len(numbers):
        missing = next(stem for _, stem in numbered if not files[stem]["masks"])
        return f"{len(numbers) - len(masks)} of {len(numbers)} slices have no mask (the first: {missing})"
    predicted = [files[stem]["predicted"] for _, stem in numbered]
    case.candidates = [candidate(images, masks, predicted=False)] if masks else []
    if all(len(found) == 1 for found in predicted):
        case.candidates.append(candidate(images, [key for found in predicted for key in found], predicted=True))
    return case
