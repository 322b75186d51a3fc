"""Does training notice that Redis dies, and is anything lost? A growing run on a real server.

The server is killed twice in mid-run. The first time it stays away for a while. The second time
Simic has just stopped reading and the server's disk with everything on it is lost, so that only
the run's spool still holds what was told. The same run is trained before and after without a kill.

The worst drill counts. Others at work delay now one run, now another, so a drill in which a run
without a kill is late by itself says nothing of one that is late with it; another is held for it.

The short form holds one drill. Bad luck can make it late with no control late beside it, so it is
held again then, and what counts is whether every drill is late.
"""

import asyncio
import json
import os
import shutil
import signal
import sqlite3
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import mean, median

from esper_async.leyline import TOPICS, load_key
from esper_async.leyline.signing import Signer
from esper_async.oona import Bus, EmbeddedServer
from esper_async.oona.connection import connect_once
from esper_async.oona.groups import group_states
from esper_async.oona.streams import normal_lane
from esper_async.runtime.journal import read_journal
from esper_async.simic.service import SimicService
from esper_async.simic.store import GROUP
from esper_async.study.bench.benchmark import (
    Bar,
    Benchmark,
    Effort,
    Mutant,
    Row,
    judged,
    replaced,
    shown,
    wants,
)
from esper_async.tolaria.messages import decision_of, field_report_of

WARM, KILLED = "warm", "killed"
_CPU, _WALL = "longest step in thread CPU time", "longest time from step to step"
KILL_AT, BACK_AT, DEAF_AT = 5, 10, 13
"""Boundaries: the server is killed, is started again, and Simic falls silent before the next."""
AWAY_S = 20.0
"""At the longest; only a run that waits for the server keeps it away for so long."""
MOST_CPU, MOST_WALL = 3.0, 1.5
_REPEATS = {Effort.SHORT: 1, Effort.FULL: 5}
_MORE_DRILLS = {Effort.SHORT: 4, Effort.FULL: 4}
_BEYOND_LUCK = 4.0
"""So many times its limit, and what the controls did, is a miss, whatever else the machine does."""
_STREAM = normal_lane(TOPICS["field_reports"].name)
_PATIENCE_S = 300.0
_POLL_S = 0.005


class DrillError(RuntimeError):
    """The drill could not be held as planned; the message says why."""


@dataclass(frozen=True, slots=True)
class Life:
    """What a run cost, step by step, and what it told and left.

    `cpu_s` is CPU time of the steps of each epoch; `wall_s` goes from step to step, boundaries
    included, and `latest` is the boundary after which it was longest.
    """

    name: str
    cpu_s: dict[int, list[float]]
    wall_s: list[float]
    latest: int
    told: dict[str, set[str]]
    stored: dict[str, set[str]]

    def amiss(self, kind: str) -> int:
        """Count what was told and is not stored, and what is stored and was not told."""
        return len(self.told[kind] ^ self.stored[kind])


@dataclass(frozen=True, slots=True)
class Drill:
    """A killed run between two that nothing happened to."""

    before: Life
    killed: Life
    after: Life

    @property
    def controls(self) -> tuple[Life, Life]:
        """The runs without a kill."""
        return self.before, self.after

    def longest_cpu(self, life: Life) -> float:
        """Return its longest step over the median step of the same epoch without a kill.

        It is the same run, with the same seeds in the same epoch, and so costs the same.
        """
        return max(
            max(steps) / median(step for each in self.controls for step in each.cpu_s[epoch])
            for epoch, steps in life.cpu_s.items()
        )

    @property
    def cpu(self) -> "Lateness":
        """Its longest step, in medians, and that of the controls."""
        noise = max(self.longest_cpu(each) for each in self.controls)
        return Lateness(self.longest_cpu(self.killed), noise, MOST_CPU)

    @property
    def wall(self) -> "Lateness":
        """Its longest time from step to step over the control's, and how far controls differ."""
        longest = [max(each.wall_s) for each in self.controls]
        ratio = max(self.killed.wall_s) / mean(longest)
        return Lateness(ratio, max(longest) / min(longest), MOST_WALL)


@dataclass(frozen=True, slots=True)
class Lateness:
    """How late the killed run of a drill was, and how late those without a kill by themselves."""

    killed: float
    control: float
    most: float

    @property
    def tells(self) -> bool:
        """Whether the drill says anything: a late control explains a late run, not a quick one."""
        return self.control <= self.most or self.settles

    @property
    def settles(self) -> bool:
        """Whether the drill needs no second one: it is not late, or later than luck makes one."""
        beyond_luck = self.killed > _BEYOND_LUCK * max(self.most, self.control)
        return self.killed <= self.most or beyond_luck


@dataclass(frozen=True, slots=True)
class Chosen:
    """The drill that is judged, which of them it is, and why it is not to be believed, if so."""

    index: int
    which: str
    doubt: str = ""


def quickest(lates: Sequence[Lateness]) -> Chosen:
    """Choose where being late once proves nothing: the least late, in doubt beside a late control.

    Later than luck makes one is no doubt.
    """
    found = min(range(len(lates)), key=lambda index: lates[index].killed)
    doubt = "" if lates[found].tells else _both(lates[found])
    return Chosen(found, "quickest", doubt)


def worst(lates: Sequence[Lateness], needed: int) -> Chosen:
    """Choose the latest of those that tell.

    Where fewer than `needed` do and none is too late, it is the latest of all, in doubt.
    """
    telling = [index for index, late in enumerate(lates) if late.tells]
    found = max(telling or range(len(lates)), key=lambda index: lates[index].killed)
    if len(telling) >= needed or (telling and lates[found].killed > lates[found].most):
        return Chosen(found, "worst")
    found = max(range(len(lates)), key=lambda index: lates[index].killed)
    return Chosen(found, "worst", _both(lates[found]))


def _both(late: Lateness) -> str:
    return f"the control is at {late.control:.2f} itself, the killed run at {late.killed:.2f}"


def measure(effort: Effort) -> list[Row]:
    """Hold the drill and compare the killed runs with those before and after."""
    if not wants(_CPU, _WALL):
        return _effects([_held((WARM, KILLED))[KILLED]])
    drills: list[Drill] = []
    for _ in range(_REPEATS[effort] + _MORE_DRILLS[effort]):
        lives = _held((WARM, "control-1", KILLED, "control-2"))
        drills.append(Drill(lives["control-1"], lives[KILLED], lives["control-2"]))
        if _enough([d.cpu for d in drills], effort) and _enough([d.wall for d in drills], effort):
            break
    return [
        _cpu(drills, _chosen([drill.cpu for drill in drills], effort)),
        _wall(drills, _chosen([drill.wall for drill in drills], effort)),
        *_effects([drill.killed for drill in drills]),
    ]


def _enough(lates: Sequence[Lateness], effort: Effort) -> bool:
    if effort is Effort.SHORT:
        return any(late.settles for late in lates)
    return sum(late.tells for late in lates) >= _REPEATS[effort]


def _chosen(lates: Sequence[Lateness], effort: Effort) -> Chosen:
    return quickest(lates) if effort is Effort.SHORT else worst(lates, _REPEATS[effort])


def _cpu(drills: Sequence[Drill], chosen: Chosen) -> Row:
    drill = drills[chosen.index]
    killed = [step for steps in drill.killed.cpu_s.values() for step in steps]
    return judged(
        _CPU,
        drill.cpu.killed,
        "medians",
        Bar("at most", MOST_CPU),
        note=f"{len(killed)} steps of {1e3 * median(killed):.1f} ms, each against the median of "
        f"its epoch without a kill; controls' longest: {drill.cpu.control:.2f}; "
        f"{_counted(drills, chosen)}",
        doubt=chosen.doubt,
    )


def _wall(drills: Sequence[Drill], chosen: Chosen) -> Row:
    drill = drills[chosen.index]
    return judged(
        _WALL,
        1e3 * max(drill.killed.wall_s),
        "ms",
        Bar("at most", MOST_WALL),
        baseline=1e3 * mean(max(each.wall_s) for each in drill.controls),
        ratio=drill.wall.killed,
        note=f"boundaries included; at boundary {drill.killed.latest}, where Redis dies at "
        f"{KILL_AT} and after {DEAF_AT}; controls differ by {drill.wall.control:.2f}; "
        f"{_counted(drills, chosen)}",
        doubt=chosen.doubt,
    )


def _counted(drills: Sequence[Drill], chosen: Chosen) -> str:
    return "one drill" if len(drills) == 1 else f"the {chosen.which} of {len(drills)} drills"


def _effects(killed: Sequence[Life]) -> list[Row]:
    rows = [
        judged(
            f"{kind}s whose effect did not happen exactly once",
            float(sum(life.amiss(kind) for life in killed)),
            "",
            Bar("at most", 0.0),
            note=f"of {sum(len(life.told[kind]) for life in killed)} in the journal",
        )
        for kind in ("report", "decision")
    ]
    return [*rows, shown("Redis killed", 2.0 * len(killed), "times")]


# -- the drill -----------------------------------------------------------------------------------


def _held(names: Sequence[str]) -> dict[str, Life]:
    """Hold the drill: train once under each name, undisturbed but for the killed one."""
    with tempfile.TemporaryDirectory(prefix="esper-redis-") as scratch:
        folder = Path(scratch)
        asyncio.run(_drill(folder, names))
        return {name: _life(folder, name) for name in names if name != WARM}


async def _drill(folder: Path, names: Sequence[str]) -> None:
    key = load_key(folder / "leyline.key")
    server = EmbeddedServer(folder / "redis")
    await server.start()
    try:
        async with _child(folder, server.url, names) as said, _simic(folder, server, key) as simic:
            for name in names:
                if name == KILLED:
                    await said.boundary(KILL_AT)
                    await _kill(server)
                    with suppress(TimeoutError):
                        async with asyncio.timeout(AWAY_S):
                            await said.boundary(BACK_AT)
                    await server.start()
                    await said.boundary(DEAF_AT)
                    await simic.stop()
                    await _until_unheard(server.url)
                    await said.boundary()
                    await _kill(server)
                    shutil.rmtree(folder / "redis" / "appendonlydir")
                    await server.start()
                    simic.start()
                await said.end(name)
    finally:
        await server.stop()


async def _kill(server: EmbeddedServer) -> None:
    server.signal(signal.SIGKILL)
    await server.wait()


async def _until_unheard(url: str) -> None:
    """Wait until a field report is in Redis that Simic has not acknowledged.

    Raises:
        DrillError: none came.
    """
    client = connect_once(url, timeout_s=5.0)
    try:
        async with asyncio.timeout(_PATIENCE_S):
            while True:
                states = await group_states(client, _STREAM, lag_limit=1)
                if GROUP in states and states[GROUP].depth:
                    return
                await asyncio.sleep(_POLL_S)
    except TimeoutError:
        raise DrillError("no field report came while Simic was deaf") from None
    finally:
        await client.aclose()


class _Said:
    """What the training process says, line by line."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        self._process, self._lines = process, process.stdout

    async def boundary(self, number: int | None = None) -> None:
        """Wait until the present run has passed a boundary; the next one without a number."""
        await self._until("boundary" if number is None else f"boundary {number}")

    async def end(self, life: str) -> None:
        """Wait until a run has ended and its spool was drained."""
        await self._until(f"ended {life}")

    async def _until(self, wanted: str) -> None:
        """Raise DrillError when something else ends first."""
        async with asyncio.timeout(_PATIENCE_S):
            while line := (await self._lines.readline()).decode().strip():
                if line == wanted or line.split()[0] == wanted:
                    return
                if line.startswith("ended"):
                    raise DrillError(f"{line!r} came while waiting for {wanted!r}")
            code = await self._process.wait()
        raise DrillError(f"the training process ended with {code} while waiting for {wanted!r}")


@asynccontextmanager
async def _child(folder: Path, url: str, lives: Sequence[str]) -> AsyncIterator[_Said]:
    with (folder / "errors").open("w+") as errors:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", "esper_async.study.bench.redis_child", str(folder), url,
            *lives, *_child_flags(), stdout=asyncio.subprocess.PIPE, stderr=errors,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        try:
            yield _Said(process)
            async with asyncio.timeout(_PATIENCE_S):
                code = await process.wait()
            if code != 0:
                raise DrillError(f"the training process ended with {code}")
        except DrillError as failed:
            errors.seek(0)
            raise DrillError(f"{failed}; it said: {errors.read()[-2000:]}") from failed
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


def _child_flags() -> list[str]:
    return []


class _Simic:
    """The coach's service, which can be stopped and started; its store stays."""

    def __init__(self, folder: Path, bus: Bus) -> None:
        self._folder = folder
        self._bus = bus
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Read the bus from now on."""
        service = SimicService(self._folder, self._bus)
        self._task = asyncio.create_task(service.run(lambda: None), name="simic")

    async def stop(self) -> None:
        """Read no more; raises what the service failed with."""
        assert self._task is not None
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task


@asynccontextmanager
async def _simic(folder: Path, server: EmbeddedServer, key: bytes) -> AsyncIterator[_Simic]:
    async with Bus(server.url, signer=Signer(key), source="simic") as bus:
        simic = _Simic(folder, bus)
        simic.start()
        try:
            yield simic
        finally:
            await simic.stop()


# -- what it left --------------------------------------------------------------------------------


def _life(folder: Path, name: str) -> Life:
    laps = json.loads((folder / f"{name}.json").read_text())["laps"]
    steps: dict[int, list[float]] = {}
    for (before, _, start), (boundary, _, end) in pairwise(laps):
        if before == boundary:  # else the time holds a boundary as well
            steps.setdefault(boundary, []).append(end - start)
    walls = [end - start for (_, start, _), (_, end, _) in pairwise(laps)]
    return Life(
        name,
        cpu_s=steps,
        wall_s=walls,
        latest=laps[walls.index(max(walls)) + 1][0],
        told=_told(folder / "runs" / name / "journal.jsonl"),
        stored=_stored(folder / "simic" / "experience.sqlite", name),
    )


def _told(journal: Path) -> dict[str, set[str]]:
    told: dict[str, set[str]] = {"report": set(), "decision": set()}
    for record in read_journal(journal):
        if record["kind"] == "field_report":
            told["report"].add(field_report_of(record).report_id)
        elif record["kind"] == "decision":
            told["decision"].add(decision_of(record).decision_id)
    return told


def _stored(path: Path, run: str) -> dict[str, set[str]]:
    stored: dict[str, set[str]] = {"report": set(), "decision": set()}
    with closing(sqlite3.connect(path)) as database:
        for kind, name in database.execute(
            "SELECT kind, id FROM experiences WHERE run = ?", (run,)
        ):
            stored[kind].add(name)
    return stored


BENCHMARK = Benchmark(
    name="redis-kill",
    question="does training notice that Redis dies, and is anything lost?",
    gross_mutants=True,
    measure=measure,
    mutants=(
        Mutant(
            "spool cleared at XADD's reply",
            "a message is forgotten once Redis has taken it, before Simic has",
            lambda: replaced(f"{__name__}._child_flags", lambda: ["--mutant", "hasty"]),
            fails=("*s whose effect did not happen exactly once",),
        ),
        Mutant(
            "training waits for Redis",
            "what is told of a boundary is published before training goes on",
            lambda: replaced(f"{__name__}._child_flags", lambda: ["--mutant", "waits"]),
            fails=(_WALL,),
        ),
        Mutant(
            "training looks for Redis",
            "every step tries to connect, again and again, while nothing answers",
            lambda: replaced(f"{__name__}._child_flags", lambda: ["--mutant", "looks"]),
            fails=(_CPU,),
        ),
    ),
)
