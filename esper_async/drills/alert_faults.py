"""What provokes each alert: a fault that lasts for as long as its context is open."""

import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from redis import Redis

from esper_async.drills.seams import DISK_TAKEN
from esper_async.drills.stage import Stage, StageError
from esper_async.oona.streams import normal_lane

Keep = Callable[[], object]
"""Called again and again while a fault lasts: it strikes anew what has recovered."""
_DISK_TAKEN, _DECISION_DELAY_S = 0.97, 0.05
_FLOODED, _AT_ONCE = 6_000, 1_000
_REPEATED, _READER, _TOLD_WITHIN_S = ("decisions", "field_reports"), "simic", 60


@dataclass(frozen=True, slots=True)
class AlertFault:
    """A fault, and the alerts that it must have fire and, once it is over, resolve.

    `lasts(stage)` strikes when it is entered and mends when it is left; `needs_run` says that only
    a run under way shows it; with `about` only alerts that have these labels count.
    """

    name: str
    what: str
    alerts: tuple[str, ...]
    lasts: Callable[[Stage], AbstractContextManager[Keep]]
    needs_run: bool = True
    about: Mapping[str, str] = field(default_factory=dict)


def _nothing() -> None:
    """A fault that lasts by itself."""


@contextmanager
def _forge_unstartable(stage: Stage) -> Iterator[Keep]:
    def kill() -> None:
        pid = stage.child("forge")
        if pid is not None:
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)

    yield kill


@contextmanager
def _training_killed(stage: Stage) -> Iterator[Keep]:
    pid = stage.child("train-")
    if pid is None:
        raise StageError("no run is being trained at the moment")
    os.killpg(pid, signal.SIGKILL)
    yield _nothing


@contextmanager
def _redis_frozen(stage: Stage) -> Iterator[Keep]:
    pid = stage.redis_pid()
    if pid is None:
        raise StageError("the Redis server does not run at the moment")
    os.kill(pid, signal.SIGSTOP)
    try:
        yield _nothing
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


@contextmanager
def _flooded(stage: Stage) -> Iterator[Keep]:
    """Repeat a message that Simic must read while Simic is away, so that they wait."""
    with stage.redis() as redis:
        lane, message = _next_message(redis)

        def repeat() -> None:
            if _waiting(redis, lane) < _FLOODED:
                with redis.pipeline(transaction=False) as pipeline:
                    for _ in range(_AT_ONCE):
                        pipeline.xadd(lane, message)
                    pipeline.execute()

        with _by_seam("simic_fails", 1.0)(stage):
            yield repeat


def _next_message(redis: "Redis") -> tuple[str, Any]:
    """Wait for a message that Simic must read; return its stream and its fields."""
    lanes: Any = dict.fromkeys(map(normal_lane, _REPEATED), "$")
    found: Any = redis.xread(lanes, count=1, block=1_000 * _TOLD_WITHIN_S)
    if not found:
        raise StageError(f"nobody told any of {', '.join(_REPEATED)} in {_TOLD_WITHIN_S} s")
    [stream, [(_, fields), *_]], *_ = found
    return stream.decode(), fields


def _waiting(redis: "Redis", lane: str) -> int:
    """Count what Simic has still to acknowledge."""
    [group] = [each for each in redis.xinfo_groups(lane) if each["name"] == _READER.encode()]
    return int(group["pending"]) + int(group["lag"] or 0)


def _by_seam(
    name: str, value: float, after: float = 0.0
) -> Callable[[Stage], AbstractContextManager[Keep]]:
    @contextmanager
    def lasts(stage: Stage) -> Iterator[Keep]:
        stage.seams.set(name, value)
        try:
            yield _nothing
        finally:
            stage.seams.set(name, after)

    return lasts


@contextmanager
def _policy_fails(stage: Stage) -> Iterator[Keep]:
    """Have each decision fail until the run goes on without its policy; then end that run."""
    stage.seams.set("policy_fails", 1.0)
    try:
        yield _nothing
    finally:
        stage.seams.set("policy_fails", 0.0)
        stage.stop_runs()


@contextmanager
def _supervisor_killed(stage: Stage) -> Iterator[Keep]:
    stage.kill()
    try:
        yield _nothing
    finally:
        stage.start()


ALERT_FAULTS = (
    AlertFault(
        "forge-unstartable",
        "SIGKILL of each worker of the forge as it starts",
        ("tezzeret_conservative_mode",),
        _forge_unstartable,
        needs_run=False,
    ),
    AlertFault(
        "host-touched",
        "seeds that learn draw from their host's random numbers",
        ("kasmina_isolation_violation",),
        _by_seam("host_touched", 1.0),
    ),
    AlertFault(
        "policy-slow",
        f"a decision takes {_DECISION_DELAY_S:g} s more",
        ("training_latency_high",),
        _by_seam("decision_delay_s", _DECISION_DELAY_S),
    ),
    AlertFault(
        "training-killed",
        "SIGKILL of the training process",
        ("child_lost",),
        _training_killed,
    ),
    *(
        AlertFault(
            "simic-away",
            "Simic's service fails until its budget goes too fast",
            (alert,),
            _by_seam("simic_fails", 1.0),
            needs_run=False,
            about={"service": "simic", "objective": "availability"},
        )
        for alert in ("slo_burn_slow", "slo_budget_spent", "slo_burn_fast")
    ),
    AlertFault(
        "redis-frozen",
        "SIGSTOP of the Redis server",
        ("breaker_open",),
        _redis_frozen,
        needs_run=False,
    ),
    AlertFault(
        "disk-taken",
        f"{_DISK_TAKEN:.0%} of the disk is taken",
        ("disk_low",),
        _by_seam("disk_taken", _DISK_TAKEN, after=DISK_TAKEN),
        needs_run=False,
    ),
    AlertFault(
        "producer-repeats",
        "Simic is away while a producer repeats itself, thousands of times",
        ("oona_queue_depth",),
        _flooded,
    ),
    AlertFault(
        "simic-fails",
        "Simic's service fails whenever it starts",
        ("service_restart_loop", "field_report_overdue"),
        _by_seam("simic_fails", 1.0),
    ),
    AlertFault(
        "policy-fails",
        "the policy raises at each decision, until the run goes on without it",
        ("told_by_a_part",),
        _policy_fails,
    ),
    AlertFault(
        "supervisor-killed",
        "SIGKILL of the supervisor",
        ("esper_down",),
        _supervisor_killed,
        needs_run=False,
    ),
)
"""In the order in which they strike: the forge while a new run needs it, what ends the run when no
other needs it any more, the supervisor last.

Each of the budgets' alerts takes more to fire than the one before.
"""
