"""Which of ingest's cases can be learnt from."""

import json
import logging
from pathlib import Path

from components.core.step import StepError

LESION_PATIENTS_NEEDED = 3
REPORT = "data_report.html"
"""The data report beside cases.json, for the MLflow runs of later steps."""


def learnable(cases: Path, inputs: str) -> list[dict]:
    """The labelled cases of `cases/cases.json` that have all that the network is to see (`inputs`).

    Raises:
        StepError: too few patients with a lesion and an ADC map are left.
    """
    labelled = [c for c in json.loads((cases / "cases.json").read_text())["cases"] if c["labelled"]]
    if inputs == "dwi":
        return labelled
    usable = [c for c in labelled if "adc" in c["files"]]
    for case in labelled:
        if "adc" not in case["files"]:
            logging.info("refused    %s: no ADC map and no b0 to compute it from, and inputs=%s", case["case"], inputs)
    if len(patients := {c["patient"] for c in usable if c["lesion_voxels"]}) < LESION_PATIENTS_NEEDED:
        raise StepError(
            f"inputs={inputs} needs {LESION_PATIENTS_NEEDED} labelled patients with a lesion and an ADC map (one each "
            f"to train, to validate and to test), {len(patients)} found: {len(labelled) - len(usable)} of "
            f"{len(labelled)} labelled scans have none (each named above). Add sub-X_ses-Y_adc.nii.gz or _b0.nii.gz "
            "beside the DWI, or learn from the DWI alone: inputs=dwi."
        )
    return usable
