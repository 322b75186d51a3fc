"""A run's resolved configuration as the run file that makes the same run again."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

_CHOSEN = ("threads", "device", "deterministic")
"""What a run file may leave to the machine, and a result's bits hang on."""


def run_file_text(config: Mapping[str, Any], started: Mapping[str, Any] | None = None) -> str:
    """Return the TOML of a configuration; what is not set (None) is left out.

    What was left to the machine is as it chose, where `started`, the run's first record, says that.
    """
    run, known = dict(config["run"]), started or {}
    run |= {name: known[name] for name in _CHOSEN if run.get(name) == "auto" and name in known}
    return "\n".join(_table({**config, "run": run}, ())).strip() + "\n"


def _table(values: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[str]:
    plain = {key: value for key, value in values.items() if not isinstance(value, Mapping)}
    known = {key: value for key, value in plain.items() if value is not None}
    if path and (known or not values):
        yield ""
        yield f"[{'.'.join(_key(part) for part in path)}]"
    for key, value in known.items():
        yield f"{_key(key)} = {_value(value)}"
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _table(value, (*path, key))


def _key(key: str) -> str:
    bare = key.replace("_", "").replace("-", "")
    return key if bare.isascii() and bare.isalnum() else json.dumps(key)


def _value(value: Any) -> str:
    """A TOML value. A JSON string is one, but for the DEL that TOML wants escaped."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(_value(item) for item in value if item is not None)}]"
    if isinstance(value, Mapping):
        pairs = (f"{_key(k)} = {_value(v)}" for k, v in value.items() if v is not None)
        return f"{{ {', '.join(pairs)} }}"
    if isinstance(value, bool | int | float):
        return json.dumps(value).replace("Infinity", "inf").replace("NaN", "nan")
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
