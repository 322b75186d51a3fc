"""The tree of services: started in dependency order, restarted alone, stopped in reverse.

Each service is in a cell of its own. A cell starts once its needs are ready, so independent ones
start side by side. Only the tree's verdict reaches the outside: a service that failed to start
(StartError), an essential one past its restart limit (EssentialServiceFailedError), or restarts
past the limit of the whole tree (UnstableError).
"""

import asyncio
import contextlib
import difflib
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from typing import Any

import structlog

from esper_async.runtime.cell import Cell
from esper_async.runtime.clock import Clock
from esper_async.runtime.restart import RestartLimiter, RestartPolicy
from esper_async.runtime.service import HasBreakers, HasDetail, Service
from esper_async.supervisor.declared import Declaration
from esper_async.supervisor.errors import EssentialServiceFailedError, StartError, UnstableError

log = structlog.get_logger(__name__)
_PATIENCE_SHARE = 0.8  # of the whole deadline: what is below a late service still has to stop


@dataclass(frozen=True, slots=True)
class ServiceLimits:
    """What one service may take: restarts, and seconds to start and, once cancelled, to end."""

    restarts: RestartPolicy = field(default_factory=RestartPolicy)
    start_timeout_s: float = 60.0
    stop_timeout_s: float = 20.0


TREE_RESTARTS = RestartPolicy(limit=10, window_s=60.0)


@dataclass(frozen=True, slots=True)
class StopReport:
    """What became of a stop: the services that had not stopped at its deadline, and the errors."""

    overdue: tuple[str, ...]
    errors: tuple[str, ...]

    @property
    def clean(self) -> bool:
        """Whether everything stopped, in time and without an error."""
        return not self.overdue and not self.errors


class Tree:
    """Run services as one. Lives in one event loop; `run` may be called once.

    `declared` says what each of the `services` stands on. `limits` are those of services by name,
    `limit` those of all others, `restarts` those of the tree as a whole. Raises ValueError at once
    when a name is unknown, missing or repeats, or needs go in a circle. A service that an essential
    one needs is essential too.
    """

    def __init__(
        self,
        services: Sequence[Service],
        declared: Sequence[Declaration],
        *,
        clock: Clock,
        source: random.Random,
        limit: ServiceLimits | None = None,
        limits: Mapping[str, ServiceLimits] | None = None,
        restarts: RestartPolicy = TREE_RESTARTS,
        on_change: Callable[[Cell], None] | None = None,
    ) -> None:
        order = _in_order(declared)
        by_name = _by_name(services, order)
        limits = limits or {}
        check_names(limits, order)
        self._clock = clock
        self._on_change = on_change
        self._events = asyncio.Event()
        self.cells: dict[str, Cell] = {}
        for each in order:
            own = limits.get(each.name, limit or ServiceLimits())
            self.cells[each.name] = Cell(
                by_name[each.name],
                clock=clock,
                source=source,
                needs=[self.cells[name] for name in each.needs],
                after=[self.cells[name] for name in each.after],
                policy=own.restarts,
                start_timeout_s=own.start_timeout_s,
                stop_timeout_s=own.stop_timeout_s,
                on_change=self._changed,
            )
        self._breakers = {s.name: s for s in services if isinstance(s, HasBreakers)}
        self._details = {s.name: s for s in services if isinstance(s, HasDetail)}
        self.essential = _essential(order)
        self._restart_policy = restarts
        self._restarts = RestartLimiter(restarts, clock, source)
        self._unstable: UnstableError | None = None
        self.stopping = False
        self.started = False
        self._stop_asked = asyncio.Event()
        self._hurried = asyncio.Event()

    @property
    def ready(self) -> bool:
        """Whether every essential service is ready and nobody has asked for a stop."""
        up = all(self.cells[name].state == "ready" for name in self.essential)
        return up and not self.stopping

    @property
    def status(self) -> str:
        """One word: starting, ready, degraded (something that is not essential is away), ..."""
        if self.stopping:
            return "stopping"
        if all(cell.state == "ready" for cell in self.cells.values()):
            return "ready"
        if self.ready:
            return "degraded" if self.started else "starting"
        return "unready" if self.started else "starting"

    def snapshot(self) -> dict[str, dict[str, Any]]:
        """Return state, since, restarts, breakers and detail of every service, by name.

        Also `restarts_left`, and where there is one the last `error`; while a service backs off,
        `next_attempt_s` and `next_attempt_at` (Unix time); `overdue` if it ignores its end.
        """
        return {
            name: _facts(cell, self._breakers.get(name), self._details.get(name))
            for name, cell in self.cells.items()
        }

    def stop(self) -> None:
        """Ask for a drain; `run` returns when it is over. A second call cuts it short."""
        self.stopping = True
        if self._stop_asked.is_set():
            self._hurried.set()
        self._stop_asked.set()

    async def run(self, deadline_s: float) -> StopReport:
        """Run everything until `stop`, then stop in reverse within `deadline_s` seconds.

        Raises StartError or EssentialServiceFailedError after having stopped the rest. What has
        not stopped at the deadline is left running and named: end the process.
        """
        tasks = [
            asyncio.ensure_future(cell.run())  # kept here, ended below: outlives only a deadline
            for cell in self.cells.values()
        ]
        verdict: Exception | None = None
        try:
            verdict = await self._watch()
        finally:
            self.stopping = True
            report = await self._stop_all(deadline_s)
            if not report.overdue:
                await asyncio.gather(*tasks)
        if verdict is not None:
            raise verdict
        return report

    async def _watch(self) -> Exception | None:
        """Wait until a stop is asked for, or return the failure that ends the tree."""
        while not self._stop_asked.is_set():
            self._events.clear()
            if self._unstable is not None:
                return self._unstable
            if not self.started and all(cell.ever_ready for cell in self.cells.values()):
                self.started = True
                log.info("started", services=len(self.cells))
            for name, cell in self.cells.items():
                if cell.state != "failed":
                    continue
                if not cell.ever_ready:
                    return StartError(name, cell.error or "no reason was given")
                if name in self.essential:
                    return EssentialServiceFailedError(name, cell.restarts, cell.error)
            await _either(self._events, self._stop_asked)
        return None

    async def _stop_all(self, deadline_s: float) -> StopReport:
        """Stop each cell once those that need it have ended or are late; return who is late.

        One that will not end costs the others its own time to end, and not the whole deadline.
        """
        dependents: dict[str, list[Cell]] = {name: [] for name in self.cells}
        for cell in self.cells.values():
            for below in (*cell.needs, *cell.after):
                dependents[below.name].append(cell)
        let_go = {name: asyncio.Event() for name in self.cells}

        async def stop_one(cell: Cell) -> None:
            for dependent in dependents[cell.name]:
                await let_go[dependent.name].wait()
            cell.stop()
            patience_s = min(cell.stop_timeout_s, _PATIENCE_SHARE * deadline_s)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(patience_s):
                    await cell.wait_finished()
            let_go[cell.name].set()
            await cell.wait_finished()

        stops = [asyncio.ensure_future(stop_one(cell)) for cell in self.cells.values()]
        everything = asyncio.gather(*stops)
        hurried = asyncio.ensure_future(self._hurried.wait())
        ends: list[asyncio.Future[Any]] = [everything, hurried]
        await asyncio.wait(ends, timeout=deadline_s, return_when=asyncio.FIRST_COMPLETED)
        for end in ends:
            end.cancel()
        await asyncio.gather(*ends, return_exceptions=True)
        overdue = [n for n, cell in self.cells.items() if cell.state not in ("stopped", "failed")]
        blocked = {
            below.name
            for name in overdue
            for below in (*self.cells[name].needs, *self.cells[name].after)
            if not below.asked_to_stop
        }
        return StopReport(
            overdue=tuple(name for name in overdue if name not in blocked) or tuple(overdue),
            errors=tuple(
                f"{cell.name}: {cell.error}"
                for cell in self.cells.values()
                if cell.state == "stopped" and cell.error_at_stop is not None
            ),
        )

    def _changed(self, cell: Cell) -> None:
        if cell.state == "backing_off" and self._restarts.next_delay_s() is None:
            limits = self._restart_policy
            self._unstable = UnstableError(limits.limit, limits.window_s, cell.name, cell.error)
        if cell.overdue:
            log.error("service_does_not_end", service=cell.name, after_s=cell.stop_timeout_s)
        level = log.info if cell.state not in ("backing_off", "failed") else log.error
        error = f"{type(cell.error).__name__}: {cell.error}" if cell.error else None
        if cell.state in ("ready", "backing_off", "failed", "stopped"):
            level(
                "service_state",
                service=cell.name,
                state=cell.state,
                **({"error": error} if cell.state in ("backing_off", "failed") else {}),
            )
        self._events.set()
        if self._on_change is not None:
            self._on_change(cell)


def _facts(cell: Cell, breakers: HasBreakers | None, details: HasDetail | None) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "state": cell.state,
        "since": cell.since,
        "restarts": cell.restarts,
        "restarts_left": cell.restarts_left,
        "breakers": breakers.breakers.states() if breakers is not None else {},
        "detail": details.detail() if details is not None else {},
    }
    if cell.error is not None:
        facts["error"] = f"{type(cell.error).__name__}: {cell.error}"
    if cell.next_attempt_s is not None:
        facts["next_attempt_s"] = round(cell.next_attempt_s, 3)
        facts["next_attempt_at"] = cell.next_attempt_at
    if cell.overdue:
        facts["overdue"] = True
    return facts


def check_names(limits: Mapping[str, ServiceLimits], declared: Sequence[Declaration]) -> None:
    """Raise ValueError for limits of a service that there is not, naming the nearest."""
    names = [each.name for each in declared]
    for name in limits:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1) or names
            raise ValueError(f"there is no service {name!r} to limit; there is {', '.join(near)}")


def _by_name(services: Sequence[Service], declared: Sequence[Declaration]) -> dict[str, Service]:
    by_name = {service.name: service for service in services}
    if len(by_name) != len(services):
        raise ValueError("two services have the same name")
    odd = sorted(by_name.keys() ^ {each.name for each in declared})
    if odd:
        raise ValueError(f"{odd[0]} must be both a service and declared")
    return by_name


def _in_order(declared: Sequence[Declaration]) -> list[Declaration]:
    by_name = {each.name: each for each in declared}
    if len(by_name) != len(declared):
        raise ValueError("two services are declared under the same name")
    for each in declared:
        unknown = [name for name in (*each.needs, *each.after) if name not in by_name]
        if unknown:
            raise ValueError(f"{each.name} needs {unknown[0]!r}, which is no service")
    try:
        graph = {each.name: (*each.needs, *each.after) for each in declared}
        return [by_name[name] for name in TopologicalSorter(graph).static_order()]
    except CycleError as error:
        raise ValueError(f"services need each other in a circle: {error.args[1]}") from None


def _essential(order: Sequence[Declaration]) -> frozenset[str]:
    essential: set[str] = set()
    for each in reversed(order):
        if each.essential or each.name in essential:
            essential.add(each.name)
            essential.update(each.needs)
    return frozenset(essential)


async def _either(first: asyncio.Event, second: asyncio.Event) -> None:
    waits = [asyncio.ensure_future(first.wait()), asyncio.ensure_future(second.wait())]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
