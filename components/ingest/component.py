from kfp import dsl
from kfp.dsl import HTML, Dataset, Output


@dsl.component(base_image="dwi-stroke-python", install_kfp_package=False)
def ingest(
    data_uri: str,
    data_version: str,
    parent: str,
    b_value: float,
    modality_check: bool,
    cases: Output[Dataset],
    report: Output[HTML],
):
    """Download and validate every scan; invalid ones are refused by name, the others are kept.

    Args:
        data_uri: s3://bucket/prefix of the scans.
        data_version: Digest of the data, from fingerprint.
        parent: Address of the model to start from and the digest of its weights, from fingerprint; its test scans are
            read too. Empty for random weights.
        b_value: b-value (s/mm²) of a DWI with a b0 whose files do not give it (.bval, sidecar); 0 takes 1000 and
            reports that.
        modality_check: Refuse a scan whose intensities look like an ADC map or a b0 image; false accepts it as a DWI.
        cases: Validated volumes without personal data, in one orientation; cases.json; the report; the same of the
            parent's test scans.
        report: Page about what was found, repaired and refused, with reasons.
    """
    from pathlib import Path

    from components.core.step import step
    from components.ingest.ingest import ingest as run
    from components.ingest.parent_tests import ingest_parent_tests

    with step("ingest"):
        settings = b_value, modality_check
        run(data_uri, data_version, Path(cases.path), Path(report.path), *settings)
        if parent:
            ingest_parent_tests(parent, Path(cases.path), *settings)
