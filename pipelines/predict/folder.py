"""Segment a folder: write a mask for each scan, a table and a page; name the scans that are refused."""

import contextlib
import fcntl
import logging
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from components.artifacts.synthetic import WARNING
from components.core.errors import StepError
from components.core.local_files import local_path
from components.core.step import progress
from components.core.text import shown
from components.ingest.found_files import Found, FoundCase
from components.scans.prediction_mark import PART, TABLE
from components.scans.viewer.page import Viewer
from components.scans.volumes import BadVolume
from pipelines.atomic_write import write_bytes, write_parts
from pipelines.predict import bids_derivative
from pipelines.predict.open_input import Input, open_input
from pipelines.predict.results import (
    MOST_PICTURED,
    Pictures,
    Row,
    Table,
    add_to_viewer,
    draw,
    is_untouched,
    listed,
    page,
)
from pipelines.predict.segmenter import Segmenter

PAGE = "predictions.html"
RESULT = re.compile(
    rf"(masks|probabilities)/(?!\.\.?/)[^\0]+\.nii\.gz|dicom/(?!\.\.?/)[^\0]+\.dcm|{bids_derivative.OUTPUT}"
)
"""A file that this command writes into its folder."""
ELSEWHERE = "Name another OUTPUT."
KEEP = f"{ELSEWHERE} To overwrite it, run again with OVERWRITE=1 (a container: with --overwrite)."


class Stopped(StepError):
    """A person or the machine stopped the call."""


def segment_folder(
    source: Path,
    target: Path,
    load: Callable[[], Segmenter],
    probability: bool,
    modality_check: bool = True,
    overwrite: bool = False,
    series: str = "",
    choose: Callable[[Found], None] = lambda found: None,
) -> list[Row]:
    """Segment every scan under `source`, one at a time, into the folder `target`; return a row for each.

    `source` is a folder of NIfTI files, or a folder or a zip of DICOM files; `series` chooses among DICOM series. It
    writes `masks/CASE.nii.gz`, with `probability` also `probabilities/CASE.nii.gz`, `predictions.csv` and
    `predictions.html`, for DICOM also `dicom/CASE/`. Files of an earlier call are replaced if nobody changed them or
    `overwrite` is set; other files stay. Without `modality_check`, scans that look like an ADC map or a b0 image are
    segmented too. `load` loads the model, when scans and `target` are known to be usable. `choose` may change what was
    found.

    Raises:
        StepError: there are no scans or none can be segmented, the model cannot be loaded, `target` has files of others
            or changed ones, or another call writes there.
    """
    _require_apart(source, target)
    with contextlib.ExitStack() as stack:
        scans = stack.enter_context(open_input(source, series))
        found = scans.found
        choose(found)
        stack.enter_context(_alone(target))
        old = _earlier(target, scans, probability, overwrite)
        segmenter = load()
        if probability:
            segmenter.require_probabilities()
        try:
            for name in old:
                for left in (name, f"{name}.part"):
                    local_path(target, left).unlink(missing_ok=True)
            options = {"probability": probability, "modality_check": modality_check}
            with Viewer() as viewer:
                rows, pictures = _segment_all(scans, target, segmenter, options, viewer)
                text = page(rows, pictures, source, segmenter.uri, segmenter.synthetic)
                write_parts(target / PAGE, viewer.parts(text))
        except OSError as error:
            raise _cannot_write(target, error) from None
    _say(rows, found, target)
    if segmenter.synthetic:
        logging.warning("%s %s", segmenter.uri, WARNING)
    return rows


@contextlib.contextmanager
def _alone(target: Path) -> Iterator[None]:
    """Lock the folder for one call: two calls that write one table would lose rows.

    Raises:
        StepError: another call writes there, or the folder cannot be written.
    """
    try:
        target.mkdir(parents=True, exist_ok=True)
        folder = os.open(target, os.O_RDONLY)
    except OSError as error:
        raise _cannot_write(target, error) from None
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StepError(
                f"another make predict writes to OUTPUT={target}. Wait until it ends, or name another."
            ) from None
        except OSError:
            logging.warning("%s is on a file system without locks: do not start a second make predict there", target)
        yield
    finally:
        os.close(folder)


def _cannot_write(target: Path, error: OSError) -> StepError:
    return StepError(f"OUTPUT={target} cannot be written ({error.strerror}). Make room, or name another.")


def _segment_all(
    scans: Input, target: Path, segmenter: Segmenter, options: dict[str, bool], viewer: Viewer
) -> tuple[list[Row], list[Pictures]]:
    found = scans.found
    rows: list[Row] = []
    pictures: list[Pictures] = []
    done = 0
    table = Table(target / TABLE)
    for name, why in sorted(found.refused.items()):
        rows.append(Row(name, name, why))
        table.add(rows[-1])
    try:
        for case in progress(found.cases, total=len(found.cases), what="segmented"):
            draw_it = len(pictures) < MOST_PICTURED
            row, drawn = _segment(case, scans, target, segmenter, options, table, draw_it, viewer)
            rows.append(row)
            pictures += [drawn] if drawn else []
            done += 1
    except KeyboardInterrupt:
        raise Stopped(
            f"stopped after {done} of {len(found.cases)} scans; their masks are in {target}. "
            "The same command starts again from the first scan."
        ) from None
    table.finish()
    return rows, pictures


def _segment(
    case: FoundCase,
    scans: Input,
    target: Path,
    segmenter: Segmenter,
    options: dict[str, bool],
    table: Table,
    draw_it: bool,
    viewer: Viewer,
) -> tuple[Row, Pictures | None]:
    adc, b0 = (scans.folder / key if key else None for key in (case.adc, case.b0))
    study = scans.studies.get(case.name)
    file = study.dwi.series.named if study else case.image[0]
    view_probability = segmenter.gives_probabilities and not viewer.is_full
    asked = options | {"probability": options["probability"] or view_probability}
    try:
        b_values = [scans.folder / key for key in case.b_values]
        prediction = segmenter.segment(scans.folder / case.image[0], adc, b0, b_values, **asked)
    except BadVolume as reason:
        row = Row(case.name, file, str(reason))
        table.add(row)
        return row, None
    made: dict[str, bytes] = {}
    if study:
        from pipelines.dicom.answer import answer  # here, as it loads highdicom, which NIfTI does not need

        notes = study.notes
        scan = (scans.folder / case.image[0]).read_bytes()
        try:
            made = answer(study, scan, prediction.mask, segmenter.uri, segmenter.synthetic, prediction.review)
        except BadVolume as reason:
            notes = (*notes, str(reason))
        prediction = replace(prediction, noted=(*notes, *prediction.noted))
    row = Row.of(case.name, file, prediction, segmenter.named)
    outputs = dict(zip(("mask", "probability"), _outputs(case, options["probability"]), strict=False))
    for column, name in outputs.items():
        setattr(row, column, name)
    table.add(row)  # before the files: if we are stopped, each file that exists is in the table
    contents = {name: getattr(prediction, column) for column, name in outputs.items()}
    contents |= {f"dicom/{case.name}/{name}": content for name, content in made.items()}
    for name, content in contents.items():
        path = local_path(target, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, content)
    add_to_viewer(viewer, case.name, prediction)
    return row, draw(prediction) if draw_it else None


def _outputs(case: FoundCase, probability: bool) -> list[str]:
    names = bids_derivative.outputs(case.derivative) if case.derivative else (
        f"masks/{case.name}.nii.gz", f"probabilities/{case.name}.nii.gz",
    )  # fmt: skip
    return [*names[: 1 + probability]]


def _require_apart(source: Path, target: Path) -> None:
    here, there = source.resolve(), target.resolve()
    if here.is_relative_to(there) or there.is_relative_to(here):
        raise StepError(
            f"One of OUTPUT={target} and INPUT={source} is inside the other. Name a separate folder for OUTPUT."
        )
    if target.exists() and not target.is_dir():
        raise StepError(f"OUTPUT={target} is a file. INPUT is a folder, so name a folder for the results.")
    if target.name.lower().endswith((".nii", ".nii.gz")):
        raise StepError(f"OUTPUT={target} is a scan's name. INPUT is a folder, so name a folder for the results.")


def _earlier(target: Path, scans: Input, probability: bool, overwrite: bool) -> set[str]:
    """The files in `target` that an earlier call made and this one may replace.

    Raises:
        StepError: something else lies where a result would go, or a mask was changed since; without `overwrite`.
    """
    tables = {name for name in (TABLE, TABLE + PART) if (target / name).exists()}
    masks = {name for name in listed(target / TABLE) - tables if (target / name).exists()}
    foreign = {name for name in masks if not RESULT.fullmatch(name)}
    if foreign:
        raise StepError(f"{target / TABLE} lists {shown(min(foreign))}, which make predict never makes. {ELSEWHERE}")
    old = tables | ({PAGE} if tables else set()) | masks
    answers, new_answers = _answers(target, scans, overwrite)
    old |= answers
    new = {TABLE, PAGE} | {name for case in scans.found.cases for name in _outputs(case, probability)} | new_answers
    for name in () if overwrite else sorted(masks):
        if not is_untouched(local_path(target, name)):
            raise _changed(target / name)
    for name in sorted(new - old):
        path = local_path(target, name)
        if path.exists() and not (RESULT.fullmatch(name) and (overwrite or is_untouched(path))):
            raise StepError(f"{target / name} exists, and make predict did not write it. {KEEP}")
    return old


def _answers(target: Path, scans: Input, overwrite: bool) -> tuple[set[str], set[str]]:
    """Return the answers in DICOM of earlier calls, and those of this call.

    Raises:
        StepError: one of an earlier call was changed since, without `overwrite`.
    """
    files = sorted((target / "dicom").rglob("*.dcm"))
    if not files and not scans.studies:
        return set(), set()
    from pipelines.dicom.answer import answer_names, is_ours, is_unchanged  # here, as in _segment

    ours = [path for path in files if is_ours(path)]
    for path in () if overwrite else ours:
        if not is_unchanged(path):
            raise _changed(path)
    new = {f"dicom/{case}/{name}" for case, study in scans.studies.items() for name in answer_names(study)}
    return {path.relative_to(target).as_posix() for path in ours}, new


def _changed(path: Path) -> StepError:
    return StepError(f"{path} was changed since make predict made it. {KEEP}")


def _say(rows: list[Row], found: Found, target: Path) -> None:
    refused = [row for row in rows if row.refused]
    for row in refused:
        logging.info("refused    %s: %s", row.case, row.refused)
    for row in rows:
        if row.noted:
            logging.info("noted      %s: %s", row.case, row.noted)
        if row.reasons:
            logging.info("review     %s: %s", row.case, row.reasons)
    if found.ignored:
        first = ", ".join(found.ignored[:3]) + (", ..." if len(found.ignored) > 3 else "")
        logging.info("left alone %d other files: %s", len(found.ignored), first)
    predicted = [row for row in rows if not row.refused]
    logging.info(
        "%d scan%s segmented (%d without a lesion, %d to be reviewed), %d refused: %s. Research use only.",
        len(predicted), "s" * (len(predicted) != 1), sum(row.words.startswith("no lesion") for row in predicted),
        sum(bool(row.reasons) for row in predicted), len(refused), target / PAGE,
    )  # fmt: skip
    if not predicted:
        raise StepError(
            f"no scan could be segmented, {len(refused)} refused (each named above). Mend them and run again."
        )
