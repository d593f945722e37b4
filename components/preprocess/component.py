from kfp import dsl
from kfp.dsl import Dataset, Input, Output


@dsl.component(base_image="dwi-stroke-python", install_kfp_package=False)
def preprocess(
    cases: Input[Dataset],
    image_size: int,
    pixel_mm: float,
    normalization: str,
    n4_bias_correction: bool,
    inputs: str,
    slices: Output[Dataset],
):
    """Bring every labelled scan to the model's grid, and normalise it.

    Args:
        cases: From ingest.
        image_size: Side of the square model grid, pixels.
        pixel_mm: Side of a pixel of the model grid, mm, with the head in the centre; 0 resizes the whole plane to the
            grid.
        normalization: Z-score per slice or per volume; or relative to the head: clipped to its range, 0 outside it.
        n4_bias_correction: Divide each scan by its estimated coil shading (N4) before anything else.
        inputs: Input of the network: three slices of the DWI, or of the DWI and of the ADC map.
        slices: Memory-mappable arrays per case, and index.json.
    """
    from pathlib import Path

    from components.core.step import step
    from components.preprocess.preprocess import preprocess as run

    with step("preprocess"):
        run(Path(cases.path), Path(slices.path), image_size, normalization, n4_bias_correction, inputs, pixel_mm)
