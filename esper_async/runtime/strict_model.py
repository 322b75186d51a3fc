"""Models of what people write by hand: unknown keys are refused with the nearest known one."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, ValidationError


class StrictModel(BaseModel):
    """A frozen model that takes no key it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class ConfigurationError(ValueError):
    """A configuration was wrong; the message lists every problem, each with its way out."""

    def __init__(self, source: str, problems: Sequence[str]) -> None:
        super().__init__("\n".join([f"{source} is not right:", *(f"  {p}" for p in problems)]))
        self.source = source
        self.problems = list(problems)


def known_keys(model: type[BaseModel], prefix: str = "") -> list[str]:
    """Return the dotted name of every key of a model and its nested models."""
    keys: list[str] = []
    for name, field in model.model_fields.items():
        nested = _model_of(field.annotation)
        keys.append(prefix + name)
        if nested is not None:
            keys += known_keys(nested, f"{prefix}{name}.")
    return keys


def secret_keys(model: type[BaseModel], prefix: str = "") -> set[str]:
    """Return the dotted names of what is never shown: fields that were made with `repr=False`."""
    keys: set[str] = set()
    for name, field in model.model_fields.items():
        nested = _model_of(field.annotation)
        if nested is not None:
            keys |= secret_keys(nested, f"{prefix}{name}.")
        elif not field.repr:
            keys.add(prefix + name)
    return keys


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name most like `name`, or None when nothing is close."""
    known = list(known)
    matches = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if matches:
        return matches[0]
    last = {key.rpartition(".")[2]: key for key in known}
    matches = difflib.get_close_matches(name.rpartition(".")[2], last, n=1, cutoff=0.75)
    return last[matches[0]] if matches else None


def problems_of(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """Turn a validation error into one line a problem: where, what was given, what is expected."""
    return [_problem(dict(details), model) for details in error.errors(include_url=False)]


def _problem(details: Mapping[str, Any], model: type[BaseModel]) -> str:
    name = ".".join(str(part) for part in details["loc"])
    if details["type"] == "extra_forbidden":
        known = known_keys(model)
        suggestion = nearest(name, known)
        if suggestion is not None:
            return f"unknown key {name!r}; did you mean {suggestion!r}?"
        section = name.rpartition(".")[0]
        here = [k for k in known if k.rpartition(".")[0] == section] or known
        return f"unknown key {name!r}; known here: {', '.join(here)}"
    if details["type"] == "missing":
        return f"{name} is required"
    message = str(details["msg"]).removeprefix("Value error, ")
    secrets = secret_keys(model)
    hidden = any(f"{each}.".startswith(f"{name}.") for each in secrets)  # a section may hold one
    if not name or hidden or isinstance(details.get("input"), dict | BaseModel):
        return f"{name}: {message}" if name else message
    return f"{name} = {details.get('input')!r}: {message}"


def _model_of(annotation: Any) -> type[BaseModel] | None:
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None
