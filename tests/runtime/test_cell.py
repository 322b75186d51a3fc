"""A cell keeps its service running, and keeps its failure to itself."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from esper_async.runtime.cell import Cell
from esper_async.runtime.clock import FakeClock
from esper_async.runtime.errors import ServiceEnded, StartTimeout
from esper_async.runtime.restart import RestartPolicy


@dataclass
class Puppet:
    """A service that does what the test tells it to."""

    name: str = "puppet"
    needs: tuple[str, ...] = ()
    essential: bool = False
    lives: int = 0
    cleaned: int = 0
    becomes_ready: bool = True
    ends: asyncio.Queue[Exception | None] = field(default_factory=asyncio.Queue)

    async def run(self, ready: Callable[[], None]) -> None:
        self.lives += 1
        try:
            if self.becomes_ready:
                ready()
            error = await self.ends.get()
            if error is not None:
                raise error
        finally:
            await asyncio.sleep(0)  # cancellation comes once: cleaning up may wait
            self.cleaned += 1


class Smallest(random.Random):
    """Full jitter at its luckiest: no wait."""

    def uniform(self, a: float, _b: float) -> float:
        return a


def cell_of(service: Puppet, clock: FakeClock, *needs: Cell, limit: int = 3) -> Cell:
    policy = RestartPolicy(limit=limit)
    return Cell(
        service,
        clock=clock,
        source=Smallest(),
        needs=needs,
        policy=policy,
        start_timeout_s=10,
    )


@asynccontextmanager
async def running(*cells: Cell) -> AsyncIterator[None]:
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        for cell in cells:
            group.create_task(cell.run())
        yield
        for cell in reversed(cells):
            cell.stop()
            await cell.wait_finished()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0)


async def test_a_stopped_service_cleans_up_with_awaits_of_its_own() -> None:
    puppet = Puppet()
    cell = cell_of(puppet, FakeClock())
    async with running(cell):
        await cell.wait_ready()
        assert cell.state == "ready"
    assert (cell.state, puppet.cleaned, cell.error) == ("stopped", 1, None)


async def test_a_failing_service_is_restarted_and_its_neighbour_never_notices() -> None:
    clock = FakeClock()
    failing, neighbour = Puppet("failing"), Puppet("neighbour")
    cell, other = cell_of(failing, clock), cell_of(neighbour, clock)
    async with running(cell, other):
        await cell.wait_ready()
        await other.wait_ready()
        failing.ends.put_nowait(RuntimeError("boom"))
        await until(lambda: failing.lives == 2 and cell.state == "ready")
        assert (cell.restarts, str(cell.error)) == (1, "boom")
        assert (neighbour.lives, other.restarts) == (1, 0)


async def test_a_service_past_its_limit_is_declared_failed() -> None:
    puppet = Puppet()
    cell = cell_of(puppet, FakeClock(), limit=3)
    async with running(cell):
        for life in range(1, 5):
            await until(lambda life=life: puppet.lives == life and cell.state == "ready")
            puppet.ends.put_nowait(RuntimeError(f"failure {life}"))
        await cell.wait_finished()
        assert (cell.state, cell.restarts, str(cell.error)) == ("failed", 3, "failure 4")


async def test_failures_spread_over_time_are_forgiven() -> None:
    clock = FakeClock()
    puppet = Puppet()
    cell = cell_of(puppet, clock, limit=1)
    async with running(cell):
        for life in range(1, 8):
            await until(lambda life=life: puppet.lives == life and cell.state == "ready")
            clock.advance(61)
            puppet.ends.put_nowait(RuntimeError("again"))
        await until(lambda: puppet.lives == 8 and cell.state == "ready")


async def test_the_back_off_is_waited_out_on_the_injected_clock() -> None:
    clock = FakeClock()
    puppet = Puppet()
    policy = RestartPolicy(base_s=8.0)

    class Largest(random.Random):
        def uniform(self, _a: float, b: float) -> float:
            return b

    cell = Cell(puppet, clock=clock, source=Largest(), policy=policy)
    async with running(cell):
        await cell.wait_ready()
        puppet.ends.put_nowait(RuntimeError("boom"))
        await until(lambda: cell.state == "backing_off")
        assert cell.next_attempt_s == 8.0
        await until(lambda: clock.sleepers > 0)
        clock.advance(7.9)
        for _ in range(20):
            await asyncio.sleep(0)
        assert puppet.lives == 1
        clock.advance(0.2)
        await until(lambda: puppet.lives == 2)


async def test_a_failure_before_it_was_ever_ready_is_no_crash_and_not_retried() -> None:
    puppet = Puppet(becomes_ready=False)
    puppet.ends.put_nowait(OSError("port taken"))
    cell = cell_of(puppet, FakeClock())
    async with running(cell):
        await cell.wait_finished()
        assert (cell.state, cell.ever_ready, puppet.lives) == ("failed", False, 1)


async def test_a_service_that_never_becomes_ready_fails_at_its_start_deadline() -> None:
    clock = FakeClock()
    puppet = Puppet(becomes_ready=False)
    cell = cell_of(puppet, clock)
    async with running(cell):
        await until(lambda: puppet.lives == 1 and clock.sleepers == 1)
        clock.advance(11)
        await cell.wait_finished()
        assert isinstance(cell.error, StartTimeout)
        assert puppet.cleaned == 1


async def test_returning_without_being_asked_is_a_failure() -> None:
    puppet = Puppet()
    cell = cell_of(puppet, FakeClock(), limit=0)
    async with running(cell):
        await cell.wait_ready()
        puppet.ends.put_nowait(None)
        await cell.wait_finished()
        assert isinstance(cell.error, ServiceEnded)


async def test_a_service_waits_for_its_needs_and_follows_them_down_and_up() -> None:
    clock = FakeClock()
    below, above = Puppet("below", becomes_ready=False), Puppet("above")
    under = cell_of(below, clock)
    over = cell_of(above, clock, under)
    async with running(under, over):
        await until(lambda: below.lives == 1)
        assert (over.state, above.lives) == ("waiting", 0)
        below.becomes_ready = True
        under._ready()
        await over.wait_ready()
        below.ends.put_nowait(RuntimeError("lost"))
        await until(lambda: above.lives == 2 and over.state == "ready")
        assert (over.restarts, over.error, above.cleaned) == (0, None, 1)


async def test_what_goes_wrong_while_stopping_is_kept() -> None:
    class Messy(Puppet):
        async def run(self, ready: Callable[[], None]) -> None:
            ready()
            try:
                await asyncio.Event().wait()
            finally:
                raise OSError("could not flush")

    cell = cell_of(Messy(), FakeClock())
    async with running(cell):
        await cell.wait_ready()
    assert cell.state == "stopped"
    assert str(cell.error_at_stop) == "could not flush"
