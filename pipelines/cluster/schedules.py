"""`make pipeline-schedule` and `make pipeline-schedules`: runs that the cluster starts by the clock."""

import datetime
import re
import time
from pathlib import Path

from components.core.settings import Settings
from components.core.step import StepError
from components.registry.tracking import EXPERIMENT
from pipelines.cluster import argo_retries
from pipelines.cluster.api import Api
from pipelines.cluster.connect import TARGETS, connect
from pipelines.cluster.run_on_cluster import upload_pipeline
from pipelines.cluster.steps import OVER
from pipelines.cluster.storage import data_address

MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
DAYS = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"]
FIELDS = (
    ("second", 0, 59, []), ("minute", 0, 59, []), ("hour", 0, 23, []),
    ("day of the month", 1, 31, []), ("month", 1, 12, MONTHS), ("day of the week", 0, 6, DAYS),
)  # fmt: skip
SETTLE_SECONDS, POLL_SECONDS, STOP_SECONDS = 5, 2, 120
"""Until a run that was just being started is listed; between two looks; how long a run may take to stop."""
EXAMPLE = 'CRON="0 2 * * *" is every night at two, CRON="30 6 * * 1-5" on workdays at half past six'


def make_schedule(cron: str, target: str, data: str, preset: str, settings: Settings, state: Path) -> None:
    """Have the cluster run the pipeline by the clock.

    Raises:
        StepError: a cron string that cannot be, or what a run would raise.
    """
    require_cluster(target)
    six = six_fields(cron)
    with connect(target) as cluster:
        api, version, _ = upload_pipeline(cluster)
        data_uri = data_address(data, state, cluster)
        name = f"{datetime.datetime.now():%Y%m%d-%H%M%S}-{preset}"
        arguments = {"data_uri": data_uri, **settings.model_dump()}
        api.schedule(name, six, api.experiment(EXPERIMENT), version, arguments)
        print(f'schedule {name}: "{six}" (seconds first, as KFP has it), preset {preset}, data {data_uri}')
        print("The clock is the cluster's: UTC, unless its administrator set CRON_SCHEDULE_TIMEZONE.")
        if line := argo_retries.note(cluster.core, cluster.system_namespace):
            print(line)
        remove = f"make pipeline-schedules TARGET={target} REMOVE={name}"
        print(f"It runs this version of the code until it is removed: {remove}")


def schedules(target: str, remove: str, force: bool = False) -> None:
    """Print the schedules, or remove the one of this id or name; with `force` a run of it under way is stopped first.

    Raises:
        StepError: there is no such schedule, or one of its runs is under way.
    """
    require_cluster(target)
    with connect(target) as cluster:
        api = Api(cluster.kfp_url, kind=target == "kind")
        api.check()
        experiment = api.experiment(EXPERIMENT)
        found = api.schedules(experiment)
        if remove:
            _remove(api, experiment, _the_one(found, remove), force, f"TARGET={target} REMOVE={remove}")
            return
        if not found:
            print('no schedules. make pipeline-schedule CRON="0 2 * * *" makes one')
        for schedule in found:
            cron = schedule.trigger and schedule.trigger.cron_schedule and schedule.trigger.cron_schedule.cron
            data = ((schedule.runtime_config and schedule.runtime_config.parameters) or {}).get("data_uri", "")
            on = "" if schedule.status == "ENABLED" else f"  {(schedule.status or 'off').lower()}"
            print(f'{schedule.display_name}  "{cron or ""}"  {data}{on}  {schedule.recurring_run_id}')


def _the_one(found: list, wanted: str):
    matching = [s for s in found if wanted in (s.recurring_run_id, s.display_name)]
    if len(matching) != 1:
        names = ", ".join(f"{s.display_name} ({s.recurring_run_id})" for s in matching or found) or "none"
        problem = (
            f"there is no schedule '{wanted}'" if not matching else f"'{wanted}' is the name of several: give an id"
        )
        raise StepError(f"{problem}. Schedules: {names}.")
    return matching[0]


def _remove(api: Api, experiment: str, schedule, force: bool, arguments: str) -> None:
    """Kubernetes ends a schedule's runs with it, so it is removed only when none is under way."""
    api.pause_schedule(schedule.recurring_run_id)
    time.sleep(SETTLE_SECONDS)
    going = [run for run in api.runs_of_schedule(experiment, schedule.recurring_run_id) if run.state not in OVER]
    names = ", ".join(run.display_name for run in going)
    if going and not force:
        raise StepError(
            f"{schedule.display_name} is paused and starts no more runs, but it is not removed: {names} is under way, "
            f"and would be killed with it. When that run is over: make pipeline-schedules {arguments}. "
            "To stop the run now and remove both: the same with FORCE=1."
        )
    for run in going:
        _stop(api, run)
    api.remove_schedule(schedule.recurring_run_id)
    print(f"removed {schedule.display_name}{f'; stopped its run {names}' if going else ''}")


def _stop(api: Api, run) -> None:
    """Stop it and wait until it is over: KFP would show it as running for ever."""
    api.stop(run.run_id)
    deadline = time.monotonic() + STOP_SECONDS
    while api.run(run.run_id).state not in OVER:
        if time.monotonic() > deadline:
            raise StepError(
                f"{run.display_name} was told to stop, and has not in {STOP_SECONDS} s. Its schedule is paused, and "
                "not removed: run the same command again, or look at the run's pods."
            )
        time.sleep(POLL_SECONDS)


def require_cluster(target: str) -> None:
    if target not in TARGETS:
        raise StepError("a schedule is kept by a cluster: give TARGET=kind or TARGET=cluster.")


def six_fields(cron: str) -> str:
    """KFP's cron string, whose first field is the second, from one of five fields or of six.

    Raises:
        StepError: it is none, and which field is wrong.
    """
    fields = cron.split()
    if len(fields) not in (5, 6):
        raise StepError(f"CRON='{cron}' has {len(fields)} fields, not 5 (minute first) or 6 (second first). {EXAMPLE}.")
    fields = ["0", *fields][-6:]
    for field, (name, low, high, names) in zip(fields, FIELDS, strict=True):
        if not all(_is_part(part, low, high, names) for part in field.split(",")):
            words = f" or {names[0]} to {names[-1]}" if names else ""
            raise StepError(
                f"CRON='{cron}': '{field}' is no {name}. It takes {low} to {high}{words}, *, a-b, */n and lists with "
                f"commas. {EXAMPLE}."
            )
    return " ".join(fields)


def _is_part(part: str, low: int, high: int, names: list[str]) -> bool:
    match = re.fullmatch(r"(?:([*?])|(\w+)(?:-(\w+))?)(?:/([1-9]\d*))?", part)
    if not match:
        return False
    ends = [_number(end, low, names) for end in match.group(2, 3) if end]
    return all(end is not None and low <= end <= high for end in ends) and ends == sorted(ends)


def _number(text: str, low: int, names: list[str]) -> int | None:
    if text.lower() in names:
        return names.index(text.lower()) + low
    return int(text) if text.isdecimal() else None
