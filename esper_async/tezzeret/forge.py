"""The forge's loop: what the library lacks becomes jobs, and jobs certificates and kernels."""

import functools
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ParamSpec, TypeVar

import anyio
import structlog
from anyio import to_thread

from esper_async.kasmina.compiling.cxx import NO_COMPILER, cxx_compiler
from esper_async.kasmina.compiling.kernel_artifact import artifact_key, record_key
from esper_async.kasmina.compiling.kernel_record import stepped_down
from esper_async.leyline import Signer
from esper_async.runtime.breaker import BreakerOpen, CircuitBreaker
from esper_async.runtime.child import ChildSpec
from esper_async.runtime.clock import Clock
from esper_async.runtime.errors import ChildStartError
from esper_async.tezzeret.job import Job, JobKind, JobState, Priority, Work
from esper_async.tezzeret.metrics import ForgeMetrics
from esper_async.tezzeret.queue import JobQueue
from esper_async.tezzeret.settings import ForgeSettings
from esper_async.tezzeret.workbench import (
    Workbench,
    WorkerInterruptedError,
    WorkerLostError,
    WorkerNotStartedError,
)
from esper_async.urza import Library

P = ParamSpec("P")
T = TypeVar("T")
log = structlog.get_logger("tezzeret")


class Forge:
    """Queue, library and workers of one run of the service.

    Made in a thread (it reads and writes the disk), used in the event loop, closed once. There is
    a bench for each of `workers`, and a call of `work` serves one. `on_ended` is called when a job
    has come to an end, of whatever kind. While no worker can be started, or jobs wait for a
    compiler that is not there, `conservative` says so; proofs alone are made then, if any.
    """

    def __init__(
        self,
        state_dir: Path,
        workers: Sequence[ChildSpec],
        *,
        settings: ForgeSettings,
        metrics: ForgeMetrics,
        clock: Clock,
        fingerprint: str,
        signer: Signer,
        disk: CircuitBreaker,
        starting: CircuitBreaker,
        on_ended: Callable[[], None],
    ) -> None:
        self._settings = settings
        self._metrics = metrics
        self._clock = clock
        self._disk = disk
        self._starting = starting
        self._on_ended = on_ended
        self._wake = anyio.Event()
        self.fingerprint = fingerprint
        self.library = Library(state_dir / "urza", actor="tezzeret", clock=clock, signer=signer)
        self.queue = JobQueue(
            state_dir / "tezzeret" / "jobs.sqlite",
            now=clock.time,
            max_attempts=settings.max_attempts,
        )
        self.benches = [
            Workbench(
                worker,
                start_limit_s=settings.start_limit_s,
                job_limit_s=settings.job_limit_s,
                compile_limit_s=settings.compile_limit_s,
            )
            for worker in workers
        ]
        self.counts: dict[str, int] = {}
        self.interfaces = 0
        self._unstarted = self._uncompiled = ""
        self._taking = anyio.Lock()
        self._at_work: dict[Workbench, Job] = {}
        self._idle: set[Workbench] = set()

    async def close(self) -> None:
        """Stop the workers and close the files."""
        async with anyio.create_task_group() as group:
            for bench in self.benches:
                group.start_soon(bench.stop, 2.0)
        self.queue.close()
        self.library.close()

    @property
    def conservative(self) -> str:
        """Why less is done than could be; empty when nothing holds the forge up."""
        return self._unstarted or self._uncompiled

    @property
    def working_on(self) -> list[str]:
        """What the workers do, in words."""
        return [describe(job) for job in self._at_work.values()]

    def wake(self) -> None:
        """There may be something to do."""
        self._wake.set()

    def hurry(self) -> None:
        """Something has come that a live run waits for: it does not wait for a compiler."""
        self._wake.set()
        if self._idle or len(self._at_work) < len(self.benches):
            return
        for bench, job in self._at_work.items():
            if job.work.kind is JobKind.COMPILE:
                bench.interrupt()
                return

    async def on_disk(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call something that blocks on the queue's disk, in a thread and through the breaker.

        Raises BreakerOpen, OSError, sqlite3.Error.
        """
        bound = functools.partial(function, *args, **kwargs)
        return await self._disk.call(to_thread.run_sync, bound)

    async def work(self, bench: Workbench) -> None:
        """Have one worker take jobs one after the other until cancelled."""
        unsettled = False
        while True:
            wake = self._wake = anyio.Event() if self._wake.is_set() else self._wake
            try:
                job = await self._next(bench, settle=unsettled)
                unsettled = False
                if job is None:
                    await self._rest(bench, wake)
                    continue
                await self._perform(bench, job)
            except (BreakerOpen, OSError, sqlite3.Error) as error:
                unsettled = True
                log.warning("forge_disk_failed", error=str(error))
                self._at_work.pop(bench, None)
                await self._clock.sleep(max(self._settings.retry_s, self._disk.retry_after_s))
            finally:
                self._at_work.pop(bench, None)

    async def _next(self, bench: Workbench, *, settle: bool) -> Job | None:
        """Take a job; with `settle` what this bench could not write down is queued again first."""
        async with self._taking:  # else a job just claimed would look like one that was left
            if settle:
                busy = [job.id for job in self._at_work.values()]
                await self.on_disk(self.queue.recover, busy)
            job = await self.on_disk(self.queue.claim, self._impossible())
            if job is not None:
                self._at_work[bench] = job
            return job

    def _impossible(self) -> list[JobKind]:
        return [] if cxx_compiler() else [JobKind.COMPILE]

    async def watch_library(self) -> None:
        """Look from time to time whether the library has lost something, until cancelled."""
        while True:
            await self._clock.sleep(self._settings.recheck_s)
            try:
                await self.fill_gaps()
            except (BreakerOpen, OSError, sqlite3.Error) as error:
                log.warning("forge_recheck_failed", error=str(error))

    async def fill_gaps(self) -> None:
        """Queue what the library lacks for the interfaces that are in use.

        Raises BreakerOpen, OSError, sqlite3.Error.
        """
        since = self._clock.time() - self._settings.remember_s
        interfaces = await self.on_disk(self.queue.interfaces, since)
        for interface, device in interfaces:
            survey = Work(JobKind.SURVEY, interface, self.fingerprint, device=device)
            await self.on_disk(self.queue.add, survey, Priority.SURVEY)
        for job in await to_thread.run_sync(self._lost):
            log.warning("forge_certificate_lost", job=describe(job), key=job.key)
            await self.on_disk(self.queue.repeat, job.id)
        await self.recount()
        self.wake()

    async def recount(self) -> None:
        """Bring the figures that are shown up to date."""
        self.counts = await self.on_disk(self.queue.counts)
        since = self._clock.time() - self._settings.remember_s
        self.interfaces = len(await self.on_disk(self.queue.interfaces, since))
        waiting = (self.counts.get(state, 0) for state in (JobState.QUEUED, JobState.RUNNING))
        self._metrics.depth.set(sum(waiting))
        lacking = bool(self._impossible())
        if lacking:
            lacking = await self.on_disk(self.queue.waiting, JobKind.COMPILE) > 0
        if lacking and not self._uncompiled:
            log.error("forge_conservative", reason=NO_COMPILER)
        self._uncompiled = NO_COMPILER if lacking else ""
        self._show_mode()

    def _show_mode(self) -> None:
        self._metrics.conservative.set(float(bool(self.conservative)))

    async def _rest(self, bench: Workbench, wake: anyio.Event) -> None:
        """Wait for work; the worker goes when there has been none for a while."""
        self._idle.add(bench)
        try:
            if bench.running:
                with anyio.move_on_after(self._settings.idle_s):
                    await wake.wait()
                    return
                await bench.stop(2.0)
            await wake.wait()
        finally:
            self._idle.discard(bench)

    async def _perform(self, bench: Workbench, job: Job) -> None:
        """Have a worker do one job and write down how it ended."""
        try:
            await self._starting.call(bench.prepare)
        except (WorkerNotStartedError, ChildStartError, BreakerOpen) as error:
            self._unstarted = f"no worker could be started: {error}"
            log.error("forge_worker_not_started", error=str(error))
            self._show_mode()
            await self.on_disk(self.queue.give_back, job.id, str(error))
            await self._clock.sleep(max(self._settings.retry_s, self._starting.retry_after_s))
            return
        self._unstarted = ""
        try:
            report = await bench.perform(self._stepped_down(job))
        except WorkerInterruptedError as interruption:
            await self.on_disk(self.queue.give_back, job.id, str(interruption))
            return
        except WorkerLostError as lost:
            report = {"outcome": "failed", "error": str(lost)}
        ended = await self._settle(job, report)
        self._metrics.jobs.add(
            1, result="retried" if ended.state is JobState.QUEUED else ended.state
        )
        await self.recount()
        self._on_ended()

    def _stepped_down(self, job: Job) -> Work:
        """The work as it is tried this time: with less, after it has failed with more."""
        wanted = job.work.compile
        if wanted is None:
            return job.work
        strategy = stepped_down(
            wanted.strategy, job.attempts - 1, conservative=bool(self.conservative)
        )
        return replace(job.work, compile=replace(wanted, strategy=strategy, why=job.error))

    async def _settle(self, job: Job, report: dict[str, object]) -> Job:
        """Write the worker's report into the queue."""
        outcome, error = report["outcome"], str(report.get("error", ""))
        if outcome == "done":
            return await self._done(job, report)
        log.warning("forge_job_failed", job=describe(job), outcome=outcome, error=error)
        if outcome == "refused":
            return await self.on_disk(self.queue.refuse, job.id, error)
        if outcome == "failed":
            return await self.on_disk(self.queue.fail, job.id, error)
        given_back = await self.on_disk(self.queue.give_back, job.id, error)
        await self._clock.sleep(self._settings.retry_s)
        return given_back

    async def _done(self, job: Job, report: dict[str, object]) -> Job:
        found = report.get("found", [])
        assert isinstance(found, list)
        elapsed_ms = float(str(report["elapsed_ms"]))
        self._metrics.duration.observe(elapsed_ms, strategy=str(report.get("strategy", "eager")))
        return await self.on_disk(
            self.queue.finish,
            job.id,
            key=str(report["key"]),
            elapsed_ms=elapsed_ms,
            found=[_proof(job.work, str(blueprint)) for blueprint in found],
        )

    def _lost(self) -> list[Job]:
        """The jobs whose certificate or kernel the library no longer has, or has damaged."""
        return [job for job in self.queue.finished(self.fingerprint) if not self._has(job)]

    def _has(self, job: Job) -> bool:
        if job.work.kind is JobKind.PROVE:
            return self.library.certificate(job.key) is not None
        record = self.library.certificate(record_key(job.key))
        if record is None:
            return False
        return (
            not record["kept"] or self.library.read(artifact_key(job.key), sealed=True) is not None
        )


def describe(job: Job) -> str:
    """The job in words."""
    what = job.work.blueprint or "which blueprints fit"
    return f"{job.work.kind} {what} at {job.work.interface.key}"


def _proof(survey: Work, blueprint: str) -> Work:
    return Work(
        JobKind.PROVE,
        survey.interface,
        survey.fingerprint,
        blueprint=blueprint,
        device=survey.device,
    )
