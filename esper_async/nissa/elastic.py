"""Events to Elasticsearch, beside the store on disk: a data stream, filled through `_bulk`.

The store is the queue: a cursor in it says how far the other side has come, so that nothing is lost
while that is away, and a repeated event is one it knows already (`create` under the event's uid). A
whole answer of 429 or 5xx, and single items of 429, are tried again with growing pauses; an item
that is refused otherwise is set aside with its reason, and the others go on.
"""

import asyncio
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import aiohttp
import structlog

from esper_async.nissa.event_store import EventStore
from esper_async.nissa.metrics import NissaMetrics
from esper_async.runtime.clock import Clock, SystemClock

log = structlog.get_logger(__name__)
CURSOR = "elasticsearch"
_AT_ONCE = 500
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 60.0
_LONGEST_ASKED_PAUSE_S = 3_600.0
_TOO_MANY, _BAD, _CONFLICT, _SERVER_ERROR = 429, 400, 409, 500
Retention = Literal["lifecycle", "ism", "none"]


class ShippingError(Exception):
    """The other side cannot take events now; `after_s` is how long it asks one to wait."""

    def __init__(self, reason: str, after_s: float | None = None) -> None:
        super().__init__(reason)
        self.after_s = after_s


@dataclass(frozen=True, slots=True, kw_only=True)
class ElasticOptions:
    """Where events go. `api_key` is sent as `Authorization: ApiKey`; `url` may hold a password."""

    url: str
    stream: str = "esper-events"
    api_key: str = ""
    retention_s: float = 7 * 86_400.0
    timeout_s: float = 10.0


class Elastic:
    """Carries the store's events over. All calls from one event loop."""

    def __init__(
        self,
        options: ElasticOptions,
        events: EventStore,
        *,
        metrics: NissaMetrics,
        clock: Clock | None = None,
        source: random.Random | None = None,
    ) -> None:
        self._options = options
        self._events = events
        self._metrics = metrics
        self._clock = clock or SystemClock()
        self._random = source or random.Random()  # noqa: S311 - jitter, not a secret
        self._again: list[dict[str, Any]] = []
        self._cursor: int | None = None
        self._through = 0
        self.retention: Retention | None = None

    async def run(self) -> None:
        """Ship until cancelled; whatever the other side does, this goes on."""
        failed = 0
        while True:
            try:
                async with self._session() as session:
                    if self.retention is None:
                        self.retention = await self._prepare(session)
                    shipped = await self.ship(session)
            except ShippingError as error:
                pause_s = error.after_s or min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2.0**failed)
                failed += 1
                log.warning("events_not_shipped", reason=str(error), again_in_s=round(pause_s, 1))
                await self._clock.sleep(pause_s * self._random.uniform(0.5, 1.0))
                continue
            failed = 0
            if shipped < _AT_ONCE:
                await self._clock.sleep(_FIRST_PAUSE_S)

    async def ship(self, session: aiohttp.ClientSession) -> int:
        """Send the next events and return how many were settled.

        Raises:
            ShippingError: the other side did not answer, or wants to be left alone for a while.
        """
        if self._cursor is None:
            self._cursor = await asyncio.to_thread(self._events.cursor, CURSOR)
        batch = self._again
        if not batch:
            batch = await asyncio.to_thread(self._events.after, self._cursor, _AT_ONCE)
            if not batch:
                return 0
            self._through = batch[-1]["id"]
        items = await self._bulk(session, batch)
        self._again = [event for event, item in zip(batch, items, strict=True) if _busy(item)]
        for event, item in zip(batch, items, strict=True):
            await self._settle(event, item)
        if self._again:
            raise ShippingError(f"it has no room for {len(self._again)} events now")
        self._cursor = self._through
        await asyncio.to_thread(self._events.set_cursor, CURSOR, self._cursor)
        return len(batch)

    async def _settle(self, event: Mapping[str, Any], item: Mapping[str, Any]) -> None:
        status = item["status"]
        if status < _BAD or status == _CONFLICT:
            self._metrics.events_shipped.add(result="taken" if status < _BAD else "known")
        elif status != _TOO_MANY:
            reason = f"{status} {_reason(item)}"
            self._metrics.events_shipped.add(result="refused")
            log.error("event_refused", uid=event["uid"], reason=reason)
            await asyncio.to_thread(self._events.set_aside, event["id"], reason)

    async def _bulk(
        self, session: aiohttp.ClientSession, batch: Sequence[Mapping[str, Any]]
    ) -> list[dict[str, Any]]:
        lines = []
        for event in batch:
            action = {"create": {"_index": self._options.stream, "_id": event["uid"]}}
            lines += [json.dumps(action), json.dumps(document(event))]
        status, body, after_s = await self._ask(
            session, "POST", "/_bulk", "\n".join(lines) + "\n", "application/x-ndjson"
        )
        if status >= _BAD:
            raise ShippingError(f"_bulk was answered {status}: {_reason(body)}", after_s)
        try:
            items = [{**item["create"], "status": int(item["create"]["status"])}
                     for item in body["items"]]  # fmt: skip
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ShippingError(f"_bulk was answered in no form of its own: {error!r}") from error
        if len(items) != len(batch):
            raise ShippingError(f"_bulk told of {len(items)} of {len(batch)} events")
        return items

    async def _prepare(self, session: aiohttp.ClientSession) -> Retention:
        """Make the data stream's template, and have old events deleted where the server can."""
        name, days = self._options.stream, max(1, round(self._options.retention_s / 86_400))
        template = f"/_index_template/{name}"
        with_lifecycle = _template(name, {"lifecycle": {"data_retention": f"{days}d"}})
        status, body, after_s = await self._ask(
            session, "PUT", template, json.dumps(with_lifecycle)
        )
        if status < _BAD:
            return "lifecycle"
        if status == _BAD:  # OpenSearch does not know the word; its way is a policy
            plain = json.dumps(_template(name, {}))
            status, body, after_s = await self._ask(session, "PUT", template, plain)
        if status >= _BAD:
            raise ShippingError(f"{template} was answered {status}: {_reason(body)}", after_s)
        policy = json.dumps(_policy(name, days))
        status, _, _ = await self._ask(session, "PUT", f"/_plugins/_ism/policies/{name}", policy)
        if status < _BAD or status == _CONFLICT:
            return "ism"
        log.warning("no_retention_in_elasticsearch", stream=name, wanted_days=days)
        return "none"

    async def _ask(
        self,
        session: aiohttp.ClientSession,
        method: str,
        path: str,
        text: str,
        kind: str = "application/json",
    ) -> tuple[int, dict[str, Any], float | None]:
        """Return status, body and the pause that is asked for; raises ShippingError."""
        try:
            async with session.request(
                method,
                self._options.url.rstrip("/") + path,
                data=text.encode(),
                headers={"Content-Type": kind},
            ) as answer:
                raw, after = await answer.read(), answer.headers.get("Retry-After", "")
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise ShippingError(f"it does not answer: {error!r}") from error
        after_s = min(float(after), _LONGEST_ASKED_PAUSE_S) if after.isdecimal() else None
        if answer.status == _TOO_MANY or answer.status >= _SERVER_ERROR:
            raise ShippingError(f"{path} was answered {answer.status}", after_s)
        try:
            body = json.loads(raw)
        except (ValueError, RecursionError):
            body = {"error": raw[:200].decode("utf-8", "replace")}
        return answer.status, body if isinstance(body, dict) else {}, after_s

    def _session(self) -> aiohttp.ClientSession:
        key = self._options.api_key
        return aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=self._options.timeout_s),
            headers={"Authorization": f"ApiKey {key}"} if key else None,
        )


def document(event: Mapping[str, Any]) -> dict[str, Any]:
    """An event as the data stream has it."""
    return {
        "@timestamp": datetime.fromtimestamp(event["time"], UTC).isoformat(),
        "uid": event["uid"],
        "level": event["level"],
        "source": event["source"],
        "name": event["name"],
        "run": event["run"],
        "message": event["message"],
        "fields": {key: str(text) for key, text in event["fields"].items()},
    }


def _template(name: str, more: Mapping[str, Any]) -> dict[str, Any]:
    keyword = {"type": "keyword", "ignore_above": 1024}
    properties = {
        "@timestamp": {"type": "date"},
        "message": {"type": "text"},
        # one field however many keys events have: a mapping has a bound that an attack would find
        "fields": {"type": "object", "enabled": False},
        **dict.fromkeys(("uid", "level", "source", "name", "run"), keyword),
    }
    return {
        "index_patterns": [f"{name}*"],
        "data_stream": {},
        "priority": 200,
        "template": {"mappings": {"dynamic": False, "properties": properties}, **more},
    }


def _policy(name: str, days: int) -> dict[str, Any]:
    gone = {"state_name": "gone", "conditions": {"min_index_age": f"{days}d"}}
    states = [
        {
            "name": "kept",
            "actions": [{"rollover": {"min_index_age": "1d"}}],
            "transitions": [gone],
        },
        {"name": "gone", "actions": [{"delete": {}}], "transitions": []},
    ]
    return {
        "policy": {
            "description": f"Esper's events go after {days} days",
            "default_state": "kept",
            "states": states,
            "ism_template": [{"index_patterns": [f"{name}*"], "priority": 200}],
        }
    }


def _busy(item: Mapping[str, Any]) -> bool:
    return bool(item["status"] == _TOO_MANY)


def _reason(body: Mapping[str, Any]) -> str:
    error = body.get("error", "")
    if isinstance(error, dict):
        error = f"{error.get('type')}: {error.get('reason')}"
    return str(error)[:300]
