"""What others answer may be anything: it is read, or told in words, and never raises otherwise."""

import asyncio
import json
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import aiohttp
from aiohttp import web
from aiohttp.test_utils import TestServer
from hypothesis import given, settings
from hypothesis import strategies as st

from esper_async.nissa.elastic import CURSOR, ShippingError
from esper_async.nissa.event_store import EventStore
from esper_async.nissa.past_metrics import FromPrometheus, PastError
from esper_async.runtime.clock import FakeClock
from tests.nissa.test_elastic import elastic, fill

_WORDS = ("status", "data", "result", "metric", "values", "items", "create", "error", "type")
_SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
    | st.sampled_from(["success", "1.5", "NaN", 10**400, -1, 201, 400, 429])
)  # fmt: skip
_VALUES = st.recursive(
    _SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(_WORDS), inner, max_size=4)
    ),
    max_leaves=12,
)
_NUMBERS = st.sampled_from([0, 400, "1.5", "NaN", "x", None, 10**400, True, "-1e999", [], {}])
_PAIRS = st.lists(st.lists(_NUMBERS, min_size=1, max_size=3), max_size=3)
_SERIES = st.fixed_dictionaries({"metric": st.just({}), "values": _PAIRS})
_NEARLY_PROMETHEUS = st.fixed_dictionaries(
    {
        "status": st.just("success"),
        "data": st.fixed_dictionaries({"result": st.lists(_SERIES | _VALUES, max_size=3)})
        | _VALUES,
    }
)
_ITEM = st.fixed_dictionaries({"create": st.fixed_dictionaries({"status": _NUMBERS}) | _VALUES})
_NEARLY_BULK = st.fixed_dictionaries({"items": st.lists(_ITEM | _VALUES, max_size=2) | _VALUES})


def bodies(nearly: st.SearchStrategy[Any]) -> st.SearchStrategy[list[bytes]]:
    """Several answers: bytes of any kind, JSON of any kind, and what is nearly right."""
    one = st.binary(max_size=40) | (_VALUES | nearly).map(lambda value: json.dumps(value).encode())
    return st.lists(one, min_size=20, max_size=20)


def answering(answers: list[bytes]) -> web.Application:
    """A server that gives one of them after the other."""

    async def answer(_: web.Request) -> web.Response:
        return web.Response(body=answers.pop(0), content_type="application/json")

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    return app


@settings(max_examples=25, deadline=None)
@given(bodies(_NEARLY_PROMETHEUS))
def test_whatever_a_prometheus_answers_is_read_or_told(answers: list[bytes]) -> None:
    async def ask() -> None:
        async with TestServer(answering(answers)) as server:
            past = FromPrometheus(str(server.make_url("/")))
            while answers:
                with suppress(PastError):
                    if len(answers) % 2:
                        await past.names()
                    else:
                        await past.range("esper_x", since=0.0, until=60.0, step_s=60)

    asyncio.run(ask())


@settings(max_examples=25, deadline=None)
@given(bodies(_NEARLY_BULK))
def test_whatever_an_elasticsearch_answers_an_event_waits_until_it_is_settled(
    answers: list[bytes],
) -> None:
    async def ship(events: EventStore) -> None:
        async with TestServer(answering(answers)) as server, aiohttp.ClientSession() as session:
            shipper, settled = elastic(str(server.make_url("/")), events), 0
            while answers and not settled:
                with suppress(ShippingError):
                    settled = await shipper.ship(session)
                assert events.cursor(CURSOR) == settled

    with TemporaryDirectory() as folder:
        events = EventStore(Path(folder) / "events.sqlite", clock=FakeClock())
        events.open()
        try:
            fill(events, 1)
            asyncio.run(ship(events))
        finally:
            events.close()
