"""How soon does a CRITICAL emergency stop the steps, and does the run notice that it was frozen?

A real training process under the real service of Tolaria, with a bus between: the signal is
published by somebody else, heard, and the flag that both processes share goes up. The child notes
when each of its optimizer steps ended, by the machine's own clock. First its batches are quick, so
that all there is to see is the way of the signal; then they are slow, and told of by the operator:
the step under way may end, and no other begin. It is resumed each time. At its end its weights are
compared with those of a run that nobody froze.
"""

import asyncio
import random
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import torch
from structlog.testing import capture_logs

from esper_async.leyline.keys import load_signer
from esper_async.oona import Bus, Spool
from esper_async.study.bench import freeze_child
from esper_async.study.bench.benchmark import (
    Bar,
    Benchmark,
    Effort,
    Mutant,
    Row,
    judged,
    replaced,
    wants,
)
from esper_async.study.bench.bus_load import running_server
from esper_async.study.bench.freeze_child import AT_BOUNDARIES, DRAWS, MUTANT, Stamps
from esper_async.tolaria.emergency_signal import signal_of
from esper_async.tolaria.engine import Engine
from esper_async.tolaria.global_random import preserved, seed_everything
from esper_async.tolaria.options import RunOptions
from esper_async.tolaria.runs import Run
from esper_async.tolaria.service import TolariaOptions, TolariaService

MOST_MS = 100.0
SLOW_S = 0.25
SEED = 3
QUICK, SLOW, DIFFERING = (
    "batches of a fraction of a millisecond: signal on the bus to last step",
    "batches of 250 ms: operator's word to last step, against the longest batch",
    "tensors that differ from those of a run never frozen",
)
_BATCHES = {Effort.SHORT: (1500, 10), Effort.FULL: (10_000, 40)}
_TIMES = {Effort.SHORT: (8, 4), Effort.FULL: (40, 16)}
_PATIENCE_S = 1.5
_START_S = 60.0
_POLL_S = 0.002


def measure(effort: Effort) -> list[Row]:
    """Freeze a run again and again, first in its quick batches and then in its slow ones."""
    with tempfile.TemporaryDirectory(prefix="esper-bench-") as folder, capture_logs():
        return asyncio.run(_measure(Path(folder), effort))


def _environment() -> Mapping[str, str]:
    """Return what the training process finds in its environment."""
    return {}


class _Frozen:
    """One run, and how it is frozen: how long after the signal its last step ended, in seconds.

    `late_s` is by how much this process was woken too late, at worst: the machine's own doing.
    """

    def __init__(self, service: TolariaService, run: Run, stamps: Stamps) -> None:
        self._service = service
        self._run = run
        self._stamps = stamps
        self._random = random.Random(0)  # noqa: S311 - instants of a measurement
        self.late_s = 0.0

    async def freeze(self, signal: Callable[[], Awaitable[object]], *, batch_s: float) -> float:
        """Freeze the run, wait until it stands still, and let it go on; return the latency.

        Of one that has ended instead, it is all the patience that there was.
        """
        await self.reach(self._stamps.read()[0] + 1)
        if self._run.ended:
            return _PATIENCE_S
        await asyncio.sleep(self._random.uniform(0.0, max(batch_s, 0.02)))
        sent = time.monotonic()
        await signal()
        last = await self._stands_still(sent, max(0.08, 2.5 * batch_s))
        if self._run.ended:
            return _PATIENCE_S
        self._service.resume(self._run.id)
        return max(0.0, last - sent)

    async def _stands_still(self, sent: float, quiet_s: float) -> float:
        """Return when the last step ended, or when patience did."""
        until = sent + _PATIENCE_S + quiet_s
        while time.monotonic() < until:
            last = self._stamps.read()[1]
            if time.monotonic() - max(last, sent) > quiet_s and self._run.state == "paused":
                return last
            due = time.monotonic() + _POLL_S
            await asyncio.sleep(_POLL_S)
            self.late_s = max(self.late_s, time.monotonic() - due)
        return until

    async def reach(self, step: int) -> None:
        """Wait until the run has come to a step, or has ended."""
        async with asyncio.timeout(_START_S):
            while self._stamps.read()[0] < step and not self._run.ended:  # noqa: ASYNC110
                await asyncio.sleep(_POLL_S)  # another process's memory wakes nobody


async def _measure(folder: Path, effort: Effort) -> list[Row]:
    (quick, slow), (quick_times, slow_times) = _BATCHES[effort], _TIMES[effort]
    if not wants(SLOW):
        slow = slow_times = 0
    path = folder / "stamps"
    stamps = Stamps(path)
    options = {"quick": quick, "slow": slow, "slow_s": SLOW_S, "stamps": str(path)}
    async with _tolaria(folder) as (service, bus):
        run = service.submit(_run_file(options))
        frozen = _Frozen(service, run, stamps)

        async def publish() -> None:
            now = time.time()
            signal = signal_of(run.id, "CRITICAL", "a drill", issued_by="bench", issued_at=now)
            await bus.publish(signal)

        async def tell() -> None:
            await service.emergency(run.id, "CRITICAL", "a drill")

        quickly = [await frozen.freeze(publish, batch_s=0.0) for _ in range(quick_times)]
        met = stamps.read()[0]
        if slow:
            await frozen.reach(quick + 2)
        slowly = [await frozen.freeze(tell, batch_s=SLOW_S) for _ in range(slow_times)]
        longest_s = stamps.read()[2]
        await service.wait_ended(run.id)
    stamps.close()
    rows = [_quick_row(quickly, frozen.late_s, f"frozen by step {met} of {quick}")]
    if slow:
        rows.append(_slow_row(slowly, longest_s))
    if wants(DIFFERING):
        count = _differing(run.folder, {**options, "slow_s": 0.0, "stamps": ""})
        note = f"frozen {len(quickly) + len(slowly)} times"
        rows.append(judged(DIFFERING, float(count), "tensors", Bar("at most", 0.0), note=note))
    return rows


def _quick_row(taken_s: Sequence[float], late_s: float, where: str) -> Row:
    late_ms, worst_ms = 1e3 * late_s, 1e3 * max(taken_s)
    busy = 3.0 * late_ms > MOST_MS and MOST_MS < worst_ms < 1e3 * _PATIENCE_S
    return judged(
        QUICK,
        worst_ms,
        "ms",
        Bar("at most", MOST_MS),
        doubt=f"this process itself was woken late by {late_ms:.0f} ms" if busy else "",
        note=f"the longest of {len(taken_s)}; {where}",
    )


def _slow_row(taken_s: Sequence[float], longest_s: float) -> Row:
    return judged(
        SLOW,
        1e3 * max(taken_s),
        "ms",
        Bar("at most", 1.0),
        baseline=1e3 * max(longest_s, SLOW_S),
        note=f"the longest of {len(taken_s)}",
    )


def _run_file(options: Mapping[str, Any]) -> dict[str, Any]:
    section = {
        "name": "freeze", "task": f"{freeze_child.__name__}:make_task", "epochs": 1,
        "seed": SEED, "threads": 1, "options": dict(options),
    }  # fmt: skip
    return {"run": section, "growth": {"policy": "static"}}


@asynccontextmanager
async def _tolaria(folder: Path) -> AsyncIterator[tuple[TolariaService, Bus]]:
    """Run Tolaria's service on a bus of its own, and hand out the bus of somebody else."""
    signer = load_signer(folder / "leyline.key")
    async with running_server() as server:
        hearing = Bus(server.url, signer=signer, source="tolaria", spool=Spool(folder / "ours"))
        telling = Bus(server.url, signer=signer, source="bench", spool=Spool(folder / "theirs"))
        service = TolariaService(
            folder,
            lambda: server.url,
            bus=hearing,
            options=TolariaOptions(
                nice=0, target=f"{freeze_child.__name__}:train", environment=_environment()
            ),
        )
        async with hearing, telling:
            ready = asyncio.Event()
            task = asyncio.create_task(service.run(ready.set), name="tolaria")
            try:
                await ready.wait()
                yield service, telling
            finally:
                task.cancel()
                await asyncio.wait([task])


def _differing(folder: Path, options: Mapping[str, Any]) -> int:
    """Count the tensors of a run's network that are not those of one that was left alone."""
    from esper_async.tolaria.grown import load_grown

    frozen, alone = freeze_child.make_task(**options), freeze_child.make_task(**options)
    with preserved(alone.model):
        seed_everything(SEED)
        alone = freeze_child.make_task(**options)
        settings = RunOptions(epochs=1, seed=SEED, threads=1, policy="static")
        Engine(alone, settings).run()
    load_grown(frozen.model, folder / "model.pt")
    others = frozen.model.state_dict()
    return sum(
        not torch.equal(tensor, others[name]) for name, tensor in alone.model.state_dict().items()
    )


# -- mutants ---------------------------------------------------------------------------------------


def _looks_at_boundaries() -> Mapping[str, str]:
    return {MUTANT: AT_BOUNDARIES}


def _draws_while_it_waits() -> Mapping[str, str]:
    return {MUTANT: DRAWS}


BENCHMARK = Benchmark(
    name="freeze",
    question="how soon does a CRITICAL emergency stop the steps, and does the run notice it?",
    measure=measure,
    mutants=(
        Mutant(
            "the flag, and what else is asked, is looked at only at boundaries",
            "the run trains on to the end of its epoch",
            lambda: replaced(f"{__name__}._environment", _looks_at_boundaries),
            fails=(QUICK, SLOW),
        ),
        Mutant(
            "random numbers are drawn while it waits",
            "what is frozen goes on with other dropout",
            lambda: replaced(f"{__name__}._environment", _draws_while_it_waits),
            fails=(DIFFERING,),
        ),
    ),
)
