from kfp import dsl
from kfp.dsl import Dataset, Input, Output


@dsl.component(base_image="dwi-stroke-python", install_kfp_package=False)
def preprocess(
    cases: Input[Dataset],
    image_size: int,
    normalization: str,
    n4_bias_correction: bool,
    inputs: str,
    pixel_mm: float,
    slices: Output[Dataset],
):
    """Bring every labelled scan to the model's grid, and normalise it.

    Args:
        cases: From ingest.
        image_size: Side of the square model grid, pixels.
        normalization: Z-score per "slice", per "volume", or measured against the "head".
        n4_bias_correction: Divide each scan by its estimated coil shading (N4) before anything else.
        inputs: What the network sees: three slices of the DWI, or of the DWI and of the ADC map.
        pixel_mm: Side of a pixel in millimetres, centred on the head; 0 resizes the whole plane.
        slices: Memory-mappable arrays per case, and index.json.
    """
    from pathlib import Path

    from components.core.step import step
    from components.preprocess.preprocess import preprocess as run

    with step("preprocess"):
        run(Path(cases.path), Path(slices.path), image_size, normalization, n4_bias_correction, inputs, pixel_mm)
