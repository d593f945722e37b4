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
    run_name: str,
    folds: int = 1,
) -> NamedTuple("Fingerprint", [("data_version", str), ("lineage", str)]):  # type: ignore[valid-type]  # KFP reads outputs here
    """Find the version of the data, and the split history that this run extends. Never cached.

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
        run_name: Name of this run in Kubeflow, for MLflow; empty if it is the id of the run.
        folds: Folds of the cross-validation; 1 for one split.
    """
    from components.core.run_name import write_name
    from components.core.step import step
    from components.fingerprint.fingerprint import fingerprint as run
    from components.fingerprint.fingerprint import history_to_extend

    with step("fingerprint"):
        if run_name:
            write_name(run_name)
        version = run(data_uri)
        ratios = (train_ratio, val_ratio, test_ratio)
        if not carry_split:
            return version, ""
        return version, history_to_extend(data_uri, version, ratios, random_seed, inputs, folds)
