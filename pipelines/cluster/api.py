"""The calls to the KFP API that a run takes, with retries, paging, and errors in words."""

import json
import logging
import os
import ssl
import time
import urllib.request
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import kfp_server_api as kfp
from urllib3.exceptions import HTTPError, LocationValueError, NameResolutionError

from components.core.loopback import is_here
from components.core.step import StepError
from components.core.storage import file_sha256
from pipelines.cluster.steps import OVER

RETRY_SECONDS, FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 90, 0.5, 10
TIMEOUT_SECONDS = (10, 60)  # to connect, to answer
PAGE, MOST_LOOKED_AT = 100, 200
WITHOUT_PLUGIN = {"mlflow": {"disabled": True}}
"""KFP's own MLflow plugin: the steps log to MLflow themselves, and the address that it has by default leads nowhere."""


class Gone(StepError):
    """The server does not answer any more, or not well, for longer than we wait."""


class Api:
    """KFP at `url`; KFP_TOKEN (a bearer token) or KFP_COOKIE opens it, REQUESTS_CA_BUNDLE names a CA of one's own.

    Every call raises `StepError` for what the user can mend, `Gone` when the server stayed away.
    """

    def __init__(self, url: str, kind: bool = False):
        self.url, self.kind = url, kind
        self.namespace: str | None = None
        configuration = kfp.Configuration(host=url)
        configuration.retries = False
        configuration.ssl_ca_cert = os.environ.get("REQUESTS_CA_BUNDLE") or None
        configuration.proxy = _proxy(url)
        if token := os.environ.get("KFP_TOKEN"):
            configuration.api_key, configuration.api_key_prefix = {"authorization": token}, {"authorization": "Bearer"}
        logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
        try:
            self._client = kfp.ApiClient(configuration, cookie=os.environ.get("KFP_COOKIE") or None)
        except (OSError, ssl.SSLError) as error:
            raise StepError(f"REQUESTS_CA_BUNDLE={configuration.ssl_ca_cert}: {error}") from error
        self._pipelines, self._uploads = (
            kfp.PipelineServiceApi(self._client),
            kfp.PipelineUploadServiceApi(self._client),
        )
        self._runs, self._experiments = kfp.RunServiceApi(self._client), kfp.ExperimentServiceApi(self._client)
        self._recurring = kfp.RecurringRunServiceApi(self._client)

    def check(self) -> None:
        """See that KFP answers, and whether it wants a namespace."""
        health = self._call(self._health, first=True)
        if health.get("multi_user"):
            self.namespace = os.environ.get("KFP_NAMESPACE")
            if not self.namespace:
                raise StepError(f"KFP at {self.url} is for many users: set KFP_NAMESPACE to your profile's namespace.")

    def _health(self, **options) -> dict:
        kfp.HealthzServiceApi(self._client).healthz_service_get_healthz(**options)
        health = json.loads(self._client.last_response.data)
        if not isinstance(health, dict) or (health and not health.keys() & {"multi_user", "apiServerReady"}):
            raise TypeError(health)
        if health.get("apiServerReady") is False:
            raise kfp.ApiException(status=503, reason="the page answers, but its API server (ml-pipeline) does not")
        return health

    def experiment(self, name: str) -> str:
        """The id of the experiment, made where it is not there yet."""

        def get_or_make(**options):
            space = {"namespace": self.namespace} if self.namespace else {}
            found = self._experiments.experiment_service_list_experiments(filter=_named(name), **space, **options)
            if found.experiments:
                return found.experiments[0]
            new = kfp.V2beta1Experiment(display_name=name, **space)
            return self._experiments.experiment_service_create_experiment(new, **options)

        return self._call(get_or_make).experiment_id

    def pipeline_version(
        self, name: str, compiled: Path, about: str
    ) -> tuple[kfp.V2beta1PipelineVersionReference, str, bool]:
        """The pipeline's version that is this file, its name, and whether it is new: only a change is uploaded.

        `about` is what Kubeflow's page says of a new version, and of the pipeline where that is new too.
        """
        version_name = file_sha256(compiled)[:16]
        pipeline_id = self._call(self._pipeline, name, about)

        def find(**options):
            listing = self._pipelines.pipeline_service_list_pipeline_versions
            for page in _pages(listing, pipeline_id, **options):
                for version in page.pipeline_versions or []:
                    if version_name in (version.name, version.display_name):
                        return version
            return None

        def upload(**options):
            told = {"name": version_name, "display_name": version_name, "description": about, "pipelineid": pipeline_id}
            return find(**options) or self._uploads.upload_pipeline_version(str(compiled), **told, **options)

        known = self._call(find)
        version = known or self._call(upload)
        reference = kfp.V2beta1PipelineVersionReference(pipeline_id, version.pipeline_version_id)
        return reference, version_name, known is None

    def _pipeline(self, name: str, about: str, **options) -> str:
        space = {"namespace": self.namespace} if self.namespace else {}
        found = self._pipelines.pipeline_service_list_pipelines(filter=_named(name), **space, **options)
        if found.pipelines:
            return found.pipelines[0].pipeline_id
        new = kfp.V2beta1Pipeline(name=name, display_name=name, description=about, **space)
        return self._pipelines.pipeline_service_create_pipeline(new, **options).pipeline_id

    def start(self, name: str, experiment: str, version, arguments: dict[str, Any]) -> kfp.V2beta1Run:
        """Start a run; asked again after a lost answer, it is not started twice."""

        def find_or_start(**options):
            space = {"namespace": self.namespace} if self.namespace else {}
            listing = self._runs.run_service_list_runs
            if found := listing(experiment_id=experiment, filter=_named(name), **space, **options).runs:
                return found[0]
            new = kfp.V2beta1Run(
                display_name=name, experiment_id=experiment, pipeline_version_reference=version,
                runtime_config=kfp.V2beta1RuntimeConfig(parameters=arguments), plugins_input=WITHOUT_PLUGIN,
            )  # fmt: skip
            return self._runs.run_service_create_run(new, **options)

        return self._call(find_or_start)

    def run(self, run_id: str) -> kfp.V2beta1Run:
        return self._call(self._runs.run_service_get_run, run_id)

    def going(self) -> list[kfp.V2beta1Run]:
        """The runs that are not over, among the newest MOST_LOOKED_AT of all pipelines there."""

        def newest(**options):
            space = {"namespace": self.namespace} if self.namespace else {}
            pages = _pages(self._runs.run_service_list_runs, sort_by="created_at desc", **space, **options)
            return list(islice((run for page in pages for run in page.runs or []), MOST_LOOKED_AT))

        return [run for run in self._call(newest) if run.state not in OVER]

    def stop(self, run_id: str) -> None:
        self._call(self._runs.run_service_terminate_run, run_id)

    def schedule(self, name: str, cron: str, experiment: str, version, arguments: dict[str, Any]) -> str:
        """The id of a new recurring run; it starts one run at a time and makes up for none that it missed."""

        def find_or_make(**options):
            listing = self._recurring.recurring_run_service_list_recurring_runs
            if found := listing(experiment_id=experiment, filter=_named(name), **options).recurring_runs:
                return found[0]
            new = kfp.V2beta1RecurringRun(
                display_name=name, experiment_id=experiment, pipeline_version_reference=version,
                runtime_config=kfp.V2beta1RuntimeConfig(parameters=arguments), mode=kfp.RecurringRunMode.ENABLE,
                trigger=kfp.V2beta1Trigger(cron_schedule=kfp.V2beta1CronSchedule(cron=cron)),
                max_concurrency="1", no_catchup=True, plugins_input=WITHOUT_PLUGIN,
            )  # fmt: skip
            return self._recurring.recurring_run_service_create_recurring_run(new, **options)

        return self._call(find_or_make).recurring_run_id

    def schedules(self, experiment: str) -> list[kfp.V2beta1RecurringRun]:
        def everything(**options):
            listing = self._recurring.recurring_run_service_list_recurring_runs
            pages = _pages(listing, experiment_id=experiment, **options)
            return [schedule for page in pages for schedule in page.recurring_runs or []]

        return self._call(everything)

    def pause_schedule(self, schedule_id: str) -> None:
        """Let it start no more runs."""
        self._call(self._recurring.recurring_run_service_disable_recurring_run, schedule_id)

    def runs_of_schedule(self, experiment: str, schedule_id: str) -> list[kfp.V2beta1Run]:
        """The runs that a schedule has started, the newest first."""

        def everything(**options):
            listing = self._runs.run_service_list_runs
            pages = _pages(listing, experiment_id=experiment, sort_by="created_at desc", **options)
            return [run for page in pages for run in page.runs or [] if run.recurring_run_id == schedule_id]

        return self._call(everything)

    def remove_schedule(self, schedule_id: str) -> None:
        """Remove it. Kubernetes then removes the Workflows of its runs too, and ends the pods of one under way."""
        self._call(self._recurring.recurring_run_service_delete_recurring_run, schedule_id)

    def _call(self, function: Callable, *arguments, first: bool = False):
        """The answer; a server's fault or a lost connection is tried again for RETRY_SECONDS.

        At the `first` call a refused connection is taken for a wrong address, at once.
        """
        deadline, pause = time.monotonic() + RETRY_SECONDS, FIRST_PAUSE_SECONDS
        while True:
            try:
                return function(*arguments, _request_timeout=TIMEOUT_SECONDS)
            except (kfp.ApiException, TypeError, ValueError, AttributeError) as raised:
                # the client itself trips over an answer that is no JSON, no text or nothing
                error = raised if isinstance(raised, kfp.ApiException) else raised.__context__
                if not isinstance(error, kfp.ApiException):
                    raise self._not_kfp() from raised
                if not (error.status == 429 or error.status >= 500):
                    raise self._in_words(error) from error
                problem = f"answers {error.status}: {_message(error)}"
            except HTTPError as error:
                if first or isinstance(error, LocationValueError | NameResolutionError):
                    advice = "make kind-up starts it." if self.kind else "Correct KFP_HOST, or start it."
                    raise StepError(f"no Kubeflow Pipelines at {self.url}: {_plain(error)}. {advice}") from error
                problem = f"does not answer: {_plain(error)}"
            if time.monotonic() + pause > deadline:
                raise Gone(f"Kubeflow Pipelines at {self.url} {problem} (tried for {RETRY_SECONDS:.0f} s).")
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    def _not_kfp(self) -> StepError:
        return StepError(
            f"what answers at {self.url} is not the KFP API. KFP_HOST is the address of KFP's own pages, such as "
            "https://kubeflow.example.org/pipeline (without #/...); behind a log-in, KFP_TOKEN or KFP_COOKIE too."
        )

    def _in_words(self, error: kfp.ApiException) -> StepError:
        if error.status == 0:
            return StepError(
                f"no secure connection to {self.url}: {_plain(error.reason)}. If a CA of your own signed its "
                "certificate, set REQUESTS_CA_BUNDLE to the CA's file (.pem)."
            )
        if error.status in (401, 403) or 300 <= error.status < 400:
            return StepError(self._refusal(error))
        if error.status == 404 and not _is_kfps(error):
            return self._not_kfp()
        return StepError(f"Kubeflow Pipelines at {self.url} says {error.status}: {_message(error)}")

    def _refusal(self, error: kfp.ApiException) -> str:
        given = next((name for name in ("KFP_TOKEN", "KFP_COOKIE") if os.environ.get(name)), None)
        what = "sends us to a log-in page" if error.status < 400 else f"refuses us ({error.status})"
        if not given:
            return f"{self.url} {what}: set KFP_TOKEN (a bearer token) or KFP_COOKIE (of a browser that is logged in)."
        said = _message(error) if error.status == 403 else ""
        right = ", or may not do this" if error.status == 403 else ""
        return f"{self.url} {what}: {given} is wrong or has expired{right}. {said}".rstrip()


def _pages(listing: Callable, *arguments, **options) -> Iterator[Any]:
    token = ""
    while token is not None:
        page = listing(*arguments, page_size=PAGE, page_token=token, **options)
        yield page
        token = page.next_page_token or None


def _named(name: str) -> str:
    return json.dumps({"predicates": [{"operation": 1, "key": "display_name", "stringValue": name}]})


def _body(error: kfp.ApiException) -> dict:
    try:
        body = json.loads(error.body or "")
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _is_kfps(error: kfp.ApiException) -> bool:
    return _body(error).keys() >= {"code", "message"}


def _message(error: kfp.ApiException) -> str:
    """What the server says, in a line."""
    body = _body(error)
    text = body.get("message") or body.get("error") or error.reason or "nothing"
    return " ".join(str(text).split())[:300]


def _plain(error: Exception | str) -> str:
    """The heart of an error of urllib3's, which begins with the connection's object."""
    return str(error).rpartition(">: ")[2].strip().replace("\n", " ")[:300]


def _proxy(url: str) -> str | None:
    parts = urlsplit(url)
    if is_here(url) or urllib.request.proxy_bypass(parts.netloc):
        return None
    return urllib.request.getproxies().get(parts.scheme)
