"""As much of JSON Schema as the API's own schemas use, so that tests need no further package."""

from typing import Any

_TYPES: dict[str, Any] = {
    "object": dict,
    "array": list,
    "string": str,
    "boolean": bool,
    "null": type(None),
}


def problems(value: Any, schema: Any, components: Any, where: str = "$") -> list[str]:
    """Say where `value` is not what `schema` says; empty when it is."""
    if "$ref" in schema:
        return problems(value, components[schema["$ref"].rpartition("/")[2]], components, where)
    if "oneOf" in schema:
        fits = [not problems(value, one, components, where) for one in schema["oneOf"]]
        return [] if fits.count(True) == 1 else [f"{where}: fits {fits.count(True)} of oneOf"]
    kinds = schema.get("type")
    if kinds is not None:
        kinds = [kinds] if isinstance(kinds, str) else kinds
        if not any(_is(value, kind) for kind in kinds):
            return [f"{where}: {type(value).__name__} is not {kinds}"]
    found = []
    if "enum" in schema and value not in schema["enum"]:
        found.append(f"{where}: {value!r} is not in {schema['enum']}")
    if isinstance(value, dict):
        found += [f"{where}: lacks {n}" for n in schema.get("required", ()) if n not in value]
        for name, inner in _inner(value, schema).items():
            found += problems(value[name], inner, components, f"{where}.{name}")
    if isinstance(value, list) and "items" in schema:
        for index, item in enumerate(value):
            found += problems(item, schema["items"], components, f"{where}[{index}]")
    return found


def _inner(value: dict[str, Any], schema: Any) -> dict[str, Any]:
    """The schema of each property that the value has."""
    known = schema.get("properties", {})
    extra = schema.get("additionalProperties", {})
    rest = {name: extra for name in value if name not in known and isinstance(extra, dict)}
    return {**{name: inner for name, inner in known.items() if name in value}, **rest}


def _is(value: Any, kind: str) -> bool:
    if kind == "number":
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind == "integer":
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, _TYPES[kind])
