"""Runs in a row while one fault after the other strikes, drawn from a seed: the chaos soak."""

import random
import time
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from esper_async.drills.audit import Trace, gone, lost_by
from esper_async.drills.drill import OVERCOME_S, RUN, RUN_S, Progress, boundaries, ending, staged
from esper_async.drills.faults import FAULTS
from esper_async.drills.stage import Stage, StageError
from esper_async.runtime.processes import open_descriptors

LONG_S = 600.0
"""A soak of this length or more rests between faults as one of twenty minutes does."""
_RESTS_S = {"long": (20.0, 40.0), "short": (2.0, 4.0)}
_MOST_MISSED = 3
_GONE_S = 5.0
_TASKS = "esper_supervisor_loop_tasks"
_MOST_DESCRIPTORS = 8
"""More than at the start: connections that come and go."""


@dataclass(slots=True)
class Soaked:
    """What came of a soak; `missed` counts strikes for which a run had ended too soon."""

    runs: int = 0
    struck: Counter[str] = field(default_factory=Counter)
    missed: Counter[str] = field(default_factory=Counter)
    slowest_s: dict[str, float] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)
    late: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    exit_s: float = 0.0

    @property
    def ok(self) -> bool:
        """Nothing was lost, nothing came too late, and nothing was left."""
        return not self.lost and not self.late and not self.left and self.runs > 0

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "ok": self.ok,
            "runs": self.runs,
            "faults": self.struck.total(),
            "struck": dict(self.struck),
            "slowest_s": {name: round(took, 2) for name, took in self.slowest_s.items()},
            "lost": self.lost,
            "late": self.late,
            "missed": dict(self.missed),
            "left": self.left,
            "exit_s": round(self.exit_s, 2),
        }


def soak(seconds: float, tell: Progress, *, seed: int, mutation: str = "") -> Soaked:
    """Strike for so long, or until something is lost; then let the last run end, and stop.

    Raises StageError when not even the undisturbed run comes to its end.
    """
    chance = random.Random(seed)  # noqa: S311 - instants that repeat, no secrets
    soaked = Soaked()
    with staged(tell, mutation=mutation) as (stage, reference):
        before = _held(stage)
        try:
            _strike_on(stage, reference, soaked, chance, seconds, tell)
            stage.until(stage.ready, "an end to the last recovery", OVERCOME_S)
        except StageError as error:
            soaked.lost.append(str(error))
            stage.kill()
            soaked.left += [f"left behind: {each}" for each in gone(stage, _GONE_S)]
            return soaked
        finally:
            soaked.late += stage.late
        soaked.left += _grown(before, _held(stage))
        end = ending(stage)
        soaked.exit_s = end.recovery_s or 0.0
        soaked.left += end.lost
    return soaked


def _strike_on(
    stage: Stage, reference: Trace, soaked: Soaked, chance: random.Random, seconds: float,
    tell: Progress,
) -> None:  # fmt: skip
    rests_s = _RESTS_S["long" if seconds >= LONG_S else "short"]
    until = time.monotonic() + seconds
    bag: list[str] = []
    run_id = stage.submit(RUN)
    while True:
        if stage.ended(run_id):
            soaked.runs += 1
            soaked.lost += lost_by(stage, run_id, reference)
            if soaked.lost or time.monotonic() >= until:
                return
            run_id = stage.submit(RUN)
        if time.monotonic() >= until:
            stage.until(partial(stage.ended, run_id), "the end of the last run", RUN_S)
            continue
        if not bag:  # every fault comes once before any comes again
            held = sorted(name for name, fault in FAULTS.items() if not fault.hindrance())
            bag = chance.sample(held, len(held))
        _strike(stage, run_id, bag, soaked, tell)
        _rest(stage, run_id, chance.uniform(*rests_s))


def _strike(stage: Stage, run_id: str, bag: list[str], soaked: Soaked, tell: Progress) -> None:
    """Strike once the run is under way; one that ends meanwhile saves the fault for the next."""
    stage.until(
        lambda: stage.ended(run_id) or boundaries(stage, run_id) > 1, "a run under way", RUN_S
    )
    if stage.ended(run_id):
        return
    name = bag.pop()
    stage.struck_at = time.monotonic()
    try:
        overcome = FAULTS[name].strike(stage, run_id)
    except (StageError, ProcessLookupError):
        soaked.missed[name] += 1
        if not stage.ended(run_id) or soaked.missed[name] > _MOST_MISSED:
            raise
        bag.append(name)  # the run ended just now: there is nothing to strike
        return
    stage.until(overcome, f"recovery from {name}", OVERCOME_S)
    took_s = time.monotonic() - stage.struck_at
    limit_s = FAULTS[name].limit_s
    if limit_s is not None and took_s > limit_s:
        stage.late.append(f"{name}: {took_s:.1f} s, not {limit_s:g} s")
    soaked.struck[name] += 1
    soaked.slowest_s[name] = max(took_s, soaked.slowest_s.get(name, 0.0))
    tell(f"{name}: {took_s:.1f} s")


def _rest(stage: Stage, run_id: str, seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until and not stage.ended(run_id):
        time.sleep(0.05)


def _held(stage: Stage) -> dict[str, int]:
    """Count what may leak: the supervisor's descriptors, threads and tasks, the server's keys."""
    with stage.redis() as redis:
        keys = int(redis.dbsize())
    status = Path(f"/proc/{stage.pid}/status").read_text()
    threads = next(int(line.split()[1]) for line in status.splitlines() if "Threads" in line)
    return {
        "descriptors": open_descriptors(stage.pid),
        "keys": keys,
        "threads": threads,
        "tasks": int(stage.metric(_TASKS) or 0),
    }


def _grown(before: dict[str, int], after: dict[str, int]) -> list[str]:
    return [
        f"{after[name]} {name}, {count} before"
        for name, count in before.items()
        if after[name] > count + _MOST_DESCRIPTORS
    ]
