"""The tree of services: started in dependency order, restarted alone, stopped in reverse.

Each service is in a cell of its own. A cell starts once its needs are ready, so independent ones
start side by side. Only the tree's verdict reaches the outside: a service that failed to start
(StartError), or an essential one past its restart limit (EssentialServiceFailedError).
"""

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from typing import Any

import structlog

from esper_async.runtime.cell import Cell
from esper_async.runtime.clock import Clock
from esper_async.runtime.restart import RestartPolicy
from esper_async.runtime.service import HasBreakers, HasDetail, Service
from esper_async.supervisor.errors import EssentialServiceFailedError, StartError

log = structlog.get_logger(__name__)


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

    Raises ValueError at once when a need is unknown, names repeat, or needs go in a circle. A
    service that an essential one needs is essential too.
    """

    def __init__(
        self,
        services: Sequence[Service],
        *,
        clock: Clock,
        source: random.Random,
        policy: RestartPolicy | None = None,
        start_timeout_s: float = 60.0,
        on_change: Callable[[Cell], None] | None = None,
    ) -> None:
        order = _in_order(services)
        self._clock = clock
        self._on_change = on_change
        self._events = asyncio.Event()
        self.cells: dict[str, Cell] = {}
        for service in order:
            self.cells[service.name] = Cell(
                service,
                clock=clock,
                source=source,
                needs=[self.cells[need] for need in service.needs],
                policy=policy,
                start_timeout_s=start_timeout_s,
                on_change=self._changed,
            )
        self.essential = _essential(order)
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
        """Return state, since, restarts, breakers and detail of every service, by name."""
        return {name: _facts(cell) for name, cell in self.cells.items()}

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
        """Stop each cell once those that need it have ended; return who is late."""
        dependents: dict[str, list[Cell]] = {name: [] for name in self.cells}
        for cell in self.cells.values():
            for need in cell.needs:
                dependents[need.name].append(cell)

        async def stop_one(cell: Cell) -> None:
            for dependent in dependents[cell.name]:
                await dependent.wait_finished()
            cell.stop()
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
        blocked = {need.name for name in overdue for need in self.cells[name].needs}
        return StopReport(
            overdue=tuple(name for name in overdue if name not in blocked) or tuple(overdue),
            errors=tuple(
                f"{cell.name}: {cell.error}"
                for cell in self.cells.values()
                if cell.state == "stopped" and cell.error_at_stop is not None
            ),
        )

    def _changed(self, cell: Cell) -> None:
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


def _facts(cell: Cell) -> dict[str, Any]:
    service = cell.service
    facts: dict[str, Any] = {
        "state": cell.state,
        "since": cell.since,
        "restarts": cell.restarts,
        "breakers": service.breakers() if isinstance(service, HasBreakers) else {},
        "detail": service.detail() if isinstance(service, HasDetail) else {},
    }
    if cell.error is not None:
        facts["error"] = f"{type(cell.error).__name__}: {cell.error}"
    if cell.next_attempt_s is not None:
        facts["next_attempt_s"] = round(cell.next_attempt_s, 3)
    return facts


def _in_order(services: Sequence[Service]) -> list[Service]:
    by_name = {service.name: service for service in services}
    if len(by_name) != len(services):
        raise ValueError("two services have the same name")
    for service in services:
        unknown = [need for need in service.needs if need not in by_name]
        if unknown:
            raise ValueError(f"{service.name} needs {unknown[0]!r}, which is no service")
    try:
        names = TopologicalSorter({s.name: s.needs for s in services}).static_order()
        return [by_name[name] for name in names]
    except CycleError as error:
        raise ValueError(f"services need each other in a circle: {error.args[1]}") from None


def _essential(order: Sequence[Service]) -> frozenset[str]:
    essential: set[str] = set()
    for service in reversed(order):
        if service.essential or service.name in essential:
            essential.add(service.name)
            essential.update(service.needs)
    return frozenset(essential)


async def _either(first: asyncio.Event, second: asyncio.Event) -> None:
    waits = [asyncio.ensure_future(first.wait()), asyncio.ensure_future(second.wait())]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
