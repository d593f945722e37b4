"""`make pipeline-schedule` and `make pipeline-schedules`: runs that the cluster starts at set times."""

import datetime
import re
import time
from pathlib import Path

from components.core.errors import StepError
from components.core.settings import Settings
from components.registry.tracking import EXPERIMENT
from pipelines.cluster import argo_retries
from pipelines.cluster.api import Api
from pipelines.cluster.connect import TARGETS, connect
from pipelines.cluster.run_on_cluster import upload_pipeline
from pipelines.cluster.steps import OVER
from pipelines.cluster.storage import data_address

MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
DAYS = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"]
FIELDS: tuple[tuple[str, int, int, list[str]], ...] = (
    ("second", 0, 59, []), ("minute", 0, 59, []), ("hour", 0, 23, []),
    ("day of the month", 1, 31, []), ("month", 1, 12, MONTHS), ("day of the week", 0, 6, DAYS),
)  # fmt: skip
SETTLE_SECONDS, POLL_SECONDS, STOP_SECONDS = 5, 2, 120
"""Until a run that was just started is listed; between two checks; for a run to stop."""
EXAMPLE = 'CRON="0 2 * * *" is every night at two, CRON="30 6 * * 1-5" on workdays at half past six'


def make_schedule(cron: str, target: str, data: str, preset: str, settings: Settings, state: Path) -> None:
    """Schedule runs of the pipeline on the cluster.

    Raises:
        StepError: the cron string is invalid, or the cluster does not take the schedule.
    """
    require_cluster(target)
    six = six_fields(cron)
    with connect(target) as cluster:
        api, version, _ = upload_pipeline(cluster)
        data_uri = data_address(data, state, cluster)
        name = f"{datetime.datetime.now():%Y%m%d-%H%M%S}-{preset}"
        arguments = {"data_uri": data_uri, **settings.model_dump()}
        api.schedule(name, six, api.experiment(EXPERIMENT), version, arguments)
        print(f'schedule {name}: "{six}" (the first field is the second), preset {preset}, data {data_uri}')
        print("The clock is the cluster's: UTC, unless its administrator set CRON_SCHEDULE_TIMEZONE.")
        if line := argo_retries.note(cluster.core, cluster.system_namespace):
            print(line)
        remove = f"make pipeline-schedules TARGET={target} REMOVE={name}"
        print(f"It runs this version of the code until you remove it: {remove}")


def schedules(target: str, remove: str, force: bool = False) -> None:
    """Print the schedules, or remove the one with this id or name; with `force`, stop its open run first.

    Raises:
        StepError: the schedule does not exist, or one of its runs is open.
    """
    require_cluster(target)
    with connect(target) as cluster:
        api = Api(cluster.kfp_url, kind=target == "kind")
        api.check()
        experiment = api.experiment(EXPERIMENT)
        found = api.schedules(experiment)
        if remove:
            _remove(api, experiment, _find(found, remove), force, f"TARGET={target} REMOVE={remove}")
            return
        if not found:
            print('no schedules. make pipeline-schedule CRON="0 2 * * *" makes one')
        for schedule in found:
            cron = schedule.trigger and schedule.trigger.cron_schedule and schedule.trigger.cron_schedule.cron
            data = ((schedule.runtime_config and schedule.runtime_config.parameters) or {}).get("data_uri", "")
            on = "" if schedule.status == "ENABLED" else f"  {(schedule.status or 'off').lower()}"
            print(f'{schedule.display_name}  "{cron or ""}"  {data}{on}  {schedule.recurring_run_id}')


def _find(found: list, wanted: str):
    matching = [s for s in found if wanted in (s.recurring_run_id, s.display_name)]
    if len(matching) != 1:
        names = ", ".join(f"{s.display_name} ({s.recurring_run_id})" for s in matching or found) or "none"
        problem = (
            f"there is no schedule '{wanted}'" if not matching else f"'{wanted}' is the name of several: give an id"
        )
        raise StepError(f"{problem}. Schedules: {names}.")
    return matching[0]


def _remove(api: Api, experiment: str, schedule, force: bool, arguments: str) -> None:
    """Remove a schedule that has no open run: Kubernetes would end that run with it."""
    api.pause_schedule(schedule.recurring_run_id)
    time.sleep(SETTLE_SECONDS)
    open_runs = [run for run in api.runs_of_schedule(experiment, schedule.recurring_run_id) if run.state not in OVER]
    names = ", ".join(run.display_name for run in open_runs)
    if open_runs and not force:
        raise StepError(
            f"{schedule.display_name} is paused and starts no more runs, but it is not removed: its run {names} is "
            f"open, and would be killed with it. When that run is over: make pipeline-schedules {arguments}. "
            "To stop the run now and remove both: the same with FORCE=1."
        )
    for run in open_runs:
        _stop(api, run)
    api.remove_schedule(schedule.recurring_run_id)
    print(f"removed {schedule.display_name}{f'; stopped its run {names}' if open_runs else ''}")


def _stop(api: Api, run) -> None:
    """Stop a run and wait until it is over; otherwise KFP would always show it as running."""
    api.stop(run.run_id)
    deadline = time.monotonic() + STOP_SECONDS
    while api.run(run.run_id).state not in OVER:
        if time.monotonic() > deadline:
            raise StepError(
                f"{run.display_name} did not stop within {STOP_SECONDS} s. Its schedule is paused, but "
                "not removed: run the same command again, or look at the run's pods."
            )
        time.sleep(POLL_SECONDS)


def require_cluster(target: str) -> None:
    """Raise StepError where the target is not a cluster."""
    if target not in TARGETS:
        raise StepError("only a cluster has schedules: set TARGET=kind or TARGET=cluster.")


def six_fields(cron: str) -> str:
    """Return KFP's cron string, whose first field is the second, from a string of five or six fields.

    Raises:
        StepError: the string is invalid; with the wrong field.
    """
    fields = cron.split()
    if len(fields) not in (5, 6):
        raise StepError(f"CRON='{cron}' has {len(fields)} fields, not 5 (minute first) or 6 (second first). {EXAMPLE}.")
    fields = ["0", *fields][-6:]
    for field, (name, low, high, names) in zip(fields, FIELDS, strict=True):
        if not all(_is_part(part, low, high, names) for part in field.split(",")):
            also = f" or {names[0]} to {names[-1]}" if names else ""
            raise StepError(
                f"CRON='{cron}': '{field}' is not a valid {name}. Valid are {low} to {high}{also}, *, a-b, */n and "
                f"lists with commas. {EXAMPLE}."
            )
    return " ".join(fields)


def _is_part(part: str, low: int, high: int, names: list[str]) -> bool:
    match = re.fullmatch(r"(?:([*?])|(\w+)(?:-(\w+))?)(?:/([1-9]\d*))?", part)
    if not match:
        return False
    texts = [text for text in match.group(2, 3) if text]
    ends = [number for text in texts if (number := _number(text, low, names)) is not None and low <= number <= high]
    return len(ends) == len(texts) and ends == sorted(ends)


def _number(text: str, low: int, names: list[str]) -> int | None:
    if text.lower() in names:
        return names.index(text.lower()) + low
    return int(text) if text.isdecimal() else None
