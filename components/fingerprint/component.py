from typing import NamedTuple

from kfp import dsl


@dsl.component(base_image="dwi-stroke-python", install_kfp_package=False)
def fingerprint(
    data_uri: str,
    train_ratio: float,
    val_ratio: float,
    test_ratio: float,
    random_seed: int,
    inputs: str,
    carry_split: bool,
    start: str,
    run_name: str,
    folds: int = 1,
) -> NamedTuple("Fingerprint", [("data_version", str), ("lineage", str), ("parent", str)]):  # type: ignore[valid-type]  # outputs for KFP
    """Find the version of the data, the split history that this run extends, and the model to start from. Never cached.

    Args:
        data_uri: s3://bucket/prefix of the scans.
        train_ratio: Share of the patients for training.
        val_ratio: Share of the patients for validation: they choose the weights and the threshold.
        test_ratio: Share of the patients held out for the test.
        random_seed: Seed of the weights, the sampling, the augmentation, and the split of patients who have no subset
            yet.
        inputs: Input of the network: three slices of the DWI, or of the DWI and of the ADC map.
        carry_split: Keep each patient of earlier registered runs in its subset; false draws a new split, and then a
            fair comparison with the champion is impossible.
        start: Model to start from: models:/NAME/VERSION, models:/NAME@ALIAS or s3://bucket/prefix; empty starts at
            random.
        run_name: Name of this run in Kubeflow, for MLflow; empty if it is the id of the run.
        folds: Folds of the cross-validation; 1 for one split.
    """
    from components.core.run_name import write_name
    from components.core.step import step
    from components.fingerprint.fingerprint import fingerprint as run
    from components.fingerprint.fingerprint import history_to_extend
    from components.registry.parent import find_parent

    with step("fingerprint"):
        if run_name:
            write_name(run_name)
        version = run(data_uri)
        ratios = (train_ratio, val_ratio, test_ratio)
        history = history_to_extend(data_uri, version, ratios, random_seed, inputs, folds) if carry_split else ""
        return version, history, find_parent(start)
