"""Is anything lost while one fault after the other strikes a live system, and how long is it away?

A drill for each bar of recovery, one after the other, each in the middle of a run that grows, and a
soak in which every kind of fault strikes at random: of four minutes in the short form, of twenty in
the full one. All of it happens in a process of its own, on a supervisor of its own: see
`esper_async.drills`.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

from esper_async.study.bench.benchmark import (
    Bar,
    Benchmark,
    Effort,
    Mutant,
    Row,
    judged,
    shown,
    wants,
)
from esper_async.study.bench.drills_apart import broken, drilled

TRAINING, REDIS = "training killed: to training again", "Redis killed: to all ready again"
NISSA, SUPERVISOR = "Nissa failed: to ready again", "supervisor killed: to training again"
LOST, LEFT = "lost in all of that", "left behind at the end"
LATE = "ready too late after a start, or stopped too late"
SOAK_LOST, SOAK_LATE, SOAK_LEFT = "soak: lost", "soak: late", "soak: left"
EXIT = "SIGTERM to the end"
MOST_S = {TRAINING: 8.0, REDIS: 2.0, NISSA: 1.0, SUPERVISOR: 13.0, EXIT: 10.0}
"""A supervisor's new start has 5 s to be ready, and its training process 8 s to train again."""
_SLACK = {Effort.SHORT: 2.0, Effort.FULL: 1.0}
"""The short form and its mutants recover beside each other, on the same two cores."""
_DRILLS = {
    TRAINING: "training-killed",
    REDIS: "redis-killed",
    NISSA: "nissa-failed",
    SUPERVISOR: "supervisor-killed",
}
_STOPS = {
    "SIGTERM while it trains: to the end": "stopped-training",
    "SIGTERM while the forge proves: to the end": "stopped-proving",
    "SIGTERM while the forge compiles: to the end": "stopped-compiling",
    "SIGTERM under a flood of telemetry: to the end": "stopped-ingesting",
}
"""Held in the full form alone: each takes a run of its own."""
_SOAK_S = {Effort.SHORT: 240.0, Effort.FULL: 1_200.0}
_SEED = 20261127


def measure(effort: Effort) -> list[Row]:
    """Hold the drills, and soak; in the full form stop in the middle of this and that as well."""
    figures = [figure for figure in _DRILLS if wants(figure)] or [TRAINING]
    rows = _drilled(figures, _SLACK[effort])
    if effort is Effort.FULL:
        rows += _stopped()
    return rows + (_soaked(effort) if wants(SOAK_LOST) else [])


def _drilled(figures: Sequence[str], slack: float) -> list[Row]:
    told = drilled("--slack", str(slack), *(_DRILLS[figure] for figure in figures))
    outcomes = {outcome["name"]: outcome for outcome in told["drills"]}
    *drills, end = told["drills"]
    lost = [f"{each['name']}: {what}" for each in drills for what in each["lost"]]
    late = [what for each in drills for what in each["late"]]
    rows = [_recovery(figure, outcomes[_DRILLS[figure]], slack) for figure in figures]
    return [
        *rows,
        judged(
            LOST, float(len(lost)), "", Bar("at most", 0.0),
            note="; ".join(lost) or "weights, records and field reports of each run as undisturbed",
        ),
        judged(
            LATE, float(len(late)), "late", Bar("at most", 0.0),
            note="; ".join(late) or f"{5 * slack:g} s to be ready again, {10 * slack:g} s to stop",
        ),
        judged(
            LEFT, float(len(end["lost"])), "", Bar("at most", 0.0),
            note="; ".join(end["lost"]) or "no message in a spool, no process, exit code 0",
        ),
        judged(EXIT, end["recovery_s"], "s", Bar("at most", MOST_S[EXIT])),
    ]  # fmt: skip


def _recovery(figure: str, outcome: dict[str, Any], slack: float) -> Row:
    took_s = outcome["recovery_s"]
    value = float("inf") if took_s is None else took_s
    most = Bar("at most", slack * MOST_S[figure])
    note = f"{outcome['what']}; {outcome['queued_s']:.1f} s of it waiting for a core"
    return judged(figure, value, "s", most, note=note)


def _stopped() -> list[Row]:
    told = drilled(*_STOPS.values())
    outcomes = {outcome["name"]: outcome for outcome in told["drills"]}
    rows = []
    for figure, name in _STOPS.items():
        if (outcome := outcomes.get(name)) is None:
            rows.append(shown(figure, 0.0, "s", note="not measured: see what the drill says"))
            continue
        took_s = float("inf") if outcome["lost"] else outcome["stopped_s"]
        note = "; ".join(outcome["lost"]) or "exit code 0, nobody left, bitwise as undisturbed"
        rows.append(judged(figure, took_s, "s", Bar("at most", MOST_S[EXIT]), note=note))
    return rows


def _soaked(effort: Effort) -> list[Row]:
    told = drilled("--soak", str(_SOAK_S[effort]), "--seed", str(_SEED))
    struck = ", ".join(f"{name} {count}" for name, count in sorted(told["struck"].items()))
    slowest = ", ".join(f"{name} {took:.1f}" for name, took in sorted(told["slowest_s"].items()))
    return [
        judged(
            SOAK_LOST, float(len(told["lost"])), "", Bar("at most", 0.0),
            note="; ".join(told["lost"]) or f"{told['runs']} runs, all as the undisturbed one",
        ),
        _late_in_a_soak(effort, told["late"]),
        judged(
            SOAK_LEFT, float(len(told["left"])), "", Bar("at most", 0.0),
            note="; ".join(told["left"]) or "descriptors, threads, keys, spools, processes",
        ),
        shown("soak: faults", float(told["faults"]), "", note=struck),
        shown("soak: slowest recovery", max(told["slowest_s"].values()), "s", note=slowest),
    ]  # fmt: skip


def _late_in_a_soak(effort: Effort, late: Sequence[str]) -> Row:
    """In the short form others are at work on the same cores: there the drills have the bars."""
    note = "; ".join(late) or "each recovery and each stop within its bar"
    if effort is Effort.SHORT:
        return shown(SOAK_LATE, float(len(late)), "late", note=note)
    return judged(SOAK_LATE, float(len(late)), "late", Bar("at most", 0.0), note=note)


# -- mutants -------------------------------------------------------------------------------------

_STARTS_LATE = """
if "up" in sys.orig_argv:
    time.sleep(12.0)
if any("child_main" in word for word in sys.orig_argv) and sys.orig_argv[-1].startswith("train-"):
    time.sleep(16.0)
"""
_RESTARTS_LATE = """
if "up" in sys.orig_argv:
    import esper_async.oona.service as oona
    from esper_async.runtime.restart import RestartLimiter
    oona._RESTART_PAUSE_S = 5.0
    _delay = RestartLimiter.next_delay_s
    def _long(self):
        return None if _delay(self) is None else 2.5
    RestartLimiter.next_delay_s = _long
"""
_CARELESS = """
if "up" in sys.orig_argv:
    import subprocess
    import esper_async.supervisor.app as app
    app._end_at_once = lambda why: None
    from esper_async.nissa.service import NissaService
    from esper_async.simic.service import SimicService
    async def _forget(self, *_):
        return None
    SimicService._take = _forget
    _left = subprocess.Popen(["sleep", "300"])
    _stops = NissaService.run
    async def _stops_late(self, ready):
        try:
            await _stops(self, ready)
        finally:
            time.sleep(11.0)
    NissaService.run = _stops_late
"""


BENCHMARK = Benchmark(
    name="chaos",
    question="is anything lost while faults strike, and how long is what they hit away?",
    timed=False,
    measure=measure,
    mutants=(
        Mutant(
            "takes its time to start",
            "a supervisor and a training process are there seconds later",
            partial(broken, _STARTS_LATE),
            fails=(TRAINING, SUPERVISOR, LATE),
        ),
        Mutant(
            "takes its time to start again",
            "the back-offs of services and of the server are long",
            partial(broken, _RESTARTS_LATE),
            fails=(REDIS, NISSA),
        ),
        Mutant(
            "careless",
            "reports are acknowledged and thrown away; a process is left, the end is slow and "
            "nobody cuts it short",
            partial(broken, _CARELESS),
            fails=(LOST, LEFT, EXIT, SOAK_LOST, SOAK_LEFT),
        ),
    ),
)
