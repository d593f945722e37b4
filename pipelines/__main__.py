"""The command line behind the Makefile: python -m pipelines COMMAND."""

import argparse
import logging
import signal
import sys
from pathlib import Path

from components.core.step import StepError
from pipelines.sources import ROOT

STATE = ROOT / ".local"


def main() -> int:
    arguments = _parser().parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    for noisy in ("botocore", "boto3", "s3transfer", "urllib3", "mlflow", "alembic", "matplotlib"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    from pipelines.local.services import ServiceError

    try:
        return arguments.call(arguments) or 0
    except (StepError, ServiceError) as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped. Run the same command again to go on from here.", file=sys.stderr)
        return 130


def _run(a) -> None:
    from pipelines import presets
    from pipelines.local.target import pipeline_run, require_local

    require_local(a.target)
    pipeline_run(a.data, a.preset, presets.load(a.preset, a.set), STATE)


def _up(_) -> None:
    from pipelines.local import services

    services.up(STATE)


def _down(_) -> None:
    from pipelines.local import services

    services.down(STATE)


def _status(_) -> int:
    from pipelines.local import services

    return 0 if services.status(STATE) else 1


def _compile(a) -> None:
    from pipelines.cluster.kubernetes import Cluster
    from pipelines.pipeline import STEPS, compile_to

    cluster = Cluster.from_environment()
    a.output.parent.mkdir(parents=True, exist_ok=True)
    compile_to(a.output, {step: cluster.image(step) for step in STEPS}, cluster.equip)
    print(a.output)


def _demo_data(a) -> None:
    from pipelines.demo.scans import write_demo_scans

    write_demo_scans(a.folder)
    print(f"SYNTHETIC demo scans in {a.folder}")


def _check_data(a) -> int:
    from pipelines.check_data import check_data

    if not a.data:
        raise StepError("Which scans? make check-data DATA=folder, or DATA=s3://bucket/prefix.")
    return check_data(a.data, STATE)


def _predict(a) -> None:
    from pipelines.predict import predict

    if not a.input or not a.output:
        raise StepError("Which scan, and where to? make predict INPUT=scan.nii.gz OUTPUT=mask.nii.gz")
    predict(Path(a.input).expanduser(), Path(a.output).expanduser(), a.model, STATE)


def _promote(a) -> None:
    from pipelines.promotion import promote

    promote(a.model, a.reason, STATE)


def _rollback(a) -> None:
    from pipelines.promotion import rollback

    rollback(a.reason, STATE)


def _champion(_) -> int:
    from pipelines.promotion import champion

    return champion(STATE)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pipelines", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, call, help_text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=help_text)
        sub.set_defaults(call=call)
        return sub

    run = command("run", _run, "run the pipeline")
    run.add_argument("--data", default="", help="folder or s3://bucket/prefix; synthetic demo scans where empty")
    run.add_argument("--preset", default="demo")
    run.add_argument("--set", default="", help='settings over the preset: "epochs=5 base_channels=16"')
    run.add_argument("--target", default="local")
    command("up", _up, "start the embedded services")
    command("down", _down, "stop them")
    command("status", _status, "say whether they run")
    compiling = command("compile", _compile, "write the pipeline's IR YAML")
    compiling.add_argument("--output", type=Path, default=ROOT / "build" / "pipeline.yaml")
    demo = command("demo-data", _demo_data, "make the synthetic scans")
    demo.add_argument("--folder", type=Path, default=STATE / "demo-scans")
    checking = command("check-data", _check_data, "say what would be ingested, and change nothing")
    checking.add_argument("--data", required=True)
    predicting = command("predict", _predict, "segment one scan with a registered model")
    predicting.add_argument("--input", required=True)
    predicting.add_argument("--output", required=True)
    predicting.add_argument("--model", default="models:/dwi-attention-unet@champion")
    promoting = command("promote", _promote, "make a version champion: a person's decision")
    promoting.add_argument("--model", required=True)
    promoting.add_argument("--reason", required=True)
    back = command("rollback", _rollback, "go back to the champion before")
    back.add_argument("--reason", default="")
    command("champion", _champion, "say which version is champion, and why")
    return parser


if __name__ == "__main__":
    sys.exit(main())
