"""Read YAML files that people edit into strict models, and name each missing, unknown or invalid key."""

from pathlib import Path
from typing import TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from components.core.errors import StepError


class Strict(BaseModel):
    """A model that refuses unknown keys and values of another type."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


Model = TypeVar("Model", bound=Strict)


def read(path: Path, model: type[Model], unknown_key: str = "unknown") -> Model:
    """Return the content of a file; `unknown_key` describes an invalid key of a dictionary in messages.

    Raises:
        StepError: the file is missing, is not YAML, or does not fit the model.
    """
    try:
        return model.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except UnicodeDecodeError:
        raise StepError(f"{path} is not UTF-8. Save it as UTF-8.") from None
    except (OSError, yaml.YAMLError) as error:
        raise StepError(f"{path}: {' '.join(str(error).split())}. Write it as YAML.") from None
    except ValidationError as error:
        messages = [f"{path}: {_message(details, unknown_key)}" for details in error.errors()]
        raise StepError("\n".join(messages) + f"\nCorrect the {path.stem} and run again.") from None


def _message(error: ErrorDetails, unknown_key: str) -> str:
    where = ".".join(str(part) for part in error["loc"] if part != "[key]") or "the file"
    if error["type"] == "extra_forbidden":
        return f"{where} is unknown."
    if error["loc"][-1:] == ("[key]",):
        return f"{where} is {unknown_key}."
    return f"{where}: {error['msg'].removeprefix('Value error, ')}" + (
        f", not {error['input']!r}." if not isinstance(error["input"], dict) else "."
    )
