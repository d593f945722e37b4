from kfp import dsl
from kfp.dsl import HTML, Artifact, Dataset, Input, Output


@dsl.component(base_image="dwi-stroke-python", install_kfp_package=False)
def split(
    cases: Input[Dataset],
    train_ratio: float,
    val_ratio: float,
    test_ratio: float,
    random_seed: int,
    inputs: str,
    carry_split: bool,
    lineage: str,
    split: Output[Artifact],
    table: Output[HTML],
    folds: int = 1,
):
    """Assign patients, never slices, to train, validation and test, stratified by lesion volume.

    Args:
        cases: From ingest.
        train_ratio: Share of the patients for training.
        val_ratio: Share of the patients for validation: they choose the weights and the threshold.
        test_ratio: Share of the patients held out for the test.
        random_seed: Seed of the weights, the sampling, the augmentation, and the split of patients who have no subset
            yet.
        inputs: Input of the network: three slices of the DWI, or of the DWI and of the ADC map.
        carry_split: Keep each patient of earlier registered runs in its subset; false draws a new split, and then a
            fair comparison with the champion is impossible.
        lineage: Digest of the split history that this split extends, from fingerprint; empty for none.
        split: Patients and cases per subset, ratios asked and reached, split history (JSON).
        table: Page about the split.
        folds: Folds of a cross-validation, dealt instead of train, validation and test; 1 for one split.
    """
    from pathlib import Path

    from components.core.step import step
    from components.split.split import split as run

    with step("split"):
        ratios = (train_ratio, val_ratio, test_ratio)
        paths = Path(cases.path), Path(split.path), Path(table.path)
        run(*paths, ratios, random_seed, inputs, lineage, carry_split, folds)
