"""Keep artifacts below the destination of this server, for every user.

MLflow reads and writes the location of an experiment or the source of a version with its own rights. So each location
is checked when it is stored, and each request to S3 when it is sent, since older locations are stored already.
"""

import functools
import re

from mlflow.exceptions import MlflowException
from mlflow.store.artifact import artifact_repository_registry
from mlflow.store.artifact.s3_artifact_repo import S3ArtifactRepository
from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore as Registry
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore as Tracking

SCHEMES = {"artifact_location": ("mlflow-artifacts",), "source": ("mlflow-artifacts", "runs", "models")}
"""Schemes that MLflow itself resolves to a place below the destination."""
OUTSIDE = "is outside this server's artifacts,"
AMBIGUOUS = re.compile(r"[%?#;\\\x00-\x1f]")
"""Characters that two programs may read as two places."""


def allow_only(destination: str) -> None:
    """Make MLflow in this process refuse every location outside `destination` (s3://bucket/prefix)."""
    Tracking.create_experiment = _checking(Tracking.create_experiment, "artifact_location", destination)
    Registry.create_model_version = _checking(Registry.create_model_version, "source", destination)
    repositories = artifact_repository_registry._artifact_repository_registry._registry
    allowed = {
        "s3": functools.partial(LimitedS3, destination),
        "runs": repositories["runs"],
        "models": repositories["models"],
    }
    repositories.update(dict.fromkeys(repositories, functools.partial(_refuse, destination)) | allowed)


def require_below(location: str, what: str, destination: str) -> None:
    """Check that a location has a scheme that MLflow resolves itself, or is below the destination.

    Raises:
        MlflowException: it is elsewhere; `what` names the argument.
    """
    plain = not AMBIGUOUS.search(location) and not {".", ".."} & {*location.split("/")}
    by_mlflow = re.match(rf"({'|'.join(SCHEMES[what])}):/(?!/)", location)
    if plain and (by_mlflow or location.startswith(f"{destination}/")):
        return
    raise MlflowException.invalid_parameter_value(
        f"{what} {location} {OUTSIDE} {destination}. Leave it out, or give a place "
        f"there: {' or '.join(f'{scheme}:/...' for scheme in SCHEMES[what])}"
    )


def _checking(create, what: str, destination: str):
    """Return `create(self, name, location, ...)` of one of MLflow's stores with a check of the location."""

    @functools.wraps(create)
    def checked(self, name, location=None, *arguments, **more):
        location = more.pop(what, location)
        if location:
            require_below(location, what, destination)
        return create(self, name, location, *arguments, **more)

    return checked


def _refuse(destination: str, artifact_uri: str, **_):
    raise MlflowException.invalid_parameter_value(f"{artifact_uri} {OUTSIDE} {destination}")


class LimitedS3(S3ArtifactRepository):
    """S3 below the destination: a request for another bucket or key is refused before it is sent."""

    def __init__(self, destination: str, artifact_uri: str, **options):
        self.destination = destination
        super().__init__(artifact_uri, **options)

    def _get_s3_client(self):
        client = super()._get_s3_client()
        check = functools.partial(_check_request, self.destination)
        client.meta.events.register_first("before-parameter-build.s3", check, unique_id="artifacts of this server")
        return client


def _check_request(destination: str, params: dict, **_) -> None:
    """Raise MlflowException if a request to S3 names another bucket, or a key outside the destination."""
    bucket, _, prefix = destination.removeprefix("s3://").partition("/")
    keys = [params[name] for name in ("Key", "Prefix") if name in params]
    keys += [each["Key"] for each in params.get("Delete", {}).get("Objects", [])]
    if params.get("Bucket") != bucket or not keys or not all(_is_below(key, prefix) for key in keys):
        raise MlflowException.invalid_parameter_value(f"{', '.join(keys) or 'this'} {OUTSIDE} {destination}")


def _is_below(key: str, prefix: str) -> bool:
    return f"{key}/".startswith(f"{prefix}/") and not {".", ".."} & {*key.split("/")}
