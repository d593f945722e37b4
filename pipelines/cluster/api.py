"""The calls to the KFP API that a run needs, with retries, paging, and errors that name the remedy."""

import json
import logging
import os
import ssl
import urllib.request
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import kfp_server_api as kfp
from urllib3.exceptions import HTTPError, LocationValueError, NameResolutionError

from components.core.errors import StepError
from components.core.loopback import is_here
from components.core.retry import retry
from components.core.storage import file_sha256
from pipelines.cluster.steps import OVER
from pipelines.cluster.timeouts import TIMEOUT_SECONDS

RETRY_SECONDS, FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 90, 0.5, 10
PAGE_SIZE, NEWEST_RUNS = 100, 200
WITHOUT_PLUGIN = {"mlflow": {"disabled": True}}
"""Disables KFP's own MLflow plugin: the steps log to MLflow themselves, and its default address does not exist."""


class NoAnswer(StepError):
    """The server does not answer, or answers with its own errors, for longer than we wait."""


class Api:
    """KFP at `url`, with the login in KFP_TOKEN (a bearer token) or KFP_COOKIE, and your own CA in REQUESTS_CA_BUNDLE.

    Every call raises `StepError` for a problem that the user can solve, `NoAnswer` where the server does not answer.
    """

    def __init__(self, url: str, kind: bool = False) -> None:
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
        """Check that KFP answers, and read the namespace where it has several users."""
        health = self._call(self._health, first=True)
        if health.get("multi_user"):
            self.namespace = os.environ.get("KFP_NAMESPACE")
            if not self.namespace:
                raise StepError(
                    f"KFP at {self.url} has several users: set KFP_NAMESPACE to the namespace of your profile."
                )

    def _health(self, **options) -> dict:
        kfp.HealthzServiceApi(self._client).healthz_service_get_healthz(**options)
        health = json.loads(self._client.last_response.data)
        if not isinstance(health, dict) or (health and not health.keys() & {"multi_user", "apiServerReady"}):
            raise TypeError(health)
        if health.get("apiServerReady") is False:
            raise kfp.ApiException(status=503, reason="the pages answer, but the API server (ml-pipeline) does not")
        return health

    def experiment(self, name: str) -> str:
        """Return the id of the experiment; create it where it is missing."""

        def get_or_create(**options):
            space = {"namespace": self.namespace} if self.namespace else {}
            found = self._experiments.experiment_service_list_experiments(filter=_named(name), **space, **options)
            if found.experiments:
                return found.experiments[0]
            new = kfp.V2beta1Experiment(display_name=name, **space)
            return self._experiments.experiment_service_create_experiment(new, **options)

        return self._call(get_or_create).experiment_id

    def pipeline_version(
        self, name: str, compiled: Path, description: str
    ) -> tuple[kfp.V2beta1PipelineVersionReference, str, bool]:
        """Return the pipeline's version for this file, its name, and whether it is new; upload it only if it is.

        Kubeflow's page shows `description` beside a new version, and beside the pipeline where that is new too.
        """
        version_name = file_sha256(compiled)[:16]
        pipeline_id = self._call(self._pipeline, name, description)

        def find(**options):
            listing = self._pipelines.pipeline_service_list_pipeline_versions
            for page in _pages(listing, pipeline_id, **options):
                for version in page.pipeline_versions or []:
                    if version_name in (version.name, version.display_name):
                        return version
            return None

        def upload(**options):
            names = {"name": version_name, "display_name": version_name}
            fields = {**names, "description": description, "pipelineid": pipeline_id}
            return find(**options) or self._uploads.upload_pipeline_version(str(compiled), **fields, **options)

        existing = self._call(find)
        version = existing or self._call(upload)
        reference = kfp.V2beta1PipelineVersionReference(pipeline_id, version.pipeline_version_id)
        return reference, version_name, existing is None

    def _pipeline(self, name: str, description: str, **options) -> str:
        space = {"namespace": self.namespace} if self.namespace else {}
        found = self._pipelines.pipeline_service_list_pipelines(filter=_named(name), **space, **options)
        if found.pipelines:
            return found.pipelines[0].pipeline_id
        new = kfp.V2beta1Pipeline(name=name, display_name=name, description=description, **space)
        return self._pipelines.pipeline_service_create_pipeline(new, **options).pipeline_id

    def start(self, name: str, experiment: str, version, arguments: dict[str, Any]) -> kfp.V2beta1Run:
        """Start a run; a second try after a lost answer finds it and does not start it twice."""

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

    def open_runs(self) -> list[kfp.V2beta1Run]:
        """Return the runs that are not over, of all pipelines, among the newest NEWEST_RUNS."""

        def newest(**options):
            space = {"namespace": self.namespace} if self.namespace else {}
            pages = _pages(self._runs.run_service_list_runs, sort_by="created_at desc", **space, **options)
            return list(islice((run for page in pages for run in page.runs or []), NEWEST_RUNS))

        return [run for run in self._call(newest) if run.state not in OVER]

    def stop(self, run_id: str) -> None:
        self._call(self._runs.run_service_terminate_run, run_id)

    def schedule(self, name: str, cron: str, experiment: str, version, arguments: dict[str, Any]) -> str:
        """Create a recurring run, one run at a time and without the runs that it missed; return its id."""

        def find_or_create(**options):
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

        return self._call(find_or_create).recurring_run_id

    def schedules(self, experiment: str) -> list[kfp.V2beta1RecurringRun]:
        def all_pages(**options):
            listing = self._recurring.recurring_run_service_list_recurring_runs
            pages = _pages(listing, experiment_id=experiment, **options)
            return [schedule for page in pages for schedule in page.recurring_runs or []]

        return self._call(all_pages)

    def pause_schedule(self, schedule_id: str) -> None:
        """Keep a schedule from starting more runs."""
        self._call(self._recurring.recurring_run_service_disable_recurring_run, schedule_id)

    def runs_of_schedule(self, experiment: str, schedule_id: str) -> list[kfp.V2beta1Run]:
        """Return the runs that a schedule started, the newest first."""

        def all_pages(**options):
            listing = self._runs.run_service_list_runs
            pages = _pages(listing, experiment_id=experiment, sort_by="created_at desc", **options)
            return [run for page in pages for run in page.runs or [] if run.recurring_run_id == schedule_id]

        return self._call(all_pages)

    def remove_schedule(self, schedule_id: str) -> None:
        """Remove a schedule. Kubernetes then also removes the Workflows of its runs and ends their pods."""
        self._call(self._recurring.recurring_run_service_delete_recurring_run, schedule_id)

    def _call(self, function: Callable, *arguments, first: bool = False):
        """Return the answer; try again for RETRY_SECONDS after a server's own error or a lost connection.

        At the `first` call a refused connection is an error at once: the address is probably wrong.
        """

        def may_pass(error: Exception) -> bool:
            if isinstance(error, kfp.ApiException):
                return error.status == 429 or error.status >= 500
            wrong_address = first or isinstance(error, LocationValueError | NameResolutionError)
            return isinstance(error, HTTPError) and not wrong_address

        try:
            return retry(
                lambda: self._call_once(function, *arguments), may_pass=may_pass, seconds=RETRY_SECONDS,
                first_pause=FIRST_PAUSE_SECONDS, longest_pause=LONGEST_PAUSE_SECONDS,
            )  # fmt: skip
        except kfp.ApiException as error:
            if not may_pass(error):
                raise self._explain(error) from error
            problem = f"answers {error.status}: {_message(error)}"
        except HTTPError as error:
            if not may_pass(error):
                advice = "make kind-up starts it." if self.kind else "Correct KFP_HOST, or start it."
                raise StepError(f"no Kubeflow Pipelines at {self.url}: {_plain(error)}. {advice}") from error
            problem = f"does not answer: {_plain(error)}"
        raise NoAnswer(f"Kubeflow Pipelines at {self.url} {problem} (tried for {RETRY_SECONDS:.0f} s).")

    def _call_once(self, function: Callable, *arguments):
        try:
            return function(*arguments, _request_timeout=TIMEOUT_SECONDS)
        except (TypeError, ValueError, AttributeError) as error:
            # KFP's client cannot parse an answer that is not JSON, not text or empty
            if isinstance(error.__context__, kfp.ApiException):
                raise error.__context__ from None
            raise self._not_kfp() from error

    def _not_kfp(self) -> StepError:
        return StepError(
            f"the server at {self.url} is not the KFP API. KFP_HOST is the address of KFP's own pages, such as "
            "https://kubeflow.example.org/pipeline (without #/...). Behind a login, set KFP_TOKEN or KFP_COOKIE too."
        )

    def _explain(self, error: kfp.ApiException) -> StepError:
        if error.status == 0:
            return StepError(
                f"no secure connection to {self.url}: {_plain(error.reason)}. If a CA of your own signed its "
                "certificate, set REQUESTS_CA_BUNDLE to the CA's file (.pem)."
            )
        if error.status in (401, 403) or 300 <= error.status < 400:
            return StepError(self._refusal(error))
        if error.status == 404 and not _is_from_kfp(error):
            return self._not_kfp()
        return StepError(f"Kubeflow Pipelines at {self.url} answers {error.status}: {_message(error)}")

    def _refusal(self, error: kfp.ApiException) -> str:
        login = next((name for name in ("KFP_TOKEN", "KFP_COOKIE") if os.environ.get(name)), None)
        what = "redirects to a login page" if error.status < 400 else f"refuses access ({error.status})"
        if not login:
            return f"{self.url} {what}: set KFP_TOKEN (a bearer token) or KFP_COOKIE (of a browser that is logged in)."
        if error.status != 403:
            return f"{self.url} {what}: {login} is wrong or has expired."
        return f"{self.url} {what}: {login} is wrong, has expired, or has not the right to do this. {_message(error)}"


def _pages(listing: Callable, *arguments, **options) -> Iterator[Any]:
    token: str | None = ""
    while token is not None:
        page = listing(*arguments, page_size=PAGE_SIZE, page_token=token, **options)
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


def _is_from_kfp(error: kfp.ApiException) -> bool:
    return _body(error).keys() >= {"code", "message"}


def _message(error: kfp.ApiException) -> str:
    """Return the server's message, in a line."""
    body = _body(error)
    text = body.get("message") or body.get("error") or error.reason or "no message"
    return " ".join(str(text).split())[:300]


def _plain(error: Exception | str) -> str:
    """Return an error of urllib3 without its beginning, the connection's object."""
    return str(error).rpartition(">: ")[2].strip().replace("\n", " ")[:300]


def _proxy(url: str) -> str | None:
    parts = urlsplit(url)
    if is_here(url) or urllib.request.proxy_bypass(parts.netloc):
        return None
    return urllib.request.getproxies().get(parts.scheme)
