"""The OpenAPI document, made from the very routes that are served."""

import re
from collections.abc import Sequence
from typing import Any

from esper_async.nissa.problems import CONTENT_TYPE
from esper_async.nissa.route import Parameter, Route
from esper_async.nissa.schemas import COMPONENTS, ref

_REFUSALS = {
    400: "The request is not well formed.",
    401: "A token is needed and missing or wrong.",
    403: "A foreign page or host name.",
    404: "There is no such thing.",
    409: "Not in this state.",
    413: "The body is too large.",
    415: "The body is not JSON.",
    422: "The body does not say something that can be done.",
    426: "Only a WebSocket is served here.",
    429: "Too many changes; wait as Retry-After says.",
    500: "A defect of this service.",
    503: "A part this needs is away.",
}


def describe(routes: Sequence[Route], version: str) -> dict[str, Any]:
    """Return the document for these routes."""
    paths: dict[str, Any] = {}
    for route in routes:
        paths.setdefault(template(route.path), {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Esper",
            "version": version,
            "description": "Reading is open on this machine; a change needs the bearer token.",
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": COMPONENTS,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def template(path: str) -> str:
    """A path as OpenAPI writes it: the names of its parts without their patterns."""
    return re.sub(r"{(\w+):[^}]*}", r"{\1}", path)


def refusals_of(route: Route) -> list[int]:
    """Every status of failure that a route may answer."""
    codes = {*route.refusals, 500, 503}
    if not route.open:
        codes |= {401, 403}
    if route.parameters:
        codes.add(400)
    if route.body is not None:
        codes |= {400, 413, 415, 422}
    if route.change:
        codes.add(429)
    return sorted(codes)


def _operation(route: Route) -> dict[str, Any]:
    answers = {
        str(code): {"description": "Done.", **_content(route, schema)}
        for code, schema in route.answers.items()
    }
    problem = {CONTENT_TYPE: {"schema": ref("Problem")}}
    for code in refusals_of(route):
        answers[str(code)] = {"description": _REFUSALS[code], "content": problem}
    operation: dict[str, Any] = {
        "summary": route.text,
        "operationId": f"{route.handler.__module__.rpartition('.')[2]}_{route.handler.__name__}",
        "parameters": [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
            for name in re.findall(r"{(\w+)}", template(route.path))
        ]
        + [_parameter(item) for item in route.parameters],
        "responses": answers,
    }
    if route.body is not None:
        operation["requestBody"] = {"content": {"application/json": {"schema": route.body}}}
    if route.change:
        operation["security"] = [{"token": []}]
    return operation


def _content(route: Route, schema: Any) -> dict[str, Any]:
    if schema is None and route.media == "application/json":
        return {}
    return {"content": {route.media: {"schema": schema or {"type": "string"}}}}


def _parameter(item: Parameter) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": item.kind}
    if item.kind != "string":
        schema |= {"minimum": item.low, "maximum": item.high}
    if item.choices:
        schema["enum"] = list(item.choices)
    if item.pattern:
        schema["pattern"] = item.pattern
    if item.default is not None:
        schema["default"] = item.default
    where = {"name": item.name, "in": "query", "required": item.required}
    return {**where, "description": item.text, "schema": schema}
