"""Catalogue, library, policies, events, status, metrics, the page's files."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient

from esper_async.karn.service import KarnService
from esper_async.nissa.event_store import Event
from esper_async.simic.registry import PolicyRegistry
from esper_async.tamiyo.published import SHIPPED, registry_path
from tests.nissa.conftest import BEARER, World
from tests.simic.test_registry import policy, record

Client = TestClient[Any, Any]


@pytest.fixture
async def karn(world: World) -> AsyncIterator[KarnService]:
    """Karn as it runs."""
    service = world.context.blueprints
    assert isinstance(service, KarnService)
    up = asyncio.Event()
    task = asyncio.create_task(service.run(up.set))
    await asyncio.wait_for(up.wait(), 10)
    yield service
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def body(client: Client, path: str, status: int = 200) -> Any:
    async with client.get(path) as response:
        assert response.status == status, await response.text()
        return await response.json()


async def test_all_fifty_blueprints_are_shown(client: Client) -> None:
    shown = await body(client, "/api/blueprints")
    assert len(shown) == 50
    assert shown[0]["id"] == "BP001"
    assert {item["tier"] for item in shown} == {"production", "experimental", "adversarial"}


async def test_blueprints_are_asked_for_by_query(client: Client, karn: KarnService) -> None:
    path = "/api/blueprints?interface=spatial:8x1x40&parameters=100&risk=0.3"
    shown = await body(client, path)
    assert {"BP001", "BP012"} <= {item["id"] for item in shown}
    assert all(item["tier"] == "production" and item["risk"] <= 0.3 for item in shown)
    assert await body(client, "/api/blueprints?tier=adversarial") == []
    assert len(await body(client, "/api/blueprints?tier=experimental")) == 7


@pytest.mark.parametrize(
    ("asked", "status", "says"),
    [
        ("interface=round:3", 400, "expected spatial:CxHxW"),
        ("tier=planted", 400, "expected one of production, experimental, adversarial"),
        ("risk=1.5", 400, "expected 0 to 1"),
    ],
)
async def test_a_query_that_cannot_be_is_refused(
    client: Client, karn: KarnService, asked: str, status: int, says: str
) -> None:
    assert says in (await body(client, f"/api/blueprints?{asked}", status))["detail"]


async def test_an_answer_that_was_cut_back_says_so(
    client: Client, karn: KarnService, tmp_path: Path
) -> None:
    (tmp_path / "karn" / "tallies.sqlite").unlink()
    (tmp_path / "karn" / "tallies.sqlite").mkdir()  # nothing can be counted any more
    while karn.selector.breaker.state == "closed":
        karn.selector.request("BP009")
    async with client.get("/api/blueprints?risk=0.5") as response:
        shown = await response.json()
        assert "breaker is open" in response.headers["Esper-Conservative"]
    assert [item["id"] for item in shown] == [f"BP{number:03}" for number in range(1, 11)]


async def test_a_query_waits_for_karn_where_the_catalogue_does_not(client: Client) -> None:
    assert "not running" in (await body(client, "/api/blueprints?risk=0.5", 503))["detail"]
    assert len(await body(client, "/api/blueprints")) == 50


async def test_what_came_of_a_blueprint_is_not_known_without_karn(client: Client) -> None:
    assert {item["outcomes"] for item in await body(client, "/api/blueprints")} == {None}


async def test_what_came_of_a_blueprint_stands_beside_it(client: Client, karn: KarnService) -> None:
    karn.selector.count_outcome("r1", "BP009", "success")
    shown = {item["id"]: item["outcomes"] for item in await body(client, "/api/blueprints")}
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
    assert await body(client, "/api/policies/history") == []
    async with client.post("/api/policies/p1/activate", headers=BEARER) as response:
        assert response.status == 404
        assert "no learner" in (await response.json())["detail"]


async def test_learned_policies_are_listed_and_any_that_passed_is_activated(
    client: Client, world: World, tmp_path: Path
) -> None:
    kept = PolicyRegistry.of(tmp_path)
    object.__setattr__(world.context, "policies", kept)
    one = kept.submit(policy(1), record(SHIPPED)).id
    two = kept.submit(policy(2), record(one)).id
    bad = kept.submit(policy(3), record(two, passes=False)).id
    listed = await body(client, "/api/policies")
    assert [row["id"] for row in listed] == [bad, two, one, SHIPPED]
    for policy_id, status in ((one, 202), (bad, 409), ("awr-nobody", 404)):
        path = f"/api/policies/{policy_id}/activate"
        async with client.post(path, headers=BEARER) as response:
            assert response.status == status
    assert kept.book().active_of("placement-1") == one
    told = await body(client, "/api/policies/history?limit=2")
    assert [(each["id"], each["what"], each["by"]) for each in told] == [
        (one, "restored", "simic"), (bad, "refused", "simic"),
    ]  # fmt: skip
    (registry_path(tmp_path) / "registry.json").write_text("{}")
    for path in ("/api/policies", "/api/policies/history"):
        async with client.get(path) as response:
            assert response.status == 503
            assert "no registry of policies" in (await response.json())["detail"]


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
