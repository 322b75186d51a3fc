"""A worker's time runs while it runs, sleeps or hangs, and stands while it waits for a core."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper_async.runtime.processes import queued_in_group
from esper_async.tezzeret.running_time import RunningTime

GROUP = 77
LIMIT_S = 60.0


class Machine:
    """A clock and a queue in which processes wait."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.queued: dict[int, float] = {}

    def clock(self) -> RunningTime:
        return RunningTime(
            GROUP, LIMIT_S, queued=lambda _: dict(self.queued), now=lambda: self.now_s
        )


def test_a_job_that_never_waits_has_its_limit():
    machine = Machine()
    clock = machine.clock()
    machine.now_s += 59.0
    assert clock.left_s() == pytest.approx(1.0)
    machine.now_s += 2.0
    assert clock.left_s() < 0


def test_what_was_waited_before_the_job_is_not_its_own():
    machine = Machine()
    machine.queued = {1: 500.0}
    clock = machine.clock()
    machine.now_s += 61.0
    assert clock.left_s() < 0


def test_the_process_that_waited_longest_counts_and_one_that_ended_has_waited():
    machine = Machine()
    machine.queued = {1: 5.0}
    clock = machine.clock()
    machine.now_s += 50.0
    machine.queued = {1: 7.0, 2: 40.0}  # the second is a compiler that the first has started
    assert clock.left_s() == pytest.approx(50.0)
    machine.now_s += 50.0
    machine.queued = {1: 8.0}
    assert clock.left_s() == pytest.approx(1.0)


def test_a_job_that_only_waits_comes_to_an_end_as_well():
    machine = Machine()
    machine.queued = {1: 0.0}
    clock = machine.clock()
    machine.now_s += 9 * LIMIT_S
    machine.queued = {1: 9 * LIMIT_S}
    assert clock.left_s() == pytest.approx(LIMIT_S)
    machine.now_s += LIMIT_S
    machine.queued = {1: 10 * LIMIT_S}
    assert clock.left_s() == pytest.approx(0.0)


@given(st.lists(st.tuples(st.floats(0.01, 10.0), st.floats(0.0, 1.0)), max_size=40))
def test_waiting_never_takes_from_a_job_and_running_always_does(
    spells: list[tuple[float, float]],
):
    machine = Machine()
    machine.queued = {1: 0.0}
    clock = machine.clock()
    running_s = taken_s = 0.0
    for spell_s, share in spells:
        machine.now_s += spell_s
        machine.queued = {1: machine.queued[1] + share * spell_s}
        taken_s, running_s = taken_s + spell_s, running_s + (1 - share) * spell_s
        expected = min(LIMIT_S - running_s, 10 * LIMIT_S - taken_s)
        assert clock.left_s() == pytest.approx(expected, abs=1e-6)


@contextmanager
def spinning(core: int, *, nice: int = 0) -> Iterator[int]:
    """Yield the pid, and group, of a process that wants all of a core."""
    body = f"import os; os.sched_setaffinity(0, [{core}]); os.nice({nice})\nwhile True: pass"
    process = subprocess.Popen([sys.executable, "-c", body], start_new_session=True)
    try:
        yield process.pid
    finally:
        process.kill()
        process.wait()


def test_a_process_crowded_out_of_its_core_is_seen_to_wait():
    core = min(os.sched_getaffinity(0))
    with spinning(core), spinning(core, nice=19) as crowded:
        if not Path("/proc/self/schedstat").exists():  # this kernel tells of no process
            assert queued_in_group(crowded) == {}
            return
        deadline = time.monotonic() + 60
        while queued_in_group(crowded).get(crowded, 0.0) < 0.2:
            assert time.monotonic() < deadline
        assert set(queued_in_group(crowded)) == {crowded}
