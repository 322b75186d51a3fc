"""How late an event loop is, noted from within it, and who held it up.

The loop is asked to come back every few milliseconds. Its callbacks and the garbage collector are
timed, and a thread beside it looks where it is when it is overdue: a tick that is very late has its
guilty.
`probe_of_up` is what a process of `up` runs first to be noted so.
"""

import asyncio
import gc
import json
import sys
import threading
import time
import traceback
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

TICK_S = 0.005
OVERDUE_S = 0.015
_IDLE = "select"
_WAITING = frozenset({"select", "wait", "get", "_worker", "accept", "poll"})


class Tick(NamedTuple):
    """When the loop was due (monotonic s), how late it was (ms), and who kept it, if very late.

    `own_ms` is how late it was without the time for which its thread was ready and had no core.
    """

    due_s: float
    late_ms: float
    own_ms: float
    guilty: str


def probe_of_up(told: Path) -> str:
    """Return what to run first in `up` for its ticks to be in the file `told` when it ends."""
    return (
        "import sys\n"
        'if "up" in sys.orig_argv:\n'
        "    from esper_async.study.bench.loop_probe import note_up\n"
        f"    note_up({str(told)!r})\n"
    )


def note_up(told: str) -> None:
    """Have the supervisor of this process note its loop, and write the ticks down at its end."""
    from esper_async.supervisor.app import Supervisor
    from esper_async.supervisor.tree import StopReport

    supervisors: Any = Supervisor
    whole = supervisors._run_tree

    async def noted(supervisor: Supervisor, deadline_s: float) -> StopReport:
        async with ticking() as ticks:
            report: StopReport = await whole(supervisor, deadline_s)
        Path(told).write_text(json.dumps(ticks))  # noqa: ASYNC240 - at the very end
        return report

    supervisors._run_tree = noted


def ticks_in(told: Path, began_s: float, ended_s: float) -> list[Tick]:
    """Return the ticks that were due between two instants (monotonic s)."""
    ticks = (Tick(*each) for each in json.loads(told.read_text()))
    return [tick for tick in ticks if began_s <= tick.due_s <= ended_s]


@asynccontextmanager
async def ticking() -> AsyncIterator[list[Tick]]:
    """Note the running loop's ticks in the list that is yielded, until the block ends."""
    ticks: list[Tick] = []
    over, due, seen = threading.Event(), [float("inf")], dict[float, str]()
    thread, slow = threading.get_ident(), list[str]()

    async def tick() -> None:
        while True:
            slow.clear()
            due[0], before_s = time.monotonic() + TICK_S, waited_for_a_core_s()
            await asyncio.sleep(TICK_S)
            late_s = max(0.0, time.monotonic() - due[0])
            own_s = max(0.0, late_s - (waited_for_a_core_s() - before_s))
            guilty = [*slow, *filter(None, (seen.pop(due[0], ""),))]
            ticks.append(Tick(due[0], late_s * 1e3, own_s * 1e3, "; ".join(guilty)))

    def look() -> None:
        while not over.wait(TICK_S):
            overdue = due[0]
            if time.monotonic() - overdue > OVERDUE_S and overdue not in seen:
                seen[overdue] = _at_work(thread)

    watching = threading.Thread(target=look, name="loop-probe", daemon=True)
    watching.start()
    task = asyncio.create_task(tick())
    try:
        with _timed_callbacks(slow):
            yield ticks
    finally:
        task.cancel()
        over.set()
        watching.join()


@contextmanager
def _timed_callbacks(slow: list[str]) -> Iterator[None]:
    """Have what takes too long noted: a stack cannot always be taken while it does."""
    handles: Any = asyncio.Handle
    whole, collecting_s = handles._run, 0.0

    def run(handle: Any) -> None:
        callback, began_s = handle._callback, time.monotonic()
        whole(handle)
        took_s = time.monotonic() - began_s
        if took_s > OVERDUE_S:
            slow.append(f"{_name_of(callback)} for {took_s * 1e3:.0f} ms")

    def collects(phase: str, facts: dict[str, int]) -> None:
        nonlocal collecting_s
        if phase == "start":
            collecting_s = time.monotonic()
        elif (took_s := time.monotonic() - collecting_s) > OVERDUE_S:
            what = f"collecting garbage of generation {facts['generation']}"
            slow.append(f"{what} for {took_s * 1e3:.0f} ms")

    handles._run = run
    gc.callbacks.append(collects)
    try:
        yield
    finally:
        gc.callbacks.remove(collects)
        handles._run = whole


def _name_of(callback: Any) -> str:
    owner = getattr(callback, "__self__", None)
    if isinstance(owner, asyncio.Task):
        return f"task {owner.get_name()} of {getattr(owner.get_coro(), '__qualname__', '?')}"
    return str(getattr(callback, "__qualname__", callback))


def waited_for_a_core_s() -> float:
    """For how long this thread has stood ready and waiting for a core; 0 where nobody tells."""
    try:
        return int(Path("/proc/thread-self/schedstat").read_text().split()[1]) * 1e-9
    except OSError:
        return 0.0


def _at_work(thread: int) -> str:
    """Return where a thread is, or who else may have kept the interpreter while it waits for it."""
    frames = sys._current_frames()
    own = traceback.extract_stack(frames[thread])
    if own[-1].name != _IDLE:
        return f"at {_place(own)}"
    others = (
        traceback.extract_stack(frame)
        for other, frame in frames.items()
        if other not in (thread, threading.get_ident())
    )
    busy = [_place(stack) for stack in others if stack[-1].name not in _WAITING]
    return (
        f"ready, beside a thread at {' and one at '.join(busy)}" if busy else "ready, and no core"
    )


def _place(stack: traceback.StackSummary) -> str:
    """The three functions of a stack that tell most, innermost last."""
    ours = [frame for frame in stack if "esper_async" in frame.filename][-2:]
    told = ours if stack[-1] in ours else [*ours, stack[-1]]
    return " > ".join(f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in told)
