"""The OpenAPI document and what is served are the same thing."""

import re
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiohttp.test_utils import TestClient

from esper_async.nissa.app import ROUTES
from esper_async.nissa.openapi import describe, refusals_of, template
from esper_async.nissa.schemas import COMPONENTS
from tests.nissa.conftest import BEARER, World
from tests.nissa.schema_check import problems

Client = TestClient[Any, Any]
READABLE = [route for route in ROUTES if route.method == "GET" and "{" not in route.path]
DOCUMENT = describe(ROUTES, "0")


@pytest.mark.parametrize("route", READABLE, ids=lambda route: route.path)
async def test_every_answer_has_the_shape_that_the_document_says(
    route: Any, client: Client, told: Callable[[], Awaitable[str]]
) -> None:
    await told()
    async with client.get(route.path) as response:
        described = DOCUMENT["paths"][route.path]["get"]["responses"][str(response.status)]
        assert response.content_type in described["content"]
        if response.content_type == "application/json":
            schema = described["content"]["application/json"]["schema"]
            assert problems(await response.json(), schema, COMPONENTS) == []


@pytest.mark.parametrize(
    "part", ["", "/picture", "/epochs", "/decisions", "/field-reports", "/seeds"]
)
async def test_the_parts_of_a_run_have_the_shape_that_the_document_says(
    part: str, client: Client, told: Callable[[], Awaitable[str]]
) -> None:
    run_id = await told()
    async with client.get(f"/api/runs/{run_id}{part}") as response:
        described = DOCUMENT["paths"][f"/api/runs/{{run}}{part}"]["get"]["responses"]["200"]
        schema = described["content"]["application/json"]["schema"]
        assert problems(await response.json(), schema, COMPONENTS) == []


def test_every_route_has_a_description_an_identity_and_described_refusals() -> None:
    identities = [
        operation["operationId"]
        for path in DOCUMENT["paths"].values()
        for operation in path.values()
    ]
    assert len(set(identities)) == len(identities) == len(ROUTES)
    for route in ROUTES:
        assert route.text.endswith(".")
        assert set(refusals_of(route)) & set(route.answers) == set()


def test_every_reference_leads_somewhere() -> None:
    names = set(re.findall(r"#/components/schemas/(\w+)", str(DOCUMENT)))
    assert names <= set(COMPONENTS)


def test_changes_alone_ask_for_the_token() -> None:
    for route in ROUTES:
        operation = DOCUMENT["paths"][template(route.path)][route.method.lower()]
        assert ("security" in operation) == (route.method != "GET")


_ODD = ["", "x" * 5_000, "é", "'; DROP TABLE events; --", "%00", "-1", "NaN", "{}", "null", '"*"']


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
async def test_odd_input_is_never_a_defect_nor_an_undocumented_answer(
    route: Any, client: Client, world: World
) -> None:
    expected = {*route.answers, *refusals_of(route)}
    for odd in _ODD:
        world.clock.advance(60.0)
        path = re.sub(r"{[^}]+}", "odd", route.path)
        query = {parameter.name: odd for parameter in route.parameters}
        more: dict[str, Any] = {"params": query, "headers": BEARER}
        if route.body is not None:
            more["json"] = {"name": odd, "by": odd, "seconds": odd, "to_boundary": odd}
        async with client.request(route.method, path, **more) as response:
            assert response.status in expected - {500, 503}, await response.text()
