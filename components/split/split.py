"""Assign patients, never slices, to training, validation and test."""

import logging
from collections.abc import Mapping
from pathlib import Path

from components.artifacts.cases import Cases
from components.artifacts.split_file import EarlierVersion, Split, SplitSource, split_digest, subset_names
from components.core.settings import checked
from components.core.storage import Storage
from components.registry import split_history
from components.split.assignment import Group, assign, lesion_sizes, linked_patients, require_disjoint
from components.split.deal_folds import deal_folds
from components.split.extend_split import earlier_subsets, extended_history, without_plain_names
from components.split.look_alikes import look_alikes
from components.split.split_page import describe, write_page


def split(
    cases: Path,
    out: Path,
    page: Path,
    ratios: tuple[float, float, float],
    seed: int,
    inputs: str = "dwi",
    history_digest: str = "",
    carry_split: bool = True,
    folds: int = 1,
) -> None:
    """Assign the labelled patients to train, val and test, or deal them into folds.

    Patients of earlier splits keep their subset, and only the others are drawn.

    Args:
        cases: Folder of the validated cases; those without all images that `inputs` needs are left out.
        out: File for the `Split`.
        page: File for a page about it (HTML).
        ratios: Shares of train, val and test.
        seed: Seed of the draw.
        inputs: Images that the network sees: "dwi" or "dwi+adc".
        history_digest: Digest of the split history to extend, as fingerprint chose it; "" for none.
        carry_split: Recorded in the split; fingerprint acts on it.
        folds: Folds of a cross-validation, which the ratios do not concern; 1 for train, val and test.

    Raises:
        StepError: a setting is invalid, there are too few patients, one patient or scan would be in two subsets, or the
            history was deleted.
    """
    subsets = subset_names(folds)
    names = ("train_ratio", "val_ratio", "test_ratio")
    checked({**dict(zip(names, ratios, strict=True)), "random_seed": seed, "inputs": inputs})
    shares = dict(zip(subsets, ratios if folds == 1 else [1 / folds] * folds, strict=True))
    found = Cases.read(cases)
    learnable = found.learnable(inputs)
    groups = linked_patients(learnable)
    earlier = split_history.find_earlier_split(history_digest) if history_digest else None
    history = without_plain_names(earlier.history, {c.patient for c in learnable}) if earlier else None
    if earlier and history != earlier.history:
        logging.warning(
            "the split history of version %s has patients under their own names, from runs without a pseudonym key. "
            "This run does not repeat the names; it recognises those patients by their images. MLflow still keeps the "
            "older runs, so a person who reads both can match names and pseudonyms. To prevent that, delete those runs "
            "and versions.",
            earlier.version,
        )
    address = Storage(found.data_uri).uri
    source = SplitSource(
        data_uri=address,
        data_version=found.data_version,
        settings=split_history.split_settings(ratios, seed, inputs, folds),
        extended_history=history_digest,
    )
    kept = earlier_subsets(groups, learnable, history, address) if history else {}
    sizes = lesion_sizes(groups, learnable)
    if folds == 1:
        subset_of = assign(groups, sizes, ratios, seed, kept)
    else:
        subset_of = deal_folds(groups, sizes, folds, seed, kept)
    require_disjoint(learnable, subset_of)
    patients = {subset: sorted(p for p, s in subset_of.items() if s == subset) for subset in subsets}
    extended = extended_history(history, learnable, subset_of, source)
    result = Split(
        patients=patients,
        cases={s: sorted(c.case for c in learnable if subset_of[c.patient] == s) for s in subsets},
        lesion_free=sorted(subset_of.keys() - {c.patient for c in learnable if c.lesion_voxels}),
        linked=[sorted(group) for group in groups if len(group) > 1],
        alike=look_alikes(learnable, groups, subset_of),
        ratios_asked=shares,
        ratios_reached={s: len(names) / len(subset_of) for s, names in patients.items()},
        random_seed=seed,
        carry_split=carry_split,
        extends=_earlier_version(earlier, history_digest, kept),
        history=extended,
        digest=split_digest(patients),
        history_digest=extended.digest,
    )
    result.write(out)
    write_page(result, found.synthetic, page)
    _log_summary(result)


def _earlier_version(
    earlier: split_history.EarlierSplit | None, history_digest: str, kept: Mapping[Group, str]
) -> EarlierVersion | None:
    if earlier is None:
        return None
    return EarlierVersion(
        version=earlier.version, history_digest=history_digest, patients_kept=sum(len(group) for group in kept)
    )


def _log_summary(result: Split) -> None:
    for group in result.linked:
        logging.info("linked     %s: they share a byte-identical image and stay in one subset", ", ".join(group))
    for one, other, similarity in result.alike:
        logging.info("look-alike %s and %s (similarity %.3f): by chance in one subset", one, other, similarity)
    logging.info("%s", describe(result))
    for subset, patients in result.patients.items():
        logging.info("%-5s %3d patients, %3d scans", subset, len(patients), len(result.cases[subset]))
