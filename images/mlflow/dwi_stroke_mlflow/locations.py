"""Where artifacts may lie: below the destination of this server, and nowhere else, whoever asks.

MLflow reads and writes with its own rights what an experiment's location or a version's source names. A location is
checked when it is written down, and each request to S3 when it is made: older locations are there already.
"""

import functools
import re

from mlflow.exceptions import MlflowException
from mlflow.store.artifact import artifact_repository_registry
from mlflow.store.artifact.s3_artifact_repo import S3ArtifactRepository
from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore as Registry
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore as Tracking

OF_MLFLOW = {"artifact_location": ("mlflow-artifacts",), "source": ("mlflow-artifacts", "runs", "models")}
"""Schemes whose place MLflow works out itself, below the destination."""
OUTSIDE = "lies outside of this server's artifacts,"
AMBIGUOUS = re.compile(r"[%?#;\\\x00-\x1f]")
"""What two readers could take for two places."""


def keep_to(destination: str) -> None:
    """Have this process's MLflow refuse every location outside `destination` (s3://bucket/prefix)."""
    Tracking.create_experiment = _checking(Tracking.create_experiment, "artifact_location", destination)
    Registry.create_model_version = _checking(Registry.create_model_version, "source", destination)
    known = artifact_repository_registry._artifact_repository_registry._registry
    kept = {"s3": functools.partial(OurS3, destination), "runs": known["runs"], "models": known["models"]}
    known.update(dict.fromkeys(known, functools.partial(_refuse, destination)) | kept)


def require_ours(location: str, what: str, destination: str) -> None:
    """Raise MlflowException unless the location is one that MLflow works out itself, or lies below the destination."""
    plain = not AMBIGUOUS.search(location) and not {".", ".."} & {*location.split("/")}
    by_mlflow = re.match(rf"({'|'.join(OF_MLFLOW[what])}):/(?!/)", location)
    if plain and (by_mlflow or location.startswith(f"{destination}/")):
        return
    raise MlflowException.invalid_parameter_value(
        f"{what} {location} {OUTSIDE} {destination}. Leave it out, or name a place "
        f"there: {' or '.join(f'{scheme}:/...' for scheme in OF_MLFLOW[what])}"
    )


def _checking(create, what: str, destination: str):
    """Return `create(self, name, location, ...)` of one of MLflow's stores with its location checked before."""

    @functools.wraps(create)
    def checked(self, name, location=None, *arguments, **more):
        location = more.pop(what, location)
        if location:
            require_ours(location, what, destination)
        return create(self, name, location, *arguments, **more)

    return checked


def _refuse(destination: str, artifact_uri: str, **_):
    raise MlflowException.invalid_parameter_value(f"{artifact_uri} {OUTSIDE} {destination}")


class OurS3(S3ArtifactRepository):
    """S3 below the destination alone: any other bucket or key is refused before it is asked for."""

    def __init__(self, destination: str, artifact_uri: str, **options):
        self.destination = destination
        super().__init__(artifact_uri, **options)

    def _get_s3_client(self):
        client = super()._get_s3_client()
        check = functools.partial(_require_below, self.destination)
        client.meta.events.register_first("before-parameter-build.s3", check, unique_id="artifacts of this server")
        return client


def _require_below(destination: str, params: dict, **_) -> None:
    """Raise MlflowException where a request to S3 names another bucket, or a key outside of the destination."""
    bucket, _, prefix = destination.removeprefix("s3://").partition("/")
    keys = [params[name] for name in ("Key", "Prefix") if name in params]
    keys += [each["Key"] for each in params.get("Delete", {}).get("Objects", [])]
    if params.get("Bucket") != bucket or not keys or not all(_is_below(key, prefix) for key in keys):
        raise MlflowException.invalid_parameter_value(f"{', '.join(keys) or 'this'} {OUTSIDE} {destination}")


def _is_below(key: str, prefix: str) -> bool:
    return f"{key}/".startswith(f"{prefix}/") and not {".", ".."} & {*key.split("/")}
