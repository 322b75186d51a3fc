"""Tolaria's supervisor side: the queue of runs, and one training process for each that runs.

A training process that ends without a final word is started again and resumes from its own
checkpoint, within limits by cause. Draining asks it to write a checkpoint and leave; such a run
goes on at the next start. This module never imports torch.
"""

import asyncio
import random
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import structlog
from google.protobuf.message import Message

from esper_async.leyline import EmergencySignal, EventEnvelope
from esper_async.leyline.envelope import event_id_of
from esper_async.leyline.errors import Refused
from esper_async.leyline.registry import spec_of
from esper_async.oona.effects import EffectLog
from esper_async.oona.errors import BusUnavailable
from esper_async.runtime.breakers import Breakers
from esper_async.runtime.child import Child, ChildSpec
from esper_async.runtime.child_exit import Cause, ChildExit
from esper_async.runtime.clock import Clock, SystemClock
from esper_async.runtime.disk import DiskLevel
from esper_async.runtime.errors import BreakerOpen, ChildStartError
from esper_async.runtime.metrics import Registry
from esper_async.runtime.restart import RestartLimiter, RestartPolicy
from esper_async.tolaria.control import Lasting
from esper_async.tolaria.emergency import Level
from esper_async.tolaria.emergency_signal import is_answered, level_of, signal_of
from esper_async.tolaria.requests import accept
from esper_async.tolaria.retention import Retention, sweep
from esper_async.tolaria.run_file import RunFile, parse_run
from esper_async.tolaria.runs import ENDED, Run, RunConflictError, RunState, RunStore

if TYPE_CHECKING:
    from esper_async.oona import Bus

log = structlog.get_logger(__name__)
TARGET = "esper_async.tolaria.process:train"
EXIT_REFUSED = 4
OPERATOR = "operator"
_DISK_LOOK_S = 1.0
_SWEEP_EVERY_S = 3_600.0
_SAVE_AGAIN_S = 1.0
_RETRY_LEAST_S = 0.1  # a probe of another run may be out
RESUMES_BY_CAUSE: Mapping[Cause, int] = MappingProxyType(
    {
        "signal": 8,
        "hung": 3,
        "out_of_memory": 2,
        "cuda": 3,
        "error": 1,
        "disk": 1_000,  # it waits for room, as ever longer pauses make it
        "done": 0,
        "stopped": 1,
        "not_started": 8,
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TolariaOptions:
    """How training processes are run; times in seconds.

    `heartbeat_timeout_s` is how long a run's step count may stand still, `stop_s` the time a
    draining run has for its checkpoint, `resume_window_s` the window of the limits by cause, and
    `ended_checkpoints_kept_s` and `ended_runs_kept_s` how long an ended run keeps its checkpoints
    and its folder (0: for ever).
    """

    concurrent_runs: int = 1
    nice: int = 10
    heartbeat_timeout_s: float = 120.0
    start_timeout_s: float = 300.0
    stop_s: float = 5.0
    resume_window_s: float = 600.0
    ended_checkpoints_kept_s: float = 0.0
    ended_runs_kept_s: float = 0.0
    target: str = TARGET
    environment: Mapping[str, str] = field(default_factory=dict)


class TolariaService:
    """The queue of runs. All calls from the supervisor's event loop."""

    name = "tolaria"

    def __init__(
        self,
        state_dir: Path,
        redis_url: Callable[[], str],
        *,
        bus: "Bus | None" = None,
        options: TolariaOptions | None = None,
        registry: Registry | None = None,
        disk: Callable[[], DiskLevel] = lambda: "ok",
        clock: Clock | None = None,
        source: random.Random | None = None,
        on_change: Callable[[Run], None] | None = None,
    ) -> None:
        self.store = RunStore(state_dir / "runs")
        self._state_dir = state_dir
        self._redis_url = redis_url
        self._bus = bus
        self._disk = disk
        self._options = options or TolariaOptions()
        self._clock: Clock = clock or SystemClock()
        self.breakers = Breakers("tolaria", registry=registry, clock=self._clock)
        self._starting = self.breakers.make("tolaria.start")
        self._random = source or random.Random()  # noqa: S311 - jitter, not a secret
        self._on_change = on_change
        self._children: dict[str, Child] = {}
        self._drained: dict[str, bool] = {}
        self._changed = asyncio.Event()
        self._conducted: set[str] = set()
        self._unsaved: set[str] = set()
        self._endings: dict[str, asyncio.Event] = {}
        self._answered: EffectLog | None = None

    def detail(self) -> dict[str, object]:
        """Return how many runs are in each state, and why none is begun, if so."""
        counts: dict[str, object] = {}
        if self._disk() == "full":
            counts["held"] = "the disk is full: no run is begun until there is room"
        for state in ("queued", "running", "paused"):
            counts[state] = sum(run.state == state for run in self.store.all())
        return counts

    async def run(self, ready: Callable[[], None]) -> None:
        """Start queued runs as places become free; drain the running ones when cancelled."""
        self._children.clear()
        self._conducted.clear()
        self._drained.clear()
        for run in self.store.load():
            self._take_up(run)
        path = self._state_dir / "tolaria" / "effects.sqlite"
        with closing(EffectLog(path, group=self.name)) as answered:
            self._answered = answered
            ready()
            try:
                async with asyncio.TaskGroup() as group:
                    if self._bus is not None:
                        hearing = self._hear_emergencies(self._bus, answered)
                        group.create_task(hearing, name="emergencies")
                    group.create_task(self._keep_sweeping(), name="retention")
                    group.create_task(self._keep_saving(), name="saving")
                    while True:
                        self._changed.clear()
                        for run in self._next_runs():
                            self._conducted.add(run.id)
                            group.create_task(self._conduct(run), name=f"run {run.id}")
                        await self._until_something_may_begin()
            finally:
                self._answered = None

    # --- what operators ask for -------------------------------------------------------------

    def submit(self, config: Mapping[str, Any] | RunFile, *, base: Path | None = None) -> Run:
        """Queue a new run; raises ConfigurationError when the run file is not right."""
        run_file = config if isinstance(config, RunFile) else parse_run(config, base=base)
        run = self.store.create(run_file, self._clock.time())
        log.info("run_submitted", run=run.id, task=run_file.run.task)
        self._announce(run)
        return run

    def runs(self) -> list[Run]:
        """Return every run, oldest first."""
        return self.store.all()

    def get(self, run_id: str) -> Run:
        """Return a run; raises RunNotFoundError."""
        return self.store.get(run_id)

    def pause(self, run_id: str) -> Run:
        """Hold a run where it is; raises RunConflictError when it has ended."""
        run = self._alive(run_id, "paused")
        if run.state != "paused":
            self._ask(run, "pause")
            self._enter(run, "paused")
        return run

    def resume(self, run_id: str) -> Run:
        """Let a paused run go on; raises RunConflictError when it has ended."""
        run = self._alive(run_id, "resumed")
        if run.state == "paused":
            self._freeze(run_id, on=False)
            here = self._ask(run, "resume")
            self._enter(run, "running" if here else "queued")
        return run

    def stop(self, run_id: str) -> Run:
        """End a run for good, keeping what it has.

        The request is on disk when this returns: the run will not be trained again, even if its
        process or this one dies first. Raises RunConflictError when the run has ended, OSError when
        the disk refuses.
        """
        run = self._alive(run_id, "stopped")
        run.stop_asked = True
        try:
            self.store.save(run)
        except OSError:
            run.stop_asked = False
            raise
        if not self._ask(run, "stop", final=True) and run_id not in self._conducted:
            self._enter(run, "stopped")
        return run

    def rollback(self, run_id: str, to_boundary: int | None = None) -> Run:
        """Send a running run back to an earlier boundary (default: its last checkpoint).

        What returns is a promise: see `cull`.
        """
        return self._steer(run_id, "rollback", to_boundary=to_boundary)

    def cull(self, run_id: str, seed: str) -> Run:
        """Have a running run remove one of its seeds.

        The request is on disk when this returns: the run will carry it out once, or journal why
        not, even if its process or this one dies first. Raises RunConflictError when the run has
        ended or waits for its place, OSError when the disk refuses.
        """
        return self._steer(run_id, "cull", seed=seed)

    async def emergency(self, run_id: str, level: Level, reason: str) -> Run:
        """Answer an emergency that an operator has seen, and tell the bus of it.

        When this returns a CRITICAL one has frozen the run; any other will be answered by the run
        once, or it journals why not: see `cull`. The bus need not be there. Raises
        RunConflictError when the run has ended, or waits for its place and cannot go back.
        """
        run = self._alive(run_id, "sent an emergency")
        if self._answered is None:
            raise RunConflictError("tolaria is down: it can neither freeze a run nor send it back")
        now = self._clock.time()
        signal = signal_of(run_id, level, reason, issued_by=OPERATOR, issued_at=now)
        self._answer(signal)
        self._answered.record(event_id_of(signal, spec_of(signal)))
        if self._bus is not None:
            try:
                await self._bus.publish(signal)
            except (RuntimeError, BusUnavailable, Refused, sqlite3.Error) as error:
                log.warning("emergency_not_told", run=run_id, error=str(error))
        return run

    async def wait_ended(self, run_id: str) -> Run:
        """Wait until a run has ended; raises RunNotFoundError."""
        run = self.store.get(run_id)
        if not run.ended:
            await self._endings.setdefault(run_id, asyncio.Event()).wait()
        return run

    def progress(self, run_id: str) -> dict[str, Any]:
        """Return what the run's training process last reported with its heartbeat, else {}."""
        child = self._children.get(run_id)
        return {} if child is None else {"step": child.step, **child.progress}

    def drained(self, run_id: str) -> bool | None:
        """Whether the run's training process left of itself, with a checkpoint, when drained.

        None when there was no process to drain.
        """
        return self._drained.get(run_id)

    # --- inside -----------------------------------------------------------------------------

    def _take_up(self, run: Run) -> None:
        """At the start of the service: put an unfinished run back where it belongs."""
        if run.ended:
            return
        run.pid = None
        if self._adopt_result(run):
            return
        if run.stop_asked:
            self._enter(run, "stopped")
        elif run.state == "running":
            run.state = "queued"
            self._save(run)

    async def _keep_sweeping(self) -> None:
        """Remove by and by what ended runs have kept long enough."""
        options = self._options
        retention = Retention(options.ended_checkpoints_kept_s, options.ended_runs_kept_s)
        while True:
            in_use = self._unsaved | set(self._conducted)
            ended = [run for run in self.store.all() if run.ended and run.id not in in_use]
            now = self._clock.time()
            swept = await asyncio.to_thread(sweep, self.store, ended, retention, now)
            for run in swept.gone:
                self.store.forget(run)
                log.info("ended_run_removed", run=run.id)
            for run in swept.without_checkpoints:
                log.info("checkpoints_of_ended_run_removed", run=run.id)
            await self._clock.sleep(_SWEEP_EVERY_S)

    async def _until_something_may_begin(self) -> None:
        """Wait for a change; while the disk is full, look again by and by."""
        while self._disk() == "full" and not self._changed.is_set():
            await self._clock.sleep(_DISK_LOOK_S)
            if self._disk() != "full":
                return
        await self._changed.wait()

    def _next_runs(self) -> list[Run]:
        if self._disk() == "full":
            return []
        places = self._options.concurrent_runs - len(self._conducted)
        waiting = [
            r for r in self.store.all() if r.state == "queued" and r.id not in self._conducted
        ]
        return waiting[: max(0, places)]

    async def _conduct(self, run: Run) -> None:
        """See one run through, over as many training processes as it takes."""
        limits: dict[Cause, RestartLimiter] = {}
        try:
            while run.state != "paused":  # else resuming it puts it back into the queue
                outcome = await self._train(run)
                delay_s = self._verdict(run, outcome, limits)
                if delay_s is None:
                    return
                await self._clock.sleep(delay_s)
                if run.stop_asked:
                    self._enter(run, "stopped")
                    return
        finally:
            self._conducted.discard(run.id)
            run.pid = None
            self._announce(run)

    async def _train(self, run: Run) -> ChildExit:
        """Start the run's training process and wait for its end; drain it when cancelled."""
        options = self._options
        spec = ChildSpec(
            name=f"train-{run.id}",
            target=options.target,
            args={
                "run_dir": str(run.folder),
                "state_dir": str(self._state_dir),
                "redis_url": self._redis_url(),
                "key_path": str(self._state_dir / "leyline.key"),
            },
            nice=options.nice,
            heartbeat_timeout_s=options.heartbeat_timeout_s,
            start_timeout_s=options.start_timeout_s,
            environment=options.environment,
            log_path=run.folder / "log.jsonl",
        )
        child = Child(spec, clock=self._clock)
        try:
            await self._start(child)
        except ChildStartError as error:
            return ChildExit(None, None, str(error), "not_started")
        self._children[run.id] = child
        run.pid = child.pid
        if run.state != "paused":
            self._enter(run, "running")
        else:
            child.request("pause")
        if run.stop_asked:
            child.request("stop", final=True)
        try:
            return await child.wait()
        except asyncio.CancelledError:
            self._drained[run.id] = False
            self._drained[run.id] = (await child.stop(options.stop_s)).code == 0
            self._adopt_result(run)
            raise
        finally:
            del self._children[run.id]

    async def _start(self, child: Child) -> None:
        """Spawn a training process; wait while the system has refused several in a row.

        Raises ChildStartError for a process that was tried and could not be had.
        """
        while True:
            try:
                return await self._starting.call(child.start)
            except BreakerOpen as refusal:
                log.warning("training_waits", child=child.spec.name, reason=str(refusal))
                await self._clock.sleep(max(refusal.retry_after_s, _RETRY_LEAST_S))

    def _verdict(
        self, run: Run, outcome: ChildExit, limits: dict[Cause, RestartLimiter]
    ) -> float | None:
        """Decide what a training process's end means: None when the run is over, else the wait."""
        if self._adopt_result(run):
            return None
        if run.stop_asked:
            self._enter(run, "stopped")
            return None
        if outcome.code == EXIT_REFUSED:
            self._enter(run, "failed", outcome.reason)
            return None
        cause = outcome.cause
        if cause not in limits:
            policy = RestartPolicy(
                limit=RESUMES_BY_CAUSE[cause], window_s=self._options.resume_window_s
            )
            limits[cause] = RestartLimiter(policy, self._clock, self._random)
        delay_s = limits[cause].next_delay_s()
        if delay_s is None:
            again = "" if limits[cause].total == 0 else f", {limits[cause].total + 1} times"
            self._enter(run, "failed", f"{outcome.reason}{again}; see {run.folder / 'log.jsonl'}")
            return None
        run.resumes += 1
        self._save(run)
        log.warning("run_resumes", run=run.id, reason=outcome.reason, delay_s=round(delay_s, 2))
        return delay_s

    async def _hear_emergencies(self, bus: "Bus", answered: EffectLog) -> None:
        async def hear(signal: Message, envelope: EventEnvelope) -> None:
            if envelope.event_id in answered:
                log.info("emergency_heard_before", event_id=envelope.event_id)
                return
            if isinstance(signal, EmergencySignal) and not is_answered(signal):
                try:
                    self._answer(signal)
                except RunConflictError as conflict:
                    log.warning("emergency_cannot_be_answered", reason=str(conflict))
            answered.record(envelope.event_id)

        await bus.consume("control", self.name, hear, consumer=self.name)

    def _answer(self, signal: EmergencySignal) -> None:
        """Do what an emergency's level asks for; the run does the rest, and journals it.

        A copy that comes again after a crash changes nothing for the worse. Raises
        RunConflictError when no process can go back, OSError when the disk refuses.
        """
        level = level_of(signal)
        meant = [r for r in self.store.all() if not r.ended and signal.run_id in ("", r.id)]
        log.error("emergency", run=signal.run_id, severity=level, reason=signal.reason)
        if level == "CRITICAL":
            for run in meant:  # the flags first: all that follows is slower
                self._freeze(run.id, on=True)
            for run in meant:
                self.pause(run.id)
        elif signal.run_id:
            for run in meant:
                self._check_conducted(run)
        else:  # what waits for its place has nothing to go back from
            meant = [run for run in meant if run.id in self._conducted]
        for run in meant if level is not None else ():
            self._hand_over(run, "emergency", level=level, reason=_reason_in(signal))

    def _freeze(self, run_id: str, *, on: bool) -> None:
        child = self._children.get(run_id)
        if child is not None:
            child.freeze(on)

    def _adopt_result(self, run: Run) -> bool:
        """Take over the final state that the training process wrote, if it has."""
        result = run.result
        if result is None or result.get("state") not in ENDED:
            return False
        self._enter(run, result["state"], result.get("error"))
        return True

    def _alive(self, run_id: str, deed: str) -> Run:
        run = self.store.get(run_id)
        if run.ended:
            raise RunConflictError(f"run {run_id} is {run.state} and cannot be {deed}")
        return run

    def _steer(self, run_id: str, kind: Lasting, **fields: Any) -> Run:
        run = self._alive(run_id, "steered")
        self._check_conducted(run)
        self._hand_over(run, kind, **fields)
        return run

    def _check_conducted(self, run: Run) -> None:
        if run.id not in self._conducted:
            raise RunConflictError(f"run {run.id} is {run.state}: it has no training process yet")

    def _hand_over(self, run: Run, kind: Lasting, **fields: Any) -> None:
        """Have a run do something once; a process that is still to start reads it from the disk."""
        number = accept(run.folder, kind, self._clock.time(), **fields)
        self._ask(run, kind, request=number, **fields)

    def _ask(self, run: Run, kind: str, **fields: Any) -> bool:
        child = self._children.get(run.id)
        return child is not None and child.request(kind, **fields)

    def _enter(self, run: Run, state: RunState, error: str | None = None) -> None:
        run.state = state
        run.error = error
        self._save(run)
        log.info("run_state", run=run.id, state=state, error=error)
        if run.ended and run.id in self._endings:
            self._endings.pop(run.id).set()
        self._announce(run)

    def _save(self, run: Run) -> None:
        """Write a run's state, later if the disk refuses: no service ends over it, no child."""
        try:
            self.store.save(run)
        except OSError as error:
            log.warning("run_not_saved", run=run.id, error=str(error))
            self._unsaved.add(run.id)
        else:
            self._unsaved.discard(run.id)

    async def _keep_saving(self) -> None:
        """Write by and by what the disk has refused."""
        while True:
            await self._clock.sleep(_SAVE_AGAIN_S)
            for run_id in tuple(self._unsaved):
                self._save(self.store.get(run_id))

    def _announce(self, run: Run) -> None:
        self._changed.set()
        if self._on_change is not None:
            self._on_change(run)


def _reason_in(signal: EmergencySignal) -> str:
    """Return why there is an emergency and who says so."""
    reason = signal.reason or "no reason was given"
    return f"{reason} (told by {signal.issued_by or 'nobody in particular'})"
