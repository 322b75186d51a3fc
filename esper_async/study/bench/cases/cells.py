"""What does a cell do to the others when it hangs, swallows its cancellation or blocks the loop?

`docs/operating.md` ("When something fails") says what: each is named, and contained or escalated.
Hanging and swallowing are first put into a tree of their own, with short deadlines; then real
processes are looked at from outside: one in which a service blocks the event loop for a moment and
another is deaf to the drain, and one in which the loop is blocked for good.
"""

import asyncio
import contextlib
import random
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from esper_async.runtime.cell import Cell
from esper_async.runtime.clock import SystemClock
from esper_async.runtime.processes import children, lives
from esper_async.runtime.restart import RestartPolicy
from esper_async.study.bench.benchmark import (
    Benchmark,
    Effort,
    Mutant,
    Row,
    all_true,
    replaced,
    wants,
)
from esper_async.study.bench.up_process import UpError, UpProcess, breaking_up, started_with
from esper_async.supervisor.declared import Declaration
from esper_async.supervisor.errors import StartError
from esper_async.supervisor.tree import ServiceLimits, Tree

HANGS = "a cell that hangs as it starts: what must be true"
SWALLOWS = "a cell that swallows cancellation: what must be true"
BLOCKS = "a cell that blocks the loop for a moment: what must be true"
DEAF = "a cell that is deaf to the drain: what must be true"
STUCK = "a cell that blocks the loop for good: what must be true"
_LIMITS = ServiceLimits(
    RestartPolicy(limit=1, base_s=0.01, cap_s=0.01), start_timeout_s=0.05, stop_timeout_s=0.05
)
_WAIT_S, _BOOT_S, _DRAIN_S, _STALL_LIMIT_S = 3.0, 60.0, 3.0, 1.0
_GUILTY = "guilty_of_blocking"


def measure(_effort: Effort) -> list[Row]:
    """Put each fault into a tree, or into a real `up`, and compare with what is documented."""
    rows: list[Row] = []
    if wants(HANGS):
        rows.append(all_true(HANGS, asyncio.run(_hangs())))
    if wants(SWALLOWS):
        rows.append(all_true(SWALLOWS, asyncio.run(_swallows())))
    if wants(BLOCKS, DEAF):
        blocks, deaf = _blocked_and_deaf()
        rows += [all_true(BLOCKS, blocks), all_true(DEAF, deaf)]
    if wants(STUCK):
        rows.append(all_true(STUCK, _stuck()))
    return rows


# -- in a tree of their own ----------------------------------------------------------------------


@dataclass
class Steady:
    """A service that does what it should."""

    name: str
    needs: tuple[str, ...] = ()
    lives: int = 0
    fails: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self, ready: Callable[[], None]) -> None:
        """Be ready, and go on until told to fail."""
        self.lives += 1
        ready()
        await self.fails.wait()
        self.fails.clear()
        raise OSError("told to fail")


@dataclass
class Hanging(Steady):
    """A service that hangs as it starts, from its life number `hangs_from` on."""

    hangs_from: int = 1

    async def run(self, ready: Callable[[], None]) -> None:
        """Be ready, or hang."""
        if self.lives + 1 < self.hangs_from:
            await super().run(ready)
        self.lives += 1
        await asyncio.Event().wait()


@dataclass
class Deaf(Steady):
    """A service that swallows its cancellation until it `hears`."""

    hears: bool = False
    cancelled: int = 0

    async def run(self, ready: Callable[[], None]) -> None:
        """Be ready, and go on whatever is said."""
        self.lives += 1
        ready()
        while not self.hears:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.cancelled += 1


async def _hangs() -> dict[str, bool]:
    steady = Steady("steady")
    told = ""
    try:
        async with asyncio.timeout(_WAIT_S):
            await _tree(Hanging("hangs"), steady).run(_WAIT_S)
    except (StartError, TimeoutError) as error:
        told = str(error)
    facts = {"its first start fails with its name": "hangs could not start" in told}
    hangs, above, steady = Hanging("hangs", hangs_from=2), Steady("above", ("hangs",)), Steady("x")
    async with _running(hangs, above, steady) as tree:
        hangs.fails.set()
        failed = await _until(lambda: tree.cells["hangs"].state == "failed")
        shown = tree.snapshot()["hangs"]
        facts |= {
            "hanging at a restart it is given up": failed,
            "after its restarts": shown["restarts"] == _LIMITS.restarts.limit,
            "and the reason is its deadline": "was not ready within" in shown.get("error", ""),
            "what needs it waits": tree.snapshot()["above"]["state"] == "waiting",
            "the others go on": steady.lives == 1 and tree.status == "degraded",
        }
    return facts


async def _swallows() -> dict[str, bool]:
    below, steady = Steady("below"), Steady("steady")
    deaf = Deaf("deaf", ("below",))
    async with _running(below, deaf, steady) as tree:
        below.fails.set()
        facts = {
            "it is named": await _until(lambda: bool(tree.snapshot()["deaf"].get("overdue"))),
            "it is told again and again": await _until(lambda: deaf.cancelled >= 3),
            "what it stands on is up again": await _until(
                lambda: below.lives == 2 and tree.cells["below"].state == "ready"
            ),
            "the others go on": steady.lives == 1,
        }
        deaf.hears = True
        again = await _until(lambda: deaf.lives == 2 and not tree.snapshot()["deaf"].get("overdue"))
        facts["it is started anew once it has ended"] = again
    return facts


def _tree(*services: Steady) -> Tree:
    source = random.Random(7)  # noqa: S311 - jitter
    declared = [Declaration(each.name, each.needs, after=()) for each in services]
    return Tree(services, declared, clock=SystemClock(), source=source, limit=_LIMITS)


@contextlib.asynccontextmanager
async def _running(*services: Steady) -> Any:
    """Run services in a tree; they end with the block, whatever they are deaf to."""
    tree = _tree(*services)
    task = asyncio.ensure_future(tree.run(_WAIT_S))
    try:
        await _until(lambda: tree.started)
        yield tree
    finally:
        for service in services:
            if isinstance(service, Deaf):
                service.hears = True
        tree.stop()
        await asyncio.wait([task])


async def _until(condition: Callable[[], bool]) -> bool:
    """Wait for a condition; return whether it came true in time."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_WAIT_S):
            while not condition():  # noqa: ASYNC110 - of a tree that tells nobody
                await asyncio.sleep(0.002)
            return True
    return False


# -- real processes ------------------------------------------------------------------------------

_BLOCKS = """
import asyncio, sys, time
if "up" in sys.orig_argv:
    from esper_async.karn.service import KarnService
    whole = KarnService.run
    def {guilty}():
        open("blocked", "w").close()
        time.sleep({seconds})
    async def run(self, ready):
        async def block():
            await asyncio.sleep(0.3)
            {guilty}()
        async with asyncio.TaskGroup() as group:
            group.create_task(whole(self, ready))
            group.create_task(block())
    KarnService.run = run
"""
_IS_DEAF = """
if "up" in sys.orig_argv:
    from esper_async.simic.service import SimicService
    async def deaf(self, ready):
        ready()
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                pass
    SimicService.run = deaf
"""


def _blocked_and_deaf() -> tuple[dict[str, bool], dict[str, bool]]:
    source = _BLOCKS.format(guilty=_GUILTY, seconds=0.7) + _IS_DEAF
    limits = (f"shutdown_deadline_s={_DRAIN_S:g}", "stop_timeout_s=0.3")
    with _up(source, limits) as up:
        up.until((up.state.parent / "blocked").exists, "its block", patience_s=_BOOT_S)
        _wait(lambda: _GUILTY in up.said())
        ready = up.readiness().get("services", {})
        blocks = {
            "its stack is logged": "event_loop_stalled" in up.said() and _GUILTY in up.said(),
            "nobody is restarted": bool(ready) and not any(s["restarts"] for s in ready.values()),
            "all is ready again": _wait(up.ready),
        }
        with_it = list(children(up.pid))
        up.process.send_signal(signal.SIGTERM)
        named = _wait(lambda: _overdue(up) == ["simic"])
        code = up.exit_code(3 * _DRAIN_S)
        last = (up.said().strip().splitlines() or [""])[-1]
    return blocks, {
        "readiness names it": named,
        "the drain ends": code is not None,
        "with exit code 1": code == 1,
        "the last line names it": last.endswith("did not stop in time: simic"),
        "nothing is left behind": _wait(lambda: not any(map(lives, with_it))),
    }


def _stuck() -> dict[str, bool]:
    source = _BLOCKS.format(guilty=_GUILTY, seconds=3_600)
    with _up(source, (f"stall_limit_s={_STALL_LIMIT_S:g}",)) as up:
        up.until((up.state.parent / "blocked").exists, "its block", patience_s=_BOOT_S)
        with_it = list(children(up.pid))
        code = up.exit_code(_STALL_LIMIT_S + _WAIT_S)
        said = up.said()
        return {
            "the process ends": code is not None,
            "with exit code 1": code == 1,
            "its last words are why": "the event loop has not turned for" in said,
            "and the guilty stack": _GUILTY in said.rpartition("stuck at:")[2],
            "nothing is left behind": _wait(lambda: not any(map(lives, with_it))),
        }


@contextmanager
def _up(source: str, limits: Sequence[str]) -> Iterator[UpProcess]:
    options = [word for limit in limits for word in ("--set", f"supervisor.{limit}")]
    with (
        tempfile.TemporaryDirectory(prefix="esper-cells-") as scratch,
        started_with(Path(scratch), source, *options) as up,
    ):
        yield up


def _overdue(up: UpProcess) -> list[str]:
    services = up.readiness().get("services", {})
    return [name for name, facts in services.items() if facts.get("overdue")]


def _wait(condition: Callable[[], bool]) -> bool:
    """Wait for a condition of a process; return whether it came true in time."""
    until = time.monotonic() + _WAIT_S
    while time.monotonic() < until:
        with contextlib.suppress(UpError):
            if condition():
                return True
        time.sleep(0.02)
    return False


# -- mutants -------------------------------------------------------------------------------------


async def _is_never_late(_cell: Cell) -> None:
    await asyncio.Event().wait()


async def _tells_once(
    cell: Cell, life: asyncio.Task[None], interrupted: list[Exception | None]
) -> None:
    waits = [each._is_down.wait() for each in cell.needs]
    tasks = [asyncio.ensure_future(wait) for wait in (cell._stopping.wait(), *waits)]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    interrupted.append(None)
    life.cancel()


BENCHMARK = Benchmark(
    name="cells",
    question="is a cell that hangs, is deaf or blocks the loop named, and contained or escalated?",
    timed=False,
    measure=measure,
    mutants=(
        Mutant(
            "a start without a deadline",
            "a service may take as long as it likes to be ready",
            lambda: replaced("esper_async.runtime.cell.Cell._start_late", _is_never_late),
            fails=(HANGS,),
        ),
        Mutant(
            "told once",
            "a service that must end is cancelled once, and waited for in silence",
            lambda: replaced("esper_async.runtime.cell.Cell._interrupt", _tells_once),
            fails=(SWALLOWS,),
        ),
        Mutant(
            "nobody looks at the loop",
            "its lag is measured, and no stack is taken",
            breaking_up(
                "from esper_async.runtime.loop_lag import LoopLag\n"
                "_report = LoopLag._report\n"
                "LoopLag._report = lambda self, lag_s, stack: _report(self, lag_s, None)"
            ),
            fails=(BLOCKS,),
        ),
        Mutant(
            "a drain that forgets",
            "who has not stopped is not told at the end",
            breaking_up(
                "import esper_async.supervisor.tree as tree\n"
                "_whole = tree.StopReport\n"
                "tree.StopReport = lambda overdue, errors: _whole((), errors)"
            ),
            fails=(DEAF,),
        ),
        Mutant(
            "a loop that may be stuck for ever",
            "the watchdog only tells",
            breaking_up(
                "import esper_async.supervisor.app as app\napp._end_at_once = lambda why: None"
            ),
            fails=(STUCK,),
        ),
    ),
)
