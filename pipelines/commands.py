"""Run each command of the command line. A command imports what it needs itself, so that every command starts fast."""

from argparse import Namespace
from pathlib import Path
from typing import Any

from components.core.errors import StepError
from pipelines.target_name import LOCAL

FINE_TUNE = "fine-tune"
"""The preset that START adds."""


def run_pipeline(arguments: Namespace) -> int | None:
    from pipelines.target import target

    return target(arguments.target).run(**_what_to_run(arguments), state=arguments.state)


def run_experiments(arguments: Namespace) -> int:
    from pipelines.experiments.run_experiments import experiments
    from pipelines.target import target

    if arguments.start:
        arguments.start = _fixed(arguments.start, arguments)
    what = _what_to_run(arguments)
    return experiments(
        arguments.presets.split(),
        arguments.seeds,
        what["preset"],
        what["data"],
        _assignments(arguments),
        target(arguments.target),
        arguments.state,
    )


def _what_to_run(arguments: Namespace) -> dict:
    from pipelines import presets
    from pipelines.check_data import require_learnable

    preset = arguments.preset
    if arguments.start and FINE_TUNE not in preset.split("+"):
        preset = f"{preset}+{FINE_TUNE}"
    settings, data = presets.load(preset, _assignments(arguments)), _data_to_upload(arguments)
    require_learnable(data, settings)
    return {"data": data, "preset": preset, "settings": settings}


def _fixed(start: str, arguments: Namespace) -> str:
    """Return the address of the version that `start` names now: the runs may move an alias."""
    from components.registry.parent import address_of, find_parent
    from pipelines.target import target

    with target(arguments.target).services(arguments.state):
        return address_of(find_parent(start))


def _assignments(arguments: Namespace) -> str:
    return f"{arguments.set} start={arguments.start}" if arguments.start else arguments.set


def _data_to_upload(arguments: Namespace) -> str:
    from pipelines.pseudonyms import require_key_if_used_before

    data = _as_nifti(arguments)
    require_key_if_used_before(data, arguments.pseudonym_key, arguments.state)
    return _pseudonymized(data, arguments)


def _as_nifti(arguments: Namespace) -> str:
    from pipelines.dicom.dicom_files import holds_dicom

    is_remote = not arguments.data or arguments.data.startswith("s3://")
    if not arguments.series and (is_remote or not holds_dicom(Path(arguments.data).expanduser())):
        return arguments.data
    from pipelines.dicom.data_set import as_nifti  # it loads pydicom and dcm2niix

    return as_nifti(arguments.data, arguments.series, arguments.state, arguments.pseudonym_key is not None)


def _pseudonymized(data: str, arguments: Namespace) -> str:
    from pipelines.pseudonyms import pseudonymized

    return pseudonymized(data, arguments.pseudonym_key, arguments.state)


def show_logs(arguments: Namespace) -> int:
    from pipelines.logs import pipeline_logs

    return pipeline_logs(
        arguments.run,
        arguments.step,
        _is_on(arguments.follow),
        arguments.target,
        arguments.state,
        _is_on(arguments.raw),
    )


def schedule_runs(arguments: Namespace) -> None:
    from pipelines.cluster.schedules import make_schedule

    make_schedule(arguments.cron, arguments.target, **_what_to_run(arguments), state=arguments.state)


def list_schedules(arguments: Namespace) -> None:
    from pipelines.cluster.schedules import schedules

    schedules(arguments.target, arguments.remove, _is_on(arguments.force))


def show_mlflow(arguments: Namespace) -> None:
    from pipelines.mlflow_command import show_for_target

    show_for_target(arguments.target, arguments.state)


def stop_services(arguments: Namespace) -> None:
    from pipelines.local import services

    services.down(arguments.state)


def show_status(arguments: Namespace) -> int:
    if arguments.target == LOCAL:
        from pipelines.local.services import status

        return 0 if status(arguments.state) else 1
    from pipelines.cluster.status import status as of_cluster

    return 0 if of_cluster(arguments.target) else 1


def compile_pipeline(arguments: Namespace) -> None:
    from pipelines.cluster import kubernetes

    kubernetes.compile_pipeline(arguments.output)
    print(arguments.output)


def start_kind(arguments: Namespace) -> None:
    from pipelines.cluster import kind

    kind.up(arguments.state)


def delete_kind(arguments: Namespace) -> None:
    from pipelines.cluster import kind

    kind.down(arguments.state)


def make_demo_data(arguments: Namespace) -> None:
    from pipelines.demo.scans import write_demo_scans

    write_demo_scans(arguments.folder)
    print(f"SYNTHETIC demo scans in {arguments.folder}")


def check_data(arguments: Namespace) -> int:
    from pipelines import check_data as checking
    from pipelines import presets

    if not arguments.data:
        raise StepError("DATA is missing: make check-data DATA=folder, or DATA=s3://bucket/prefix.")
    settings = presets.load(arguments.preset, arguments.set)
    data = _pseudonymized(_as_nifti(arguments), arguments)
    return checking.check_data(data, arguments.state, settings, arguments.target)


def predict(arguments: Namespace) -> None:
    from pipelines import presets
    from pipelines.predict.open_input import is_zip
    from pipelines.predict.registered_model import predict_folder
    from pipelines.predict.scan import predict_scan

    if not arguments.input or not arguments.output:
        raise StepError("INPUT or OUTPUT is missing: make predict INPUT=scan.nii.gz OUTPUT=mask.nii.gz")
    source, output = Path(arguments.input).expanduser(), Path(arguments.output).expanduser()
    probability = _is_on(arguments.probability)
    options: dict[str, Any] = {
        "modality_check": presets.load("demo", arguments.set).modality_check,
        "overwrite": _is_on(arguments.overwrite),
        "place": arguments.target,
        "digest": arguments.digest,
    }
    if not source.is_dir() and not is_zip(source):
        if arguments.series:
            raise StepError("SERIES chooses among DICOM series. Give a folder or a zip of DICOM files as INPUT.")
        adc = Path(arguments.adc).expanduser() if arguments.adc else None
        return predict_scan(source, adc, output, arguments.model, arguments.state, probability, **options)
    if arguments.adc:
        raise StepError(
            "ADC is for one scan. In a folder, ADC maps are found beside the DWI by their name (NAME_adc.nii.gz)."
        )
    options["series"] = arguments.series
    predict_folder(source, output, arguments.model, arguments.state, probability, **options)


def serve_model(arguments: Namespace) -> None:
    from pipelines.predict.serve import serve

    serve(arguments.model, arguments.port, arguments.state, arguments.target, arguments.digest)


def make_package(arguments: Namespace) -> None:
    from pipelines.predict.package import package

    package(arguments.model, arguments.state, arguments.registry, arguments.target, arguments.digest)


def promote_model(arguments: Namespace) -> None:
    from pipelines.models.promotion import promote

    promote(arguments.model, arguments.reason, arguments.state, arguments.target)


def roll_back(arguments: Namespace) -> None:
    from pipelines.models.promotion import rollback

    rollback(arguments.reason, arguments.state, arguments.target)


def show_champion(arguments: Namespace) -> int:
    from pipelines.models.promotion import champion

    return champion(arguments.state, arguments.target)


def show_lineage(arguments: Namespace) -> int:
    from pipelines.models.lineage import lineage

    return lineage(arguments.model, arguments.state, arguments.target)


def _is_on(value: str) -> bool:
    """Return whether a make variable is set, as in FOLLOW=1."""
    return value not in ("", "0")
