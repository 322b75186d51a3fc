"""The metrics' past for page and API: from the roll-ups, or from a Prometheus that one names."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import isfinite
from typing import Any, Literal, Protocol

import aiohttp

from esper_async.nissa.history import History, Point, SeriesHistory
from esper_async.nissa.reading import SampleKind

_COUNTING = ("_total", "_count", "_sum")


class PastError(Exception):
    """The past cannot be read now, and why."""


@dataclass(frozen=True, slots=True)
class Past:
    """What became of one name."""

    name: str
    kind: SampleKind
    step_s: int
    source: Literal["sqlite", "prometheus"]
    series: list[SeriesHistory]

    def to_json(self) -> dict[str, Any]:
        """The past as the API shows it."""
        return {
            "name": self.name,
            "kind": self.kind,
            "step_s": self.step_s,
            "source": self.source,
            "series": [
                {"labels": each.labels, "points": [point.to_json() for point in each.points]}
                for each in self.series
            ],
        }


class PastMetrics(Protocol):
    """Where the past is read. Both raise PastError."""

    async def names(self) -> list[str]:
        """The exposed names that have a past, in order."""
        ...

    async def range(self, name: str, *, since: float, until: float, step_s: int) -> Past | None:
        """The past of a name in buckets of `step_s`; None for a name that has none."""
        ...


class RolledUp:
    """The past as this installation has kept it."""

    def __init__(self, history: History) -> None:
        self._history = history

    async def names(self) -> list[str]:
        """The exposed names that have a past, in order."""
        return await asyncio.to_thread(self._history.names)

    async def range(self, name: str, *, since: float, until: float, step_s: int) -> Past | None:
        """The past of a name in buckets of `step_s`; None for a name that has none."""
        kind, series = await asyncio.to_thread(
            self._history.range, name, since=since, until=until, step_s=step_s
        )
        return None if kind is None else Past(name, kind, step_s, "sqlite", series)


class FromPrometheus:
    """The past as a Prometheus that scrapes this installation has kept it."""

    def __init__(self, url: str, *, timeout_s: float = 10.0) -> None:
        self._url = url.rstrip("/")
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)

    async def names(self) -> list[str]:
        """The exposed names that have a past, in order."""
        matching = {"match[]": '{__name__=~"esper_.+"}'}
        found = await self._get("/api/v1/label/__name__/values", matching)
        with self._understanding():
            return sorted(name for name in found if not name.endswith("_bucket"))

    async def range(self, name: str, *, since: float, until: float, step_s: int) -> Past | None:
        """The past of a name in buckets of `step_s`; None for a name that has none.

        A counter's buckets are what PromQL's `increase` says, which extrapolates.
        """
        counts = name.endswith(_COUNTING)
        asked = f"increase({name}[{step_s}s])" if counts else f"avg_over_time({name}[{step_s}s])"
        found = await self._get(
            "/api/v1/query_range",
            {"query": asked, "start": str(since), "end": str(until), "step": str(step_s)},
        )
        with self._understanding():
            series = [_series(each) for each in found["result"]]
        if not series:
            return None
        return Past(name, "counter" if counts else "gauge", step_s, "prometheus", series)

    @contextmanager
    def _understanding(self) -> Iterator[None]:
        """Turn an answer in another form than a Prometheus gives into a PastError."""
        try:
            yield
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            said = f"what no Prometheus says ({error!r})"
            raise PastError(f"Prometheus at {self._url} answers {said}") from error

    async def _get(self, path: str, query: dict[str, str]) -> Any:
        try:
            async with (
                aiohttp.ClientSession(timeout=self._timeout) as session,
                session.get(self._url + path, params=query) as answer,
            ):
                body = json.loads(await answer.read())
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError, RecursionError) as error:
            raise PastError(f"Prometheus at {self._url} does not answer: {error!r}") from error
        with self._understanding():
            if body["status"] != "success":
                raise PastError(f"Prometheus at {self._url} refuses: {body.get('error')}")
            return body["data"]


def _series(told: dict[str, Any]) -> SeriesHistory:
    """Read a series; a value that is not finite is none."""
    labels = {str(key): str(text) for key, text in told["metric"].items() if key != "__name__"}
    points = [(float(time), float(value)) for time, value in told["values"]]
    return SeriesHistory(labels, [Point(*point) for point in points if all(map(isfinite, point))])
