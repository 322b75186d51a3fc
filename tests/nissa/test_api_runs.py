"""Runs over HTTP: what is shown of them, and how they are steered."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiohttp.test_utils import TestClient

from tests.nissa import story
from tests.nissa.conftest import BEARER, World

Client = TestClient[Any, Any]
Told = Callable[[], Awaitable[str]]
RUN_FILE = {"run": {"task": "esper_async.tasks.digits:make_task", "name": "mine", "epochs": 3}}


async def body(client: Client, path: str) -> Any:
    async with client.get(path) as response:
        assert response.status == 200, await response.text()
        return await response.json()


async def posted(client: Client, path: str, json: Any = None, **headers: str) -> tuple[int, Any]:
    async with client.post(path, json=json, headers={**BEARER, **headers}) as response:
        return response.status, await response.json()


async def test_a_submitted_run_is_queued_and_shown(client: Client) -> None:
    status, run = await posted(client, "/api/runs", RUN_FILE)
    assert (status, run["state"], run["epochs"], run["policy"]) == (201, "queued", 3, "heuristic")
    assert await body(client, f"/api/runs/{run['id']}") == run
    assert [item["id"] for item in await body(client, "/api/runs")] == [run["id"]]
    assert await body(client, f"/api/runs/{run['id']}/epochs") == []
    assert (await body(client, f"/api/runs/{run['id']}/picture"))["seq"] == 0


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"run": {"task": "a:b", "epoks": 3}}, "epochs"),
        ({"name": "digitz"}, "digit"),
        ({"run": {"task": "a:b"}, "growth": {"tiers": ["adversarial"]}}, "refused for any live"),
        ({"run": {"task": "a:b"}, "growth": {"drill": True}}, "drill"),
        ({"name": 7}, "run file"),
        ({}, "run is required"),
    ],
)
async def test_a_wrong_submission_is_refused_with_the_way_out(
    client: Client, wrong: Any, says: str
) -> None:
    status, problem = await posted(client, "/api/runs", wrong)
    assert status == 422
    assert says in problem["detail"]


async def test_a_recorded_run_has_exactly_the_promised_fields(client: Client, told: Told) -> None:
    run = await body(client, f"/api/runs/{await told()}")
    assert list(run) == [
        "id", "name", "state", "epoch", "epochs", "policy", "metrics", "seeds", "boundary_ms",
        "overhead_ratio", "created_at", "error", "primary_metric", "progress",
    ]  # fmt: skip
    assert run["state"] == "completed"
    assert set(run["metrics"]) == {"training_loss", "validation_loss", "validation_accuracy"}
    assert run["boundary_ms"]["p50"] < run["boundary_ms"]["p99"]
    assert run["primary_metric"] == "validation_accuracy"
    assert len(run["seeds"]) == 7


async def test_seeds_that_ended_are_shown_with_their_gates(client: Client, told: Told) -> None:
    seeds = {s["id"]: s for s in await body(client, f"/api/runs/{await told()}/seeds")}
    assert list(seeds["s2"]) == [
        "id", "site", "stage", "blueprint", "kernel", "alpha", "age_epochs", "clean_contribution",
        "dependence", "benefit_vs_twin", "gates",
    ]  # fmt: skip
    assert seeds["s2"]["stage"] == "FOSSILIZED"
    assert [gate["name"] for gate in seeds["s2"]["gates"]] == ["G0", "G2", "ramp", "G3", "G4"]
    assert seeds["s5"]["benefit_vs_twin"] is None
    assert seeds["s5"]["gates"][-1]["reason"].startswith("2 tensors")


async def test_pages_follow_each_other_to_the_end_without_a_gap(client: Client, told: Told) -> None:
    url: str | None = f"/api/runs/{await told()}/decisions?limit=10"
    numbers: list[int] = []
    while url is not None:
        async with client.get(url) as response:
            numbers += [item["boundary"] for item in await response.json()]
            link = response.links.get("next")
            url = None if link is None else str(link["url"].relative())
    assert numbers == list(range(1, 33))


async def test_field_reports_name_their_losers(client: Client, told: Told) -> None:
    first, second = await body(client, f"/api/runs/{await told()}/field-reports")
    assert (first["outcome"], second["outcome"]) == ("SUCCESS", "NEUTRAL")
    assert len(first["losers"]) == 4


async def test_a_picture_can_be_asked_for_from_a_record_on(client: Client, told: Told) -> None:
    run_id = await told()
    whole = await body(client, f"/api/runs/{run_id}/picture")
    rest = await body(client, f"/api/runs/{run_id}/picture?after={whole['seq'] - 3}")
    assert len(whole["rows"]) == 32
    assert len(rest["rows"]) < 3
    assert rest["end"] == whole["end"]


async def test_pause_resume_and_stop_are_accepted_and_then_conflict(client: Client) -> None:
    _, run = await posted(client, "/api/runs", RUN_FILE)
    path = f"/api/runs/{run['id']}"
    assert (await posted(client, f"{path}/pause"))[1]["state"] == "paused"
    assert (await posted(client, f"{path}/resume"))[1]["state"] == "queued"
    status, stopped = await posted(client, f"{path}/stop")
    assert (status, stopped["state"]) == (202, "stopped")
    status, problem = await posted(client, f"{path}/pause")
    assert status == 409
    assert "stopped" in problem["detail"]


@pytest.mark.parametrize(
    ("json", "expected"),
    [({"to_boundary": 3}, 409), ({"to_boundary": -1}, 422), ({"to": 3}, 422), (None, 409)],
)
async def test_a_rollback_wants_a_boundary_and_a_training_process(
    client: Client, json: Any, expected: int
) -> None:
    _, run = await posted(client, "/api/runs", RUN_FILE)
    status, _ = await posted(client, f"/api/runs/{run['id']}/rollback", json)
    assert status == expected


@pytest.mark.parametrize(
    ("json", "status", "says"),
    [
        (None, 422, "one of minor, major, severe, critical"),
        ({"level": "SEVERE", "reason": "smoke"}, 422, "one of minor, major, severe, critical"),
        ({"level": ["critical"], "reason": "smoke"}, 422, "one of minor, major, severe, critical"),
        ({"level": "severe", "reason": "smoke", "to": 3}, 422, "one of minor"),
        ({"level": "severe"}, 422, "says why, in a reason of 1 to 500 characters"),
        ({"level": "severe", "reason": ""}, 422, "says why"),
        ({"level": "severe", "reason": "x" * 501}, 422, "says why"),
        ({"level": "critical", "reason": "smoke"}, 409, "tolaria is down"),
    ],
)
async def test_an_emergency_has_a_level_and_says_why(
    client: Client, json: Any, status: int, says: str
) -> None:
    _, run = await posted(client, "/api/runs", RUN_FILE)
    found, problem = await posted(client, f"/api/runs/{run['id']}/emergency", json)
    assert found == status
    assert says in problem["detail"]


async def test_a_rollback_to_a_boundary_that_is_still_to_come_is_refused_at_once(
    client: Client, world: World
) -> None:
    _, run = await posted(client, "/api/runs", RUN_FILE)
    for record in story.numbered()[:40]:
        await world.context.hub.accept({**record, "run": run["id"]})
    status, problem = await posted(client, f"/api/runs/{run['id']}/rollback", {"to_boundary": 90})
    assert status == 409
    assert "boundary 90: it has only come to 9" in problem["detail"]


async def test_a_fossilised_seed_cannot_be_culled(client: Client, told: Told) -> None:
    run_id = await told()
    status, problem = await posted(client, f"/api/runs/{run_id}/seeds/s2/cull")
    assert status == 409
    assert "fossilised" in problem["detail"]
    assert (await posted(client, f"/api/runs/{run_id}/seeds/s1/cull"))[0] == 409
    assert (await posted(client, f"/api/runs/{run_id}/seeds/s99/cull"))[0] == 404


@pytest.mark.parametrize(
    "path", ["", "/epochs", "/decisions", "/field-reports", "/seeds", "/picture"]
)
async def test_an_unknown_run_is_404_everywhere(client: Client, path: str) -> None:
    async with client.get(f"/api/runs/ghost{path}") as response:
        assert response.status == 404
        assert response.content_type == "application/problem+json"
