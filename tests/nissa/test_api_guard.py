"""What stands before every handler: tokens, foreign pages, sizes, rates, malformed requests."""

from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient

from esper_async.nissa.access import load_token
from esper_async.nissa.rate_limit import RateLimit
from esper_async.nissa.route import BODY_LIMIT_BYTES
from esper_async.runtime.clock import FakeClock
from tests.nissa.conftest import BEARER, TOKEN, World

Client = TestClient[Any, Any]
CHANGE = "/api/runs/ghost/stop"


async def status(client: Client, method: str, path: str, **more: Any) -> int:
    async with client.request(method, path, **more) as response:
        if response.status >= 400:
            problem = await response.json()
            assert response.content_type == "application/problem+json"
            assert problem["status"] == response.status
            assert problem["detail"]
        return response.status


async def test_reading_is_open_on_this_machine(client: Client) -> None:
    assert await status(client, "GET", "/api/runs") == 200


async def test_a_change_needs_the_token(client: Client) -> None:
    assert await status(client, "POST", CHANGE) == 401
    assert await status(client, "POST", CHANGE, headers={"Authorization": "Bearer wrong"}) == 401
    assert await status(client, "POST", CHANGE, headers={"Authorization": "Basic eDp5"}) == 401
    assert await status(client, "POST", CHANGE, headers=BEARER) == 404


async def test_the_page_gets_a_cookie_that_lets_it_act_and_is_not_the_token(
    client: Client,
) -> None:
    async with client.get("/") as response:
        cookie = response.cookies["esper_page"]
    assert cookie["httponly"]
    assert cookie["samesite"] == "Strict"
    assert TOKEN not in cookie.value
    assert await status(client, "POST", CHANGE) == 404


async def test_the_cookie_does_not_help_another_origin(client: Client) -> None:
    async with client.get("/"):
        pass
    for headers in (
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ):
        assert await status(client, "POST", CHANGE, headers=headers) == 403
    own = f"http://{client.host}:{client.port}"
    assert await status(client, "POST", CHANGE, headers={"Origin": own}) == 404


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "", "[::1"])
async def test_a_foreign_host_name_is_refused_even_for_reading(client: Client, host: str) -> None:
    assert await status(client, "GET", "/api/runs", headers={"Host": host}) == 403
    assert await status(client, "GET", "/api/runs", headers={"Host": host, **BEARER}) == 200


async def test_a_stream_from_another_origin_is_refused(client: Client) -> None:
    headers = {"Origin": "http://evil.example", "Upgrade": "websocket", "Connection": "Upgrade"}
    assert await status(client, "GET", "/ws/stream", headers=headers) == 403


async def test_an_oversized_body_is_refused_whether_or_not_it_says_its_size(
    client: Client,
) -> None:
    big = b"x" * (BODY_LIMIT_BYTES + 1)

    async def chunks() -> Any:
        yield big

    for data in (big, chunks()):
        assert await status(client, "POST", "/api/runs", data=data, headers=BEARER) == 413


@pytest.mark.parametrize(
    ("data", "kind", "expected"),
    [
        (b"{", "application/json", 400),
        (b"[" * 60_000, "application/json", 400),
        (b"[]", "application/json", 422),
        (b"name=digits", "application/x-www-form-urlencoded", 415),
    ],
)
async def test_a_body_that_is_no_json_object_is_refused(
    client: Client, data: bytes, kind: str, expected: int
) -> None:
    headers = {**BEARER, "Content-Type": kind}
    assert await status(client, "POST", "/api/runs", data=data, headers=headers) == expected


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=1001", "limit=x", "level=loud", "since=nan", "before=1.5"]
)
async def test_a_parameter_out_of_bounds_is_named(client: Client, query: str) -> None:
    async with client.get(f"/api/events?{query}") as response:
        assert response.status == 400
        assert query.split("=")[0] in (await response.json())["detail"]


async def test_the_twenty_first_change_in_a_minute_waits(client: Client, world: World) -> None:
    for _ in range(20):
        assert await status(client, "POST", CHANGE, headers=BEARER) == 404
    async with client.post(CHANGE, headers=BEARER) as response:
        assert response.status == 429
        assert response.headers["Retry-After"] == "60"
    assert await status(client, "GET", "/api/runs") == 200
    world.clock.advance(60.0)
    assert await status(client, "POST", CHANGE, headers=BEARER) == 404


async def test_wrong_tokens_use_up_their_own_budget_not_the_operators(client: Client) -> None:
    for _ in range(20):
        assert await status(client, "POST", CHANGE) == 401
    assert await status(client, "POST", CHANGE) == 429
    assert await status(client, "POST", CHANGE, headers=BEARER) == 404


async def test_refusals_are_counted_by_status(client: Client, world: World) -> None:
    await status(client, "POST", CHANGE)
    async with client.get("/metrics") as response:
        assert 'esper_nissa_requests_refused_total{code="401"} 1.0' in await response.text()


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/nothing", 404),
        ("DELETE", "/api/runs", 405),
        ("GET", "/page/../service.py", 404),
        ("GET", "/page/%2e%2e/service.py", 404),
        ("GET", "/page/.hidden.js", 404),
        ("GET", "/page/app.py", 404),
        ("GET", "/ws/stream", 426),
    ],
)
async def test_what_is_not_there_is_said_so(
    client: Client, method: str, path: str, expected: int
) -> None:
    assert await status(client, method, path) == expected


async def test_a_defect_is_a_500_without_its_insides(client: Client, world: World) -> None:
    world.system.clear()  # status_of will miss its keys
    async with client.get("/api/status") as response:
        assert response.status == 500
        assert "KeyError" not in await response.text()


async def test_every_answer_carries_the_security_headers(client: Client) -> None:
    for path in ("/", "/api/runs", "/api/runs/ghost"):
        async with client.get(path) as response:
            assert response.headers["X-Content-Type-Options"] == "nosniff"
            assert "frame-ancestors 'none'" in response.headers["Content-Security-Policy"]


def test_a_token_is_made_once_and_private(tmp_path: Path) -> None:
    token = load_token(tmp_path)
    assert load_token(tmp_path) == token
    assert (tmp_path / "token").stat().st_mode & 0o777 == 0o600
    assert load_token(tmp_path, "given-by-the-environment") == "given-by-the-environment"


def test_a_token_that_others_can_read_or_that_is_empty_is_refused(tmp_path: Path) -> None:
    load_token(tmp_path)
    (tmp_path / "token").chmod(0o644)
    with pytest.raises(ValueError, match="chmod 600"):
        load_token(tmp_path)
    (tmp_path / "token").chmod(0o600)
    (tmp_path / "token").write_text("")
    with pytest.raises(ValueError, match="delete it"):
        load_token(tmp_path)
    with pytest.raises(ValueError, match="16 characters"):
        load_token(tmp_path, "short")


def test_one_clients_haste_is_not_anothers_and_memory_is_bounded() -> None:
    limit = RateLimit(1, clock=FakeClock())
    assert limit.take("a") == 0.0
    assert limit.take("a") > 0.0
    for number in range(2_000):
        assert limit.take(f"client-{number}") == 0.0
    assert len(limit._times) <= 1_000
