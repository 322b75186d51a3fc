"""Does supervision keep its word? Restarts by the hundred thousand, and services that never heal.

On a fake clock one service fails again and again beside one that does not: restarts must leave no
memory, no task and no trace on the neighbour, and one that fails faster than its limit must be
given up exactly there. Then real processes: in one `up` an essential service always crashes, in
another one that is not; both are looked at from outside.
"""

import asyncio
import contextlib
import gc
import random
import signal
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from esper_async.runtime.cell import Cell
from esper_async.runtime.clock import FakeClock
from esper_async.runtime.restart import RestartLimiter, RestartPolicy
from esper_async.study.bench.benchmark import (
    Bar,
    Benchmark,
    Effort,
    Mutant,
    Row,
    all_true,
    judged,
    replaced,
    wants,
)
from esper_async.study.bench.up_process import UpError, UpProcess, breaking_up, started_with

RESTARTED, MEMORY = "restarts on a fake clock", "memory that restarts leave behind"
TASKS, NEIGHBOUR = "tasks that restarts leave behind", "lives of its neighbour"
LIMIT = "lives of a service that fails faster than its limit"
ESSENTIAL = "an essential service always crashes: what must be true"
OTHER = "another service always crashes: what must be true"
MOST_GROWTH_BYTES = 65_536.0
_RESTARTS = {Effort.SHORT: 5_000, Effort.FULL: 100_000}
_BOOT_S, _PATIENCE_S, _HOPELESS_S = 30.0, 60.0, 12.0
_NEVER_HEALS = """
import asyncio, sys
if "up" in sys.orig_argv:
    from esper_async.{package}.service import {service} as Service
    async def run(self, ready):
        ready()
        await asyncio.sleep(0.05)
        raise OSError("the disk is gone for good")
    Service.run = run
"""


@dataclass
class Failing:
    """A service that fails as soon as it is ready."""

    name: str = "failing"
    lives: int = 0

    async def run(self, ready: Callable[[], None]) -> None:
        """Be ready, and fail."""
        self.lives += 1
        ready()
        await asyncio.sleep(0)
        raise OSError("no")


@dataclass
class Steady(Failing):
    """A service that does not fail."""

    name: str = "steady"

    async def run(self, ready: Callable[[], None]) -> None:
        """Be ready, and go on."""
        self.lives += 1
        ready()
        await asyncio.Event().wait()


def measure(effort: Effort) -> list[Row]:
    """Restart on a fake clock, then watch two supervisors whose services never heal."""
    rows: list[Row] = []
    if wants(RESTARTED, MEMORY, TASKS, NEIGHBOUR):
        rows += asyncio.run(_many(_RESTARTS[effort]))
    if wants(LIMIT):
        rows.append(asyncio.run(_limited()))
    if wants(ESSENTIAL):
        rows.append(all_true(ESSENTIAL, _essential()))
    if wants(OTHER):
        rows.append(all_true(OTHER, _other()))
    return rows


# -- on a fake clock -----------------------------------------------------------------------------


async def _many(count: int) -> list[Row]:
    """Restart one service `count` times; each wait of its back-off is jumped over."""
    clock, failing, steady = FakeClock(), Failing(), Steady()
    policy = RestartPolicy(limit=10, window_s=60.0, base_s=10.0, cap_s=10.0)
    source = random.Random(7)  # noqa: S311 - jitter
    cell = Cell(failing, clock=clock, source=source, policy=policy)
    neighbour = Cell(steady, clock=clock, source=source, policy=policy, needs=_stands_on(cell))
    tasks = len(asyncio.all_tasks())
    running = [asyncio.ensure_future(each.run()) for each in (cell, neighbour)]
    await neighbour.wait_ready()
    await _restart(cell, failing, clock, count // 10)
    gc.collect()
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    began = time.thread_time()
    await _restart(cell, failing, clock, count)
    took_us = 1e6 * (time.thread_time() - began) / (count - count // 10)
    gc.collect()
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    restarts, lives = cell.restarts, steady.lives
    for each in (cell, neighbour):
        each.stop()
    await asyncio.wait(running)
    left = len(asyncio.all_tasks()) - tasks
    return [
        judged(RESTARTED, float(restarts), f"of {count}", Bar("at least", float(count)),
               note=f"{took_us:.0f} µs each, memory traced"),
        judged(MEMORY, float(grown), "bytes", Bar("at most", MOST_GROWTH_BYTES)),
        judged(TASKS, float(left), "", Bar("at most", 0.0)),
        judged(NEIGHBOUR, float(lives), "", Bar("at most", 1.0)),
    ]  # fmt: skip


def _stands_on(_cell: Cell) -> tuple[Cell, ...]:
    """Return what the neighbour needs: nothing."""
    return ()


async def _restart(cell: Cell, service: Failing, clock: FakeClock, until: int) -> None:
    while cell.restarts < until and cell.state != "failed":
        await asyncio.sleep(0)
        if cell.state == "backing_off" and clock.sleepers:
            clock.advance(61.0)  # the window forgets, and the wait is over


async def _limited() -> Row:
    """Let one fail without a pause: it is given up after its limit, and not before."""
    clock, failing = FakeClock(), Failing()
    policy = RestartPolicy(limit=3, window_s=60.0, base_s=0.1, cap_s=0.1)
    cell = Cell(failing, clock=clock, source=random.Random(7), policy=policy)  # noqa: S311
    running = asyncio.ensure_future(cell.run())
    for _ in range(5_000):
        await asyncio.sleep(0)
        clock.advance(0.001)
        if running.done():
            break
    lives = failing.lives if cell.state == "failed" else 0
    cell.stop()
    await asyncio.wait([running])
    right = lives == policy.limit + 1
    note = f"{failing.lives} lives, {cell.state}; the limit is {policy.limit} restarts"
    return judged(LIMIT, float(right), "as configured", Bar("at least", 1.0), note=note)


# -- real processes ------------------------------------------------------------------------------


def _essential() -> dict[str, bool]:
    with _up("nissa", "NissaService") as up:
        _until_it_shows(up, "nissa", "backing_off")
        code = up.exit_code(_HOPELESS_S)
        last = up.said().strip().splitlines()[-1:] or [""]
        left = (up.state / "supervisor.json").exists()
    return {
        "exit code 3": code == 3,
        "the last line names it": "nissa, which is essential, was restarted 3 times" in last[0],
        "and its reason": "the disk is gone for good" in last[0],
        "nothing is announced any more": not left,
    }


_APART = ("http", "oona", "karn", "tolaria", "kasmina", "tamiyo", "simic", "nissa")
"""Services that need nothing of Urza."""


def _other() -> dict[str, bool]:
    with _up("urza", "UrzaService") as up:
        patience_s = 30.0
        with contextlib.suppress(UpError):
            up.until(
                lambda: all(_shown(up, name).get("state") == "ready" for name in _APART),
                "ready",
                patience_s=patience_s,
            )
        before = up.readiness()
        with contextlib.suppress(UpError):
            up.until(
                lambda: _shown(up, "urza").get("state") == "failed", "x", patience_s=patience_s
            )
        after = up.readiness()
        alive = up.process.poll() is None
        urza = after.get("services", {}).get("urza", {})
        code: int | None = None
        if alive:
            up.process.send_signal(signal.SIGTERM)
            code = up.exit_code(_PATIENCE_S)
    return {
        "it is up": alive,
        "degraded": after.get("status") == "degraded",
        "the service is failed": urza.get("state") == "failed",
        "restarted 3 times": urza.get("restarts") == 3,
        "with its reason": "the disk is gone for good" in str(urza.get("error")),
        "no neighbour was interrupted": bool(before)
        and all(_since(before, name) == _since(after, name) for name in _APART),
        "it stops clean": code == 0,
    }


def _until_it_shows(up: UpProcess, service: str, state: str) -> None:
    """Wait for a service's state; a broken supervisor may never come to it, or be gone."""
    with contextlib.suppress(UpError):
        up.until(lambda: _shown(up, service).get("state") == state, state, patience_s=_BOOT_S)


def _since(ready: dict[str, Any], name: str) -> tuple[Any, Any]:
    facts = ready.get("services", {}).get(name, {})
    return facts.get("since"), facts.get("restarts")


@contextmanager
def _up(package: str, service: str) -> Iterator[UpProcess]:
    source = _NEVER_HEALS.format(package=package, service=service)
    quiet = ("--set", "supervisor.log_level=error")
    with (
        tempfile.TemporaryDirectory(prefix="esper-supervision-") as scratch,
        started_with(Path(scratch), source, *quiet) as up,
    ):
        yield up


def _shown(up: UpProcess, name: str) -> dict[str, Any]:
    found: dict[str, Any] = up.readiness().get("services", {}).get(name, {})
    return found


# -- mutants -------------------------------------------------------------------------------------


_kept: list[Any] = []
_may_restart = Cell._may_restart
_next_delay_s = RestartLimiter.next_delay_s


async def _with_a_diary(cell: Cell, failure: Exception) -> bool:
    _kept.append((failure, bytearray(1_000)))
    return await _may_restart(cell, failure)


async def _with_a_task_left(cell: Cell, failure: Exception) -> bool:
    _kept.append(asyncio.ensure_future(asyncio.Event().wait()))
    return await _may_restart(cell, failure)


def _never_too_often(limiter: RestartLimiter) -> float:
    limiter.total += 1
    return 0.05


def _gives_up_at_once(_limiter: RestartLimiter) -> None:
    return None


def _on_the_one_beside_it(cell: Cell) -> tuple[Cell, ...]:
    return (cell,)


BENCHMARK = Benchmark(
    name="supervision",
    question="does a service that fails, once or for ever, cost anybody but itself?",
    timed=False,
    measure=measure,
    mutants=(
        Mutant(
            "keeps a diary",
            "each failure stays in memory",
            lambda: replaced("esper_async.runtime.cell.Cell._may_restart", _with_a_diary),
            fails=(MEMORY,),
        ),
        Mutant(
            "leaves tasks behind",
            "each restart begins a task that nobody ends",
            lambda: replaced("esper_async.runtime.cell.Cell._may_restart", _with_a_task_left),
            fails=(TASKS,),
        ),
        Mutant(
            "disturbs its neighbour",
            "whoever runs beside it is started again, too",
            lambda: replaced(f"{__name__}._stands_on", _on_the_one_beside_it),
            fails=(NEIGHBOUR,),
        ),
        Mutant(
            "gives up at once",
            "the first failure is the last",
            lambda: replaced(
                "esper_async.runtime.restart.RestartLimiter.next_delay_s", _gives_up_at_once
            ),
            fails=(RESTARTED, LIMIT),
        ),
        Mutant(
            "knows no limit",
            "a service is restarted for ever",
            lambda: replaced(
                "esper_async.runtime.restart.RestartLimiter.next_delay_s", _never_too_often
            ),
            fails=(LIMIT,),
        ),
        Mutant(
            "everything is essential",
            "whichever service fails for good takes the supervisor with it",
            breaking_up(
                "import esper_async.supervisor.tree as tree\n"
                "tree._essential = lambda order: frozenset(s.name for s in order)"
            ),
            fails=(OTHER,),
        ),
        Mutant(
            "exit code 1",
            "an essential service that fails for good is an error like any other",
            breaking_up(
                "from esper_async.supervisor.errors import EssentialServiceFailedError as Error\n"
                "Error.exit_code = 1"
            ),
            fails=(ESSENTIAL,),
        ),
    ),
)
