"""Running cells in child processes, several at a time, with what is done already left out."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import anyio

from esper_async.runtime.child import Child, ChildSpec
from esper_async.runtime.errors import ChildStartError
from esper_async.study.cell import Cell, CellResult
from esper_async.study.ledger import Ledger

Tell = Callable[[str], None]
_TRIES = 2
_START_LIMIT_S = 120.0
_STOP_S = 2.0


class WorkerLostError(Exception):
    """A worker died over a cell; the message says how."""


@dataclass(slots=True)
class Tally:
    """How many cells there are, how many are done, and what they took; for the estimate."""

    total: int = 0
    done: int = 0
    cached: int = 0
    failures: dict[str, str] = field(default_factory=dict)
    _took_s: dict[tuple[str, str], list[float]] = field(default_factory=dict)

    def note(self, cell: Cell, wall_s: float) -> None:
        """A cell is done."""
        self.done += 1
        self._took_s.setdefault((cell.task_name, cell.arm_name), []).append(wall_s)

    def left_s(self, cells: Sequence[Cell], workers: int) -> float | None:
        """Seconds that these cells may take; None before the first is done."""
        everything = [each for taken in self._took_s.values() for each in taken]
        if not everything:
            return None
        usual = fmean(everything)
        kinds = [self._took_s.get((cell.task_name, cell.arm_name)) for cell in cells]
        return sum(fmean(taken) if taken else usual for taken in kinds) / workers


class Pool:
    """Workers over one ledger. For one task at a time, in the event loop of the main thread."""

    def __init__(
        self, ledger: Ledger, spec: ChildSpec, *, workers: int, tell: Tell, tally: Tally
    ) -> None:
        self._ledger = ledger
        self._spec = spec
        self._workers = workers
        self._tell = tell
        self._tally = tally
        self._results: list[CellResult | None] = []

    async def run(self, cells: Sequence[Cell]) -> list[CellResult | None]:
        """Return the result of each cell, in order; None for one that failed, as `tally` says.

        A cell over which its worker dies is tried once more. Cancelled, it stops the workers; what
        was finished stays in the ledger.
        """
        self._results = [self._ledger.read(cell) for cell in cells]
        self._tally.total += len(cells)
        waiting: deque[int] = deque()
        for place, result in enumerate(self._results):
            if result is None:
                waiting.append(place)
            else:
                self._tally.cached += 1
                self._tally.note(cells[place], result.wall_s)
        if waiting:
            self._tell(self._line(cells, waiting, "starting"))
        async with anyio.create_task_group() as group:
            for _ in range(min(self._workers, len(waiting))):
                group.start_soon(self._serve, cells, waiting)
        return self._results

    async def _serve(self, cells: Sequence[Cell], waiting: "deque[int]") -> None:
        """Take cells until there are none, with a worker of its own."""
        worker = _Worker(self._spec)
        try:
            while waiting:
                place = waiting.popleft()
                await self._perform(worker, cells, place)
                self._tell(self._line(cells, waiting, cells[place].label))
        finally:
            with anyio.CancelScope(shield=True):
                await worker.stop()

    async def _perform(self, worker: "_Worker", cells: Sequence[Cell], place: int) -> None:
        cell, problem = cells[place], ""
        for _ in range(_TRIES):
            began = time.monotonic()
            try:
                problem = await worker.perform(cell)
            except WorkerLostError as lost:
                problem = str(lost)
                continue
            if not problem:
                self._results[place] = self._ledger.read(cell)
                self._tally.note(cell, time.monotonic() - began)
                return
            break
        self._tally.done += 1
        self._tally.failures[cell.label] = problem

    def _line(self, cells: Sequence[Cell], waiting: Sequence[int], what: str) -> str:
        tally = self._tally
        left_s = tally.left_s([cells[place] for place in waiting], self._workers)
        estimate = "" if left_s is None else f", about {_duration(left_s)} left in this part"
        failed = f", {len(tally.failures)} failed" if tally.failures else ""
        return (
            f"{tally.done} of {tally.total} runs ({tally.cached} known{failed}){estimate}: {what}"
        )


class _Worker:
    """A worker process, started when it is needed and anew when it has died."""

    def __init__(self, spec: ChildSpec) -> None:
        self._spec = spec
        self._child: Child | None = None
        self._message: asyncio.Future[dict[str, Any]] | None = None

    async def perform(self, cell: Cell) -> str:
        """Have the cell run; what went wrong, empty if nothing did. Raises WorkerLostError."""
        if self._child is None or not self._child.running:
            self._child = Child(self._spec, on_message=self._receive)
            warm = self._expect()
            try:
                await self._child.start()
            except ChildStartError as error:
                raise WorkerLostError(str(error)) from error
            with anyio.move_on_after(_START_LIMIT_S):
                await self._reply_or_death(self._child, warm)
            if not warm.done():
                await self.stop()
                raise WorkerLostError(f"a worker was not ready within {_START_LIMIT_S:g} s")
        ended = self._expect()
        self._child.request("cell", cell=cell.to_json())
        reply = await self._reply_or_death(self._child, ended)
        return str(reply["error"])

    async def stop(self) -> None:
        """End the worker, by force if it is in the middle of a cell."""
        if self._child is not None and self._child.running:
            await self._child.stop(_STOP_S)
        self._child = None

    async def _reply_or_death(
        self, child: Child, reply: "asyncio.Future[dict[str, Any]]"
    ) -> dict[str, Any]:
        death = asyncio.ensure_future(child.wait())
        either: set[asyncio.Future[Any]] = {reply, death}
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if reply.done():
                return reply.result()
            raise WorkerLostError(f"its process died: {death.result().reason}")
        finally:
            death.cancel()

    def _expect(self) -> "asyncio.Future[dict[str, Any]]":
        self._message = asyncio.get_running_loop().create_future()
        return self._message

    def _receive(self, message: dict[str, Any]) -> None:
        if self._message is not None and not self._message.done():
            self._message.set_result(message)


def worker_spec(folder: Path, code: str, *, nice: int) -> ChildSpec:
    """What the workers of a study are: one torch thread each, at that priority."""
    return ChildSpec(
        name="study",
        target="esper_async.study.worker:work",
        args={"cells": str(folder / "cells"), "code": code, "library": str(folder / "urza")},
        nice=nice,
        environment={"OMP_NUM_THREADS": "1"},
        log_path=folder / "worker.log",
    )


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5_400 else f"{seconds / 3600:.1f} h"
