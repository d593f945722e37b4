"""The command line behind the Makefile: python -m pipelines COMMAND."""

import argparse
import os
import signal
import sys
import traceback
from contextlib import suppress
from pathlib import Path

from components.core.errors import disk_advice
from components.core.step import StepError, log_plainly, without_logins
from pipelines.environment import settle_python
from pipelines.image_tags import ROOT
from pipelines.target import ALL, KIND, LOCAL, require_usable

STATE = Path(os.environ.get("STATE") or ROOT / ".local").expanduser().absolute()


def main() -> int:
    log_plainly()
    arguments = _parser().parse_args()
    if os.environ.get("STATE") and _is_of_others(STATE):
        print(f"\nSTATE={STATE} holds other things. Name a new or an empty folder of your own.", file=sys.stderr)
        return 1
    with suppress(OSError):  # what needs it says so itself
        STATE.mkdir(mode=0o700, parents=True, exist_ok=True)
        STATE.chmod(0o700)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    arguments.pseudonym_key = os.environ.pop("PSEUDONYM_KEY", None)  # no program that is started here is to have it
    try:
        require_usable(arguments.target, arguments.usable)
        return arguments.call(arguments) or 0
    except StepError as error:
        print(f"\n{without_logins(str(error))}", file=sys.stderr)
        return 1
    except Exception as error:
        said = disk_advice(error) or traceback.format_exc()  # the rest is a fault of ours: its stack, for a report
        print(f"\n{without_logins(said)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped. Run the same command again to go on from here.", file=sys.stderr)
        return 130


def _is_of_others(folder: Path) -> bool:
    """Whether it was not made here: ours are their owner's alone, and another one is not to be closed to others."""
    with suppress(OSError):
        found = folder.stat()
        return (found.st_uid != os.getuid() or bool(found.st_mode & 0o077)) and any(folder.iterdir())
    return False


def _run(a) -> int | None:
    from pipelines.target import target

    return target(a.target).run(**_what_to_run(a), state=STATE)


def _experiments(a) -> int:
    from pipelines.experiments.run_experiments import experiments
    from pipelines.target import target

    data = _what_to_run(a)["data"]
    return experiments(a.presets.split(), a.seeds, a.preset, data, a.set, target(a.target), STATE)


def _what_to_run(a) -> dict:
    from pipelines import presets
    from pipelines.check_data import require_learnable

    settings, data = presets.load(a.preset, a.set), _data_to_upload(a)
    require_learnable(data, settings)
    return {"data": data, "preset": a.preset, "settings": settings}


def _data_to_upload(a) -> str:
    from pipelines.pseudonyms import require_key_if_used_before

    require_key_if_used_before(a.data, a.pseudonym_key, STATE)
    return _data(a)


def _data(a) -> str:
    from pipelines.pseudonyms import pseudonymized

    return pseudonymized(a.data, a.pseudonym_key, STATE)


def _logs(a) -> int:
    from pipelines.logs import pipeline_logs

    return pipeline_logs(a.run, a.step, a.follow not in ("", "0"), a.target, STATE, a.raw not in ("", "0"))


def _schedule(a) -> None:
    from pipelines.cluster.schedules import make_schedule

    make_schedule(a.cron, a.target, **_what_to_run(a), state=STATE)


def _schedules(a) -> None:
    from pipelines.cluster.schedules import schedules

    schedules(a.target, a.remove, a.force not in ("", "0"))


def _mlflow(a) -> None:
    from pipelines.mlflow_link import show_of

    show_of(a.target, STATE)


def _down(_) -> None:
    from pipelines.local import services

    services.down(STATE)


def _status(a) -> int:
    if a.target == LOCAL:
        from pipelines.local.services import status

        return 0 if status(STATE) else 1
    from pipelines.cluster.status import status as of_cluster

    return 0 if of_cluster(a.target) else 1


def _compile(a) -> None:
    from pipelines.cluster.kubernetes import compile_pipeline

    compile_pipeline(a.output)
    print(a.output)


def _kind_up(_) -> None:
    from pipelines.cluster import kind

    kind.up(STATE)


def _kind_down(_) -> None:
    from pipelines.cluster import kind

    kind.down(STATE)


def _demo_data(a) -> None:
    from pipelines.demo.scans import write_demo_scans

    write_demo_scans(a.folder)
    print(f"SYNTHETIC demo scans in {a.folder}")


def _check_data(a) -> int:
    from pipelines import presets
    from pipelines.check_data import check_data

    if not a.data:
        raise StepError("Which scans? make check-data DATA=folder, or DATA=s3://bucket/prefix.")
    settings = presets.load(a.preset, a.set)
    return check_data(_data(a), STATE, settings.b_value, settings.modality_check, a.target)


def _predict(a) -> None:
    from pipelines import presets
    from pipelines.predict.folder import predict_folder
    from pipelines.predict.scan import predict_scan

    if not a.input or not a.output:
        raise StepError("Which scan, and where to? make predict INPUT=scan.nii.gz OUTPUT=mask.nii.gz")
    source, target, probability = (
        Path(a.input).expanduser(),
        Path(a.output).expanduser(),
        a.probability not in ("", "0"),
    )
    asked = {
        "modality_check": presets.load("demo", a.set).modality_check,
        "overwrite": a.overwrite not in ("", "0"),
        "place": a.target,
        "digest": a.digest,
    }
    if not source.is_dir():
        adc = Path(a.adc).expanduser() if a.adc else None
        return predict_scan(source, adc, target, a.model, STATE, probability, **asked)
    if a.adc:
        raise StepError("ADC is for one scan; in a folder the ADC maps are found beside the DWI (NAME_adc.nii.gz).")
    predict_folder(source, target, a.model, STATE, probability, **asked)


def _serve(a) -> None:
    from pipelines.predict.serve import serve

    serve(a.model, a.port, STATE, a.target, a.digest)


def _promote(a) -> None:
    from pipelines.models.promotion import promote

    promote(a.model, a.reason, STATE, a.target)


def _rollback(a) -> None:
    from pipelines.models.promotion import rollback

    rollback(a.reason, STATE, a.target)


def _champion(a) -> int:
    from pipelines.models.promotion import champion

    return champion(STATE, a.target)


def _lineage(a) -> int:
    from pipelines.models.lineage import lineage

    return lineage(a.model, STATE, a.target)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pipelines", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, call, help_text: str, usable: tuple[str, ...] = ALL) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=help_text)
        sub.set_defaults(call=call, usable=usable)
        sub.add_argument("--target", default=LOCAL, help=" or ".join(usable))
        return sub

    def what_to_run(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("--data", default="", help="folder or s3://bucket/prefix; synthetic demo scans where empty")
        sub.add_argument("--preset", default="demo")
        sub.add_argument("--set", default="", help='settings over the preset: "epochs=5 base_channels=16"')

    what_to_run(command("run", _run, "run the pipeline"))
    comparing = command("experiments", _experiments, "run the pipeline with several presets and seeds, and compare")
    what_to_run(comparing)
    comparing.add_argument("--presets", default="", help="what to lay over --preset, each alone")
    comparing.add_argument("--seeds", default="3", help="how many, from random_seed on")
    logs = command("logs", _logs, "print what the steps of a run wrote")
    logs.add_argument("--run", default="", help="a run's name, or a KFP run id with --target; the last one where empty")
    logs.add_argument("--step", default="", help="one step; all where empty")
    logs.add_argument("--follow", default="", help="1 goes on until the run is over")
    logs.add_argument("--raw", default="", help="1 shows what Argo and KFP say in a pod's log too")
    schedule = command("schedule", _schedule, "have a cluster run the pipeline by the clock")
    schedule.add_argument("--cron", required=True)
    what_to_run(schedule)
    listing = command("schedules", _schedules, "list a cluster's schedules, or remove one")
    listing.add_argument("--remove", default="", help="id or name")
    listing.add_argument("--force", default="", help="1 stops a run of it that is under way")
    command("up", _mlflow, "start the embedded services", (LOCAL,))
    command("mlflow", _mlflow, "show a link that logs a browser in to MLflow")
    command("down", _down, "stop them", (LOCAL,))
    command("status", _status, "say whether the services run, and on a cluster what goes on")
    compiling = command("compile", _compile, "write the pipeline's IR YAML")
    compiling.add_argument("--output", type=Path, default=ROOT / "build" / "pipeline.yaml")
    command("kind-up", _kind_up, "make a local cluster with Kubeflow Pipelines and MLflow", (LOCAL, KIND))
    command("kind-down", _kind_down, "remove it", (LOCAL, KIND))
    demo = command("demo-data", _demo_data, "make the synthetic scans", (LOCAL,))
    demo.add_argument("--folder", type=Path, default=STATE / "demo-scans")
    checking = command("check-data", _check_data, "say what would be ingested, and change nothing")
    checking.add_argument("--data", required=True)
    checking.add_argument("--preset", default="demo")
    checking.add_argument(
        "--set", default="", help='of the settings b_value and modality_check count here: "b_value=800"'
    )
    predicting = command("predict", _predict, "segment a scan, or a folder of them, with a registered model")
    predicting.add_argument("--input", required=True)
    predicting.add_argument("--output", required=True)
    predicting.add_argument("--adc", default="", help="the scan's ADC map, for a model that needs one")
    predicting.add_argument("--model", default="models:/dwi-attention-unet@champion")
    predicting.add_argument("--overwrite", default="", help="1 replaces masks that a person drew or changed too")
    predicting.add_argument("--probability", default="", help="1 writes the lesion probabilities too")
    predicting.add_argument("--set", default="", help='of the settings "modality_check=false" counts here')
    serving = command("serve", _serve, "answer over HTTP with a registered model")
    serving.add_argument("--model", default="models:/dwi-attention-unet@champion")
    serving.add_argument("--port", default="5001")
    for loading in (predicting, serving):
        loading.add_argument("--digest", default="", help="digest of a model for which the registry has none")
    promoting = command("promote", _promote, "make a version champion: a person's decision")
    promoting.add_argument("--model", required=True)
    promoting.add_argument("--reason", required=True)
    back = command("rollback", _rollback, "go back to the champion before")
    back.add_argument("--reason", default="")
    command("champion", _champion, "say which version is champion, and why")
    tracing = command("lineage", _lineage, "what a version was made of, hashed again")
    tracing.add_argument("--model", default="models:/dwi-attention-unet@champion")
    return parser


if __name__ == "__main__":
    settle_python()
    sys.exit(main())
