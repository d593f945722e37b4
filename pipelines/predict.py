"""`make predict`: one scan through a registered model."""

import os
import tempfile
from pathlib import Path

from components.core.step import StepError


def predict(source: Path, adc: Path | None, target: Path, model: str, state: Path) -> None:
    """Write the lesion mask of the NIfTI file `source` to `target`, in the scan's own space.

    `adc` is its ADC map, for a model that needs one.

    Raises:
        StepError: an input is not there or not a scan, the output is no NIfTI name, or there is no such model.
    """
    if not source.is_file():
        raise StepError(f"INPUT={source} is not a file. Give a scan: make predict INPUT=scan.nii.gz OUTPUT=mask.nii.gz")
    if adc and not adc.is_file():
        raise StepError(f"ADC={adc} is not a file. Give the scan's ADC map, or none.")
    if not source.name.lower().endswith((".nii", ".nii.gz")):
        raise StepError(f"INPUT={source} is not NIfTI. Give a .nii or .nii.gz file: a mask needs a scan's space.")
    if not target.name.endswith(".nii.gz"):
        raise StepError(f"OUTPUT={target} must end in .nii.gz.")
    if target.resolve() == source.resolve():
        raise StepError("OUTPUT is INPUT: the scan would be overwritten. Name another file.")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StepError(f"OUTPUT={target}: its folder cannot be made ({error.strerror}). Name another.") from None
    if target.is_dir() or not os.access(target.parent, os.W_OK):
        raise StepError(f"OUTPUT={target} cannot be written. Name a file in a folder that is yours.")
    from pipelines.local.target import use_services

    use_services(state)
    import mlflow
    import pandas as pd
    from mlflow.exceptions import MlflowException

    try:
        with tempfile.TemporaryDirectory() as folder:
            segmenter = mlflow.pyfunc.load_model(model, dst_path=folder)
            version = segmenter.metadata.run_id
            scan = {"scan": [source.read_bytes()]}
            if "adc" in segmenter.metadata.get_input_schema().input_names():
                if not adc:
                    raise StepError(
                        f"{model} sees the ADC map too: make predict INPUT={source} ADC=adc.nii.gz OUTPUT=..."
                    )
                scan["adc"] = [adc.read_bytes()]
            try:
                out = segmenter.predict(pd.DataFrame(scan))
            except Exception as error:
                if type(error).__name__ == "BadVolume":
                    raise StepError(f"INPUT={source}: {error}") from None
                raise
    except MlflowException as error:
        raise StepError(
            f"no model {model}: {str(error)[:200]}. Run make pipeline-run first, or name another: "
            "MODEL=models:/dwi-attention-unet/1."
        ) from None
    part = target.with_name(target.name + ".part")
    part.write_bytes(out["mask"][0])
    part.rename(target)
    print(f"{target}: {out['lesion_ml'][0]:.2f} mL of lesion ({model}, MLflow run {version}). Research use only.")
