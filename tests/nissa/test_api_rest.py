"""Catalogue, library, policies, events, status, metrics, the page's files."""

import asyncio
from typing import Any

import pytest
from aiohttp.test_utils import TestClient

from esper_async.karn.service import KarnService
from esper_async.nissa.event_store import Event
from tests.nissa.conftest import BEARER, World

Client = TestClient[Any, Any]


async def body(client: Client, path: str, status: int = 200) -> Any:
    async with client.get(path) as response:
        assert response.status == status, await response.text()
        return await response.json()


async def test_all_fifty_blueprints_are_shown(client: Client) -> None:
    shown = await body(client, "/api/blueprints")
    assert len(shown) == 50
    assert shown[0]["id"] == "BP001"
    assert {item["tier"] for item in shown} == {"production", "experimental", "adversarial"}


async def test_what_came_of_a_blueprint_is_not_known_without_karn(client: Client) -> None:
    assert {item["outcomes"] for item in await body(client, "/api/blueprints")} == {None}


async def test_what_came_of_a_blueprint_stands_beside_it(client: Client, world: World) -> None:
    karn = world.context.blueprints
    assert isinstance(karn, KarnService)
    up = asyncio.Event()
    task = asyncio.create_task(karn.run(up.set))
    await asyncio.wait_for(up.wait(), 10)
    karn.selector.count_outcome("r1", "BP009", "success")
    shown = {item["id"]: item["outcomes"] for item in await body(client, "/api/blueprints")}
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert shown["BP009"] == {"success": 1, "neutral": 0, "regression": 0, "aborted": 0}
    assert sum(shown["BP001"].values()) == 0


async def test_kernels_are_what_the_library_holds(client: Client, world: World) -> None:
    assert await body(client, "/api/kernels") == []
    world.context.kernels.put_certificate(  # type: ignore[attr-defined]
        "key", {"passed": True}, blueprint="BP016", interface="spatial"
    )
    [kernel] = await body(client, "/api/kernels")
    assert (kernel["id"], kernel["blueprint"]) == ("key@1", "BP016")


async def test_without_a_learner_there_are_no_policies_to_activate(client: Client) -> None:
    assert await body(client, "/api/policies") == []
    async with client.post("/api/policies/p1/activate", headers=BEARER) as response:
        assert response.status == 404
        assert "no learner" in (await response.json())["detail"]


async def test_events_are_searched_and_paged(client: Client, world: World) -> None:
    for number in range(5):
        world.context.events.add(
            Event(f"e{number}", 1.0 + number, "error", "tolaria", "run.rollback", "not finite")
        )
    world.context.events.flush()
    assert len(await body(client, "/api/events?q=finite&level=error&source=tolaria")) == 5
    assert await body(client, "/api/events?q=elsewhere") == []
    async with client.get("/api/events?limit=2") as response:
        first = await response.json()
        following = str(response.links["next"]["url"].relative())
    second = await body(client, following)
    assert [event["time"] for event in first + second] == [5.0, 4.0, 3.0, 2.0]


async def test_status_gathers_breakers_queues_and_conservative_modes(
    client: Client, world: World
) -> None:
    registry = world.context.registry
    registry.gauge("oona.queue.depth", "text", ["topic"]).set(7, topic="decisions")
    registry.gauge("oona.conservative_mode", "text", ["topic"]).set(1, topic="decisions")
    world.system["services"]["oona"] = {
        "state": "ready", "restarts": 0, "breakers": {"oona.publish": "closed"}, "detail": {},
    }  # fmt: skip
    world.clock.advance(12.0)
    status = await body(client, "/api/status")
    assert status["breakers"] == {"oona": {"oona.publish": "closed"}}
    assert status["queue_lag"] == {"decisions": 7.0}
    assert status["conservative_modes"] == ["oona"]
    assert status["uptime_s"] == 12.0


async def test_the_summary_says_not_measured_when_nothing_runs(client: Client) -> None:
    summary = await body(client, "/api/metrics/summary")
    assert summary["throughput_samples_per_s"] is None
    assert summary["boundary_ms"] == {"p50": None, "p99": None}


async def test_metrics_come_in_the_form_that_is_asked_for(client: Client) -> None:
    async with client.get("/metrics") as response:
        assert response.headers["Content-Type"].startswith("text/plain")
    openmetrics = {"Accept": "application/openmetrics-text; version=1.0.0"}
    async with client.get("/metrics", headers=openmetrics) as response:
        assert response.headers["Content-Type"].startswith("application/openmetrics-text")
        assert (await response.text()).endswith("# EOF\n")


async def test_the_pages_files_are_served_once_and_then_remembered(client: Client) -> None:
    async with client.get("/page/js/app.js") as response:
        assert response.content_type == "text/javascript"
        assert "script-src 'self'" in response.headers["Content-Security-Policy"]
        tag = response.headers["ETag"]
    async with client.get("/page/js/app.js", headers={"If-None-Match": tag}) as response:
        assert response.status == 304
    async with client.get("/page/vendor/uPlot.LICENSE") as response:
        assert "MIT License" in await response.text()


async def test_another_machines_browser_signs_in_with_the_token(client: Client) -> None:
    async with client.post("/api/session") as response:
        assert response.status == 401
    async with client.post("/api/session", headers=BEARER) as response:
        assert response.status == 204
        assert "esper_page" in response.cookies
