from kfp import dsl


@dsl.component(base_image="dwi-stroke-python", install_kfp_package=False)
def fingerprint(data_uri: str) -> str:
    """What is under the data URI: one digest over every key, size and ETag. Never cached.

    Args:
        data_uri: s3://bucket/prefix of the scans.
    """
    from components.core.step import step
    from components.fingerprint.fingerprint import fingerprint as run

    with step("fingerprint"):
        return run(data_uri)
