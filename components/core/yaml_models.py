"""YAML files that people edit, read into strict models: what they do not say, or say wrongly, is named."""

from pathlib import Path
from typing import TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from components.core.step import StepError


class Strict(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


Model = TypeVar("Model", bound=Strict)


def read(path: Path, model: type[Model], unknown_key: str = "not known there") -> Model:
    """The content of a file; `unknown_key` is what is said of an impossible key in a dictionary.

    Raises:
        StepError: it is not there, not YAML, or says something else than the model.
    """
    try:
        return model.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except UnicodeDecodeError:
        raise StepError(f"{path} is not UTF-8. Save it as UTF-8.") from None
    except (OSError, yaml.YAMLError) as error:
        raise StepError(f"{path}: {' '.join(str(error).split())}. Write it as YAML.") from None
    except ValidationError as error:
        said = [f"{path}: {_in_words(e, unknown_key)}" for e in error.errors()]
        raise StepError("\n".join(said) + f"\nMend the {path.stem} and run again.") from None


def _in_words(error: dict, unknown_key: str) -> str:
    where = ".".join(str(part) for part in error["loc"] if part != "[key]") or "the file"
    if error["type"] == "extra_forbidden":
        return f"{where} is not known there."
    if error["loc"][-1:] == ("[key]",):
        return f"{where} is {unknown_key}."
    return f"{where}: {error['msg'].removeprefix('Value error, ')}" + (
        f", not {error['input']!r}." if not isinstance(error["input"], dict) else "."
    )
