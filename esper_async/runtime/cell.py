"""A cell: one service behind an edge that its failure cannot pass.

The service runs in an inner task group; whatever it raises ends there, as a state that others can
see. The cell starts it when its needs are ready, stops it when one of them is lost, restarts it
with back-off when it fails, and declares it failed past the restart limit. A failure before it was
ever ready is a failure to start: it is reported as such and not retried.

A service that has not ended some time after its cancellation is named (`overdue`) and cancelled
again, and again, until it does: one that swallows cancellation holds up what stands on it, no more.
"""

import asyncio
import random
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Literal

from esper_async.runtime.clock import Clock
from esper_async.runtime.errors import ServiceEnded, StartTimeout
from esper_async.runtime.restart import RestartLimiter, RestartPolicy
from esper_async.runtime.service import Service

CellState = Literal["waiting", "starting", "ready", "backing_off", "failed", "stopped"]


class Cell:
    """Run one service; see the module's docstring for the contract.

    `needs` are the cells it stands on; those in `after` must have been ready once before it starts.
    `on_change(cell)` is called after each change of `state` and of `overdue`. `since` is the Unix
    time of the last change of state, `error` the last failure, `error_at_stop` what went wrong
    while it was stopped; while it backs off, `next_attempt_s` is the whole wait and
    `next_attempt_at` the Unix time of its end. Lives in one event loop.
    """

    def __init__(
        self,
        service: Service,
        *,
        clock: Clock,
        source: random.Random,
        needs: Sequence["Cell"] = (),
        after: Sequence["Cell"] = (),
        policy: RestartPolicy | None = None,
        start_timeout_s: float = 60.0,
        stop_timeout_s: float = 20.0,
        on_change: Callable[["Cell"], None] | None = None,
    ) -> None:
        self.service = service
        self.needs = tuple(needs)
        self.after = tuple(after)
        self.stop_timeout_s = stop_timeout_s
        self.state: CellState = "waiting"
        self.since = clock.time()
        self.error: Exception | None = None
        self.error_at_stop: Exception | None = None
        self.ever_ready = False
        self.next_attempt_s: float | None = None
        self.next_attempt_at: float | None = None
        self.overdue = False
        self._clock = clock
        self._limiter = RestartLimiter(policy or RestartPolicy(), clock, source)
        self._start_timeout_s = start_timeout_s
        self._on_change = on_change
        self._is_up = asyncio.Event()
        self._is_down = asyncio.Event()
        self._is_down.set()
        self._stopping = asyncio.Event()
        self._finished = asyncio.Event()

    @property
    def name(self) -> str:
        """The service's name."""
        return self.service.name

    @property
    def restarts(self) -> int:
        """How often the service has been restarted after a failure."""
        return self._limiter.total

    @property
    def restarts_left(self) -> int:
        """How many failures from now on would be forgiven before it is declared failed."""
        return self._limiter.left

    @property
    def asked_to_stop(self) -> bool:
        """Whether `stop` has been called."""
        return self._stopping.is_set()

    def stop(self) -> None:
        """Ask the service to end; `wait_finished` says when it has."""
        self._stopping.set()

    async def wait_ready(self) -> None:
        """Wait until the service is ready."""
        await self._is_up.wait()

    async def wait_finished(self) -> None:
        """Wait until the cell has ended: stopped, or declared failed."""
        await self._finished.wait()

    async def run(self) -> None:
        """Keep the service running until `stop` or until it is declared failed; never raises."""
        try:
            while await self._needs_are_ready():
                failure = await self._live()
                if self._stopping.is_set():
                    self.error_at_stop = failure
                    break
                if failure is not None and not await self._may_restart(failure):
                    return
            self._enter("stopped")
        finally:
            self._finished.set()

    async def _needs_are_ready(self) -> bool:
        """Wait for every need; return False when asked to stop instead."""
        self._enter("waiting")
        while not self._stopping.is_set():
            awaited = (*self.needs, *(cell for cell in self.after if not cell.ever_ready))
            missing = next((cell for cell in awaited if not cell._is_up.is_set()), None)
            if missing is None:
                return True
            await _first_of(missing._is_up.wait(), self._stopping.wait())
        return False

    async def _live(self) -> Exception | None:
        """Let the service live once; return its failure, or None when it was made to end."""
        self._enter("starting")
        interrupted: list[Exception | None] = []
        failure: Exception | None = None
        try:
            async with asyncio.TaskGroup() as inner:
                life = inner.create_task(self.service.run(self._ready), name=self.name)
                guard = inner.create_task(self._interrupt(life, interrupted))
                life.add_done_callback(lambda _: guard.cancel())
        except* Exception as group:  # noqa: BLE001 - the edge: a failure becomes a state
            failure = _first_leaf(group)
        if failure is None and not interrupted:
            failure = ServiceEnded(f"{self.name} returned although nobody asked it to stop")
        if interrupted and interrupted[0] is not None:
            failure = interrupted[0]
        self._is_up.clear()
        self._is_down.set()
        self.overdue = False
        return failure

    async def _interrupt(
        self, life: asyncio.Task[None], interrupted: list[Exception | None]
    ) -> None:
        """Cancel the service when it must end; note in `interrupted` if it fails so.

        Once is enough for one that keeps the contract; one that does not is reminded.
        """
        lost = [need._is_down.wait() for need in self.needs]
        first = await _first_of(self._start_late(), self._stopping.wait(), *lost)
        late = StartTimeout(f"{self.name} was not ready within {self._start_timeout_s:g} s")
        interrupted.append(late if first == 0 else None)
        life.cancel()
        while True:
            await self._clock.sleep(self.stop_timeout_s)
            self.overdue = True
            self._tell()
            life.cancel()

    async def _start_late(self) -> None:
        """Return when the service should have become ready and has not."""
        await self._clock.sleep(self._start_timeout_s)
        if self._is_up.is_set():
            await asyncio.Event().wait()

    def _ready(self) -> None:
        if self._is_up.is_set() or self._stopping.is_set():
            return
        self.ever_ready = True
        self._limiter.healthy()
        self._is_down.clear()
        self._is_up.set()
        self._enter("ready")

    async def _may_restart(self, failure: Exception) -> bool:
        """Wait out the back-off and return True, or declare the service failed."""
        self.error = failure
        delay_s = self._limiter.next_delay_s() if self.ever_ready else None
        if delay_s is None:
            self._enter("failed")
            return False
        self.next_attempt_s = delay_s
        self.next_attempt_at = self._clock.time() + delay_s
        self._enter("backing_off")
        await _first_of(self._clock.sleep(delay_s), self._stopping.wait())
        self.next_attempt_s = self.next_attempt_at = None
        return True

    def _enter(self, state: CellState) -> None:
        if state == self.state:
            return
        self.state = state
        self.since = self._clock.time()
        self._tell()

    def _tell(self) -> None:
        if self._on_change is not None:
            self._on_change(self)


async def _first_of(*waits: Coroutine[Any, Any, object]) -> int:
    """Wait for the first of several waits to end, cancel the others, and return its index."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(wait) for wait in waits]
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
    return max(tasks.index(task) for task in done)


def _first_leaf(group: BaseExceptionGroup[Exception]) -> Exception:
    """Return the first plain exception in a group."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, Exception)
    return error
