"""`make predict` of one scan: write its lesion mask, and print a line about it."""

import os
from pathlib import Path

from components.artifacts.synthetic import WARNING
from components.core.errors import StepError
from components.scans.volumes import BadVolume
from pipelines.atomic_write import write_bytes
from pipelines.predict.registered_model import RegisteredSegmenter
from pipelines.predict.results import is_untouched


def predict_scan(
    source: Path,
    adc: Path | None,
    target: Path,
    model: str,
    state: Path,
    probability: bool,
    modality_check: bool = True,
    overwrite: bool = False,
    place: str = "local",
    digest: str = "",
) -> None:
    """Write the lesion mask of the NIfTI file `source` to `target`, in the scan's own space.

    `adc` is its ADC map, for a model that needs one. With `probability` the lesion probabilities go beside the mask,
    `NAME_probability.nii.gz` for `NAME.nii.gz`. Without `modality_check`, a scan that looks like an ADC map or a b0
    image is segmented too. An existing file is replaced if it is a prediction that nobody changed, or with `overwrite`.

    Raises:
        StepError: an input is missing or not a scan, the output is not a NIfTI name or is a person's work, or the model
            does not exist.
    """
    if not source.is_file():
        raise StepError(
            f"INPUT={source} does not exist. Give a scan, make predict INPUT=scan.nii.gz OUTPUT=mask.nii.gz, "
            "or a folder of scans."
        )
    if adc and not adc.is_file():
        raise StepError(f"ADC={adc} is not a file. Give the scan's ADC map, or none.")
    if not source.name.lower().endswith((".nii", ".nii.gz")):
        raise StepError(
            f"INPUT={source} is not NIfTI. Give a .nii or .nii.gz file: a mask needs a scan's space. Of DICOM give the "
            "folder, or a zip."
        )
    if not target.name.endswith(".nii.gz"):
        raise StepError(f"OUTPUT={target} must end in .nii.gz.")
    beside = target.with_name(target.name.removesuffix(".nii.gz") + "_probability.nii.gz")
    for out in (target, beside) if probability else (target,):
        if out.resolve() in (source.resolve(), adc and adc.resolve()):
            raise StepError(f"{out} is an input: it would be overwritten. Name another OUTPUT.")
        if out.is_file() and not overwrite and not is_untouched(out):
            raise StepError(
                f"{out} exists, and is not a prediction, or was changed. Name another OUTPUT. To overwrite it, run "
                "again with OVERWRITE=1."
            )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StepError(f"OUTPUT={target}: its folder cannot be made ({error.strerror}). Name another.") from None
    if target.is_dir() or not os.access(target.parent, os.W_OK):
        raise StepError(f"OUTPUT={target} cannot be written. Name a file in a folder that is yours.")
    segmenter = RegisteredSegmenter(model, state, place, digest)
    if probability:
        segmenter.require_probabilities()
    if segmenter.sees_adc and not adc:
        raise StepError(f"{model} sees the ADC map too: make predict INPUT={source} ADC=adc.nii.gz OUTPUT=...")
    try:
        found = segmenter.segment(source, adc, probability=probability, modality_check=modality_check)
    except BadVolume as reason:
        raise StepError(f"INPUT={source}: {reason}") from None
    try:
        write_bytes(target, found.mask)
        if found.probability:
            write_bytes(beside, found.probability)
    except OSError as error:
        raise StepError(f"OUTPUT={target} cannot be written ({error.strerror}). Make room, or name another.") from None
    run = segmenter.model.metadata.run_id
    print(f"{target}: {found.volume} ({segmenter.uri}, MLflow run {run}). Research use only.")
    if segmenter.synthetic:
        print(f"This model {WARNING}.")
    for line in found.noted:
        print(f"Noted: {line}.")
    if found.review:
        print(f"Needs review: {found.review}.")
