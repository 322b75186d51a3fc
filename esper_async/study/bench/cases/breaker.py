"""What does a circuit breaker cost a call that goes well, and does it keep what it has seen?

A closed breaker counts each call in its window. Rounds of bare calls and of guarded ones take
turns; CPU time of the thread counts, and the best round of each, since others on the machine only
make a round slower. The clock is the machine's, as in the running system.
"""

import asyncio
import gc
import time
import tracemalloc
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from esper_async.runtime.breaker import BreakerOpen, BreakerPolicy, CircuitBreaker
from esper_async.runtime.breaker_window import CallWindow
from esper_async.runtime.clock import FakeClock
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
from esper_async.study.bench.cases.contracts import Machine
from esper_async.study.bench.slowing import burning_cpu

MOST_US = 1.0
MOST_GROWTH_BYTES = 4_096.0
SYNC, ASYNC = "overhead of a synchronous call", "overhead of an asynchronous call"
MEMORY = "memory that calls leave behind"
PROBES = "concurrent calls let through half open"
_CALLS = {Effort.SHORT: 100_000, Effort.FULL: 1_000_000}
_ROUND = 5_000
_CONCURRENT = 50


def measure(effort: Effort) -> list[Row]:
    """Time calls with and without a breaker; count memory, and what passes half open."""
    calls = _CALLS[effort]
    rows: list[Row] = []
    if wants(SYNC):
        rows.append(_cost(SYNC, calls, _bare, _guarded))
    if wants(ASYNC):
        rows.append(_cost(ASYNC, calls, partial(_awaited, None), _awaited_guarded))
    if wants(MEMORY):
        rows.append(_memory(calls))
    if wants(PROBES):
        rows.append(asyncio.run(_half_open()))
    return rows


def _cost(figure: str, calls: int, bare: Callable[[], float], guarded: Callable[[], float]) -> Row:
    machine = Machine()
    rounds = []
    for _ in range(calls // _ROUND):
        machine.listen()
        rounds.append((bare(), guarded()))
    bare_us, guarded_us = (1e6 * min(times) / _ROUND for times in zip(*rounds, strict=True))
    return judged(
        figure,
        guarded_us - bare_us,
        "µs",
        Bar("at most", MOST_US),
        note=f"{guarded_us:.2f} µs with, {bare_us:.2f} µs without; best of {len(rounds)} rounds of "
        f"{_ROUND} calls, thread CPU time",
        doubt=machine.doubt(guarded_us - bare_us, MOST_US),
    )


def _nothing() -> None:
    return None


async def _nothing_awaited() -> None:
    return None


def _bare() -> float:
    started = time.thread_time()
    for _ in range(_ROUND):
        _nothing()
    return time.thread_time() - started


def _guarded() -> float:
    call = CircuitBreaker("bench").call_sync
    started = time.thread_time()
    for _ in range(_ROUND):
        call(_nothing)
    return time.thread_time() - started


def _awaited(breaker: CircuitBreaker | None) -> float:
    async def calls() -> float:
        started = time.thread_time()
        if breaker is None:
            for _ in range(_ROUND):
                await _nothing_awaited()
        else:
            call: Callable[..., Awaitable[None]] = breaker.call
            for _ in range(_ROUND):
                await call(_nothing_awaited)
        return time.thread_time() - started

    return asyncio.run(calls())


def _awaited_guarded() -> float:
    return _awaited(CircuitBreaker("bench"))


def _memory(calls: int) -> Row:
    """Count what is left allocated by calls over many windows, a failure now and then."""
    clock = FakeClock()
    breaker = CircuitBreaker("bench", BreakerPolicy(window_s=1.0), clock=clock)
    _some_calls(breaker, clock, 1_000)
    gc.collect()
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    _some_calls(breaker, clock, calls)
    gc.collect()
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return judged(
        MEMORY, float(after - before), "bytes", Bar("at most", MOST_GROWTH_BYTES),
        note=f"after {calls} calls",
    )  # fmt: skip


def _some_calls(breaker: CircuitBreaker, clock: FakeClock, count: int) -> None:
    for number in range(count):
        clock.advance(0.003)
        try:
            breaker.call_sync(_nothing if number % 7 else _fail)
        except ConnectionError:
            continue


def _fail() -> None:
    raise ConnectionError


async def _half_open() -> Row:
    """Let fifty calls ask at once of a breaker that has just waited long enough."""
    clock = FakeClock()
    breaker = CircuitBreaker("bench", BreakerPolicy(failures=1), clock=clock)
    try:
        breaker.call_sync(_fail)
    except ConnectionError:
        clock.advance(breaker.policy.open_s)
    gate = asyncio.Event()
    tasks = [asyncio.ensure_future(breaker.call(gate.wait)) for _ in range(_CONCURRENT)]
    await asyncio.sleep(0)
    gate.set()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    passed = sum(not isinstance(outcome, BreakerOpen) for outcome in outcomes)
    bar = Bar("at most", float(breaker.policy.probes))
    return judged(PROBES, float(passed), f"of {_CONCURRENT}", bar)


# -- mutants -------------------------------------------------------------------------------------

_ADD = "esper_async.runtime.breaker_window.CallWindow.add"
_add = CallWindow.add
_seen: list[Any] = []


def _keeps_every_call(window: CallWindow, now: float, failures: int) -> None:
    _seen.append((now, failures))
    _add(window, now, failures)


_admit = CircuitBreaker._admit


def _admit_all(breaker: CircuitBreaker) -> int:
    generation = _admit(breaker)
    breaker._probing = 0
    return generation


BENCHMARK = Benchmark(
    name="breaker",
    question="what does a circuit breaker cost a call that goes well?",
    measure=measure,
    mutants=(
        Mutant(
            "computes at each call",
            "counting a call takes 10 µs",
            lambda: burning_cpu(_ADD, 1e-5),
            fails=(SYNC, ASYNC),
        ),
        Mutant(
            "keeps every call",
            "calls that have left the window stay in memory",
            lambda: replaced(
                "esper_async.runtime.breaker_window.CallWindow.add", _keeps_every_call
            ),
            fails=(MEMORY,),
        ),
        Mutant(
            "lets all through half open",
            "the place of a probe is not taken",
            lambda: replaced("esper_async.runtime.breaker.CircuitBreaker._admit", _admit_all),
            fails=(PROBES,),
        ),
    ),
)
