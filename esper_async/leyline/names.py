"""Enum values by the short names that people see: `DORMANT` for `SEED_LIFECYCLE_STAGE_DORMANT`."""

import re
from typing import Protocol, TypeVar

from google.protobuf.descriptor import EnumDescriptor

_Value = TypeVar("_Value", bound=int)


class ProtoEnum(Protocol[_Value]):
    """What every generated enum offers."""

    @property
    def DESCRIPTOR(self) -> EnumDescriptor: ...  # noqa: N802

    def Name(self, number: _Value) -> str: ...  # noqa: N802

    def Value(self, name: str) -> _Value: ...  # noqa: N802


def _prefix(enum: ProtoEnum[_Value]) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", enum.DESCRIPTOR.name).upper() + "_"


def long_name(enum: ProtoEnum[_Value], short: str) -> str:
    """Return the name on the wire for a short one."""
    return _prefix(enum) + short


def short_name(enum: ProtoEnum[_Value], value: _Value) -> str:
    """Return a value's name without its enum's prefix. Raises ValueError if there is none."""
    return enum.Name(value).removeprefix(_prefix(enum))


def value_of(enum: ProtoEnum[_Value], short: str) -> _Value:
    """Return the value with this short name. Raises ValueError naming what exists."""
    try:
        return enum.Value(long_name(enum, short))
    except ValueError:
        known = [name.removeprefix(_prefix(enum)) for name in enum.DESCRIPTOR.values_by_name]
        raise ValueError(f"{enum.DESCRIPTOR.name} has no {short!r}, only {known}") from None
