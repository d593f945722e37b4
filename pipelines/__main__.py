"""Read the command line that the Makefile calls: python -m pipelines COMMAND."""

import argparse
import os
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from components.core.errors import StepError, disk_advice
from components.core.step import log_plainly, without_logins
from pipelines import commands
from pipelines.environment import settle_python
from pipelines.image_tags import ROOT
from pipelines.target_name import ALL, KIND, LOCAL, require_usable

STATE = Path(os.environ.get("STATE") or ROOT / ".local").expanduser().absolute()


def main() -> int:
    """Run a command, print its errors, and return the exit code."""
    log_plainly()
    arguments = _parser().parse_args()
    arguments.state = STATE
    if os.environ.get("STATE") and _belongs_to_others(STATE):
        print(f"\nSTATE={STATE} has other content. Name a new or an empty folder of your own.", file=sys.stderr)
        return 1
    with suppress(OSError):  # a command that needs the folder reports the error
        STATE.mkdir(mode=0o700, parents=True, exist_ok=True)
        STATE.chmod(0o700)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    arguments.pseudonym_key = os.environ.pop("PSEUDONYM_KEY", None)  # no program that we start may read it
    try:
        require_usable(arguments.target, arguments.usable)
        return arguments.call(arguments) or 0
    except StepError as error:
        print(f"\n{without_logins(str(error))}", file=sys.stderr)
        return 1
    except Exception as error:
        text = disk_advice(error) or traceback.format_exc()  # an error in our code: show its stack
        print(f"\n{without_logins(text)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped. Run the same command again to go on from here.", file=sys.stderr)
        return 130


def _belongs_to_others(folder: Path) -> bool:
    """Return whether a folder that is not empty was made by others: ours are open to their owner only."""
    with suppress(OSError):
        found = folder.stat()
        return (found.st_uid != os.getuid() or bool(found.st_mode & 0o077)) and any(folder.iterdir())
    return False


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pipelines", description=__doc__)
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(
        name: str, call: Callable[[argparse.Namespace], int | None], help_text: str, usable: tuple[str, ...] = ALL
    ) -> argparse.ArgumentParser:
        sub = subparsers.add_parser(name, help=help_text)
        sub.set_defaults(call=call, usable=usable)
        sub.add_argument("--target", default=LOCAL, help=" or ".join(usable))
        return sub

    def what_to_run(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("--data", default="", help="folder or s3://bucket/prefix; synthetic demo scans where empty")
        sub.add_argument("--preset", default="demo")
        sub.add_argument("--set", default="", help='settings over the preset: "epochs=5 base_channels=16"')
        sub.add_argument(
            "--start", default="", help="model to start from: models:/NAME/VERSION, models:/NAME@ALIAS, s3://"
        )
        series(sub)

    def series(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("--series", default="", help="numbers or UIDs of the DICOM series to take, where several fit")

    what_to_run(command("run", commands.run_pipeline, "run the pipeline"))
    comparing = command(
        "experiments", commands.run_experiments, "run the pipeline with several presets and seeds, and compare"
    )
    what_to_run(comparing)
    comparing.add_argument("--presets", default="", help="presets to compare, each on top of --preset")
    comparing.add_argument("--seeds", default="3", help="number of seeds, from random_seed on")
    logs = command("logs", commands.show_logs, "print the logs of the steps of a run")
    logs.add_argument("--run", default="", help="a run's name, or a KFP run id with --target; the last one where empty")
    logs.add_argument("--step", default="", help="one step; all where empty")
    logs.add_argument("--follow", default="", help="1 follows the run until it ends")
    logs.add_argument("--raw", default="", help="1 shows the lines of Argo and KFP in a pod's log too")
    schedule = command("schedule", commands.schedule_runs, "let a cluster run the pipeline on a schedule")
    schedule.add_argument("--cron", required=True)
    what_to_run(schedule)
    listing = command("schedules", commands.list_schedules, "list a cluster's schedules, or remove one")
    listing.add_argument("--remove", default="", help="id or name")
    listing.add_argument("--force", default="", help="1 also stops a run of the schedule that is under way")
    command("up", commands.show_mlflow, "start the embedded services", (LOCAL,))
    command("mlflow", commands.show_mlflow, "show a link with which a browser logs in to MLflow")
    command("down", commands.stop_services, "stop the embedded services", (LOCAL,))
    command("status", commands.show_status, "show whether the services run, and on a cluster what is running")
    compiling = command("compile", commands.compile_pipeline, "write the pipeline's IR YAML")
    compiling.add_argument("--output", type=Path, default=ROOT / "build" / "pipeline.yaml")
    command("kind-up", commands.start_kind, "make a local cluster with Kubeflow Pipelines and MLflow", (LOCAL, KIND))
    command("kind-down", commands.delete_kind, "delete the local cluster", (LOCAL, KIND))
    demo = command("demo-data", commands.make_demo_data, "make the synthetic scans", (LOCAL,))
    demo.add_argument("--folder", type=Path, default=STATE / "demo-scans")
    checking = command("check-data", commands.check_data, "show what would be ingested, without any change")
    checking.add_argument("--data", required=True)
    checking.add_argument("--preset", default="demo")
    checking.add_argument("--set", default="", help='settings of the data and the split: "b_value=800 test_ratio=0.2"')
    series(checking)
    predicting = command("predict", commands.predict, "segment a scan, or a folder of them, with a registered model")
    series(predicting)
    predicting.add_argument("--input", required=True)
    predicting.add_argument("--output", required=True)
    predicting.add_argument("--adc", default="", help="the scan's ADC map, for a model that needs one")
    predicting.add_argument("--model", default="models:/dwi-attention-unet@champion")
    predicting.add_argument("--overwrite", default="", help="1 also replaces masks that a person drew or changed")
    predicting.add_argument("--probability", default="", help="1 also writes the lesion probabilities")
    predicting.add_argument("--set", default="", help='only "modality_check=false" has an effect here')
    serving = command("serve", commands.serve_model, "answer over HTTP with a registered model")
    serving.add_argument("--model", default="models:/dwi-attention-unet@champion")
    serving.add_argument("--port", default="5001")
    packing = command("package", commands.make_package, "make an image that segments with a registered version")
    packing.add_argument("--model", default="models:/dwi-attention-unet@champion")
    packing.add_argument("--registry", default="", help="the registry and project that the image is named after")
    for loading in (predicting, serving, packing):
        loading.add_argument("--digest", default="", help="digest that confirms a model if the registry has none")
    promoting = command("promote", commands.promote_model, "make a version champion: a person's decision")
    promoting.add_argument("--model", required=True)
    promoting.add_argument("--reason", required=True)
    back = command("rollback", commands.roll_back, "make the earlier champion champion again")
    back.add_argument("--reason", default="")
    command("champion", commands.show_champion, "show which version is champion, and why")
    tracing = command("lineage", commands.show_lineage, "show what a version was made from, and hash it again")
    tracing.add_argument("--model", default="models:/dwi-attention-unet@champion")
    return parser


if __name__ == "__main__":
    settle_python()
    sys.exit(main())
