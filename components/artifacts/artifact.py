"""What passes between steps: typed objects, each with one file, one reader and one writer."""

from pathlib import Path
from typing import ClassVar, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from components.core.errors import StepError

MOST_ERRORS_SHOWN = 3
Content = TypeVar("Content")


class InvalidArtifact(StepError):
    """The file of an artifact exists, and its content is invalid."""


class Record(BaseModel):
    """A part of an artifact."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=True,
        ser_json_inf_nan="constants",
        use_attribute_docstrings=True,
    )


class Artifact(Record):
    """The content of a JSON file that one step writes and later steps read."""

    FILE: ClassVar[str]
    """Name of the file in the artifact's folder."""
    WRITTEN_BY: ClassVar[str]
    """The step that writes it."""

    format_version: Literal[1] = 1
    """Version of the file's format. A file without it is of version 1."""

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read the artifact from its file, or from the folder that holds `FILE`.

        Raises:
            StepError: the file is missing.
            InvalidArtifact: the file is not JSON, or a field is missing or invalid.
        """
        return read_json(path / cls.FILE if path.is_dir() else path, TypeAdapter(cls), cls.WRITTEN_BY)

    def write(self, path: Path) -> None:
        """Write the artifact to its file, or into the folder that is to hold `FILE`."""
        file = path / self.FILE if path.is_dir() else path
        file.write_text(self.model_dump_json(indent=1), encoding="utf-8")


def read_json(file: Path, content: TypeAdapter[Content], written_by: str) -> Content:
    """Read and validate a JSON file that the step `written_by` writes.

    Raises:
        StepError: the file is missing.
        InvalidArtifact: the file is not JSON, or a field is missing or invalid.
    """
    advice = f"The {written_by} step writes this file: do not edit it, and run that step again."
    try:
        return content.validate_json(file.read_bytes())
    except OSError as error:
        raise StepError(f"{file} cannot be read: {error.strerror or error}. {advice}") from None
    except ValidationError as error:
        reasons = [f"{file}: {_explain(e)}." for e in error.errors()[:MOST_ERRORS_SHOWN]]
        raise InvalidArtifact("\n".join([*reasons, advice])) from None


def _explain(error) -> str:
    field = ".".join(map(str, error["loc"]))
    if error["type"] == "json_invalid":
        return f"this is not JSON ({error['msg'].removeprefix('Invalid JSON: ')})"
    if error["type"] == "missing":
        return f"the field {field} is missing"
    if error["type"] == "extra_forbidden":
        return f"the field {field} is unknown"
    if field == "format_version":
        return f"its format version is {error['input']}, and this code reads version 1: use the code that wrote it"
    return f"the field {field} is invalid: {error['msg']}" if field else f"the content is invalid: {error['msg']}"
