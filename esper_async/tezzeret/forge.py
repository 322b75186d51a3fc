"""The forge's loop: what the library lacks becomes jobs, and jobs become certificates."""

import functools
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

import anyio
import structlog
from anyio import to_thread

from esper_async.runtime.breaker import BreakerOpen, CircuitBreaker
from esper_async.runtime.child import ChildSpec
from esper_async.runtime.clock import Clock
from esper_async.runtime.errors import ChildStartError
from esper_async.tezzeret.job import Job, JobKind, JobState, Priority, Work
from esper_async.tezzeret.metrics import ForgeMetrics
from esper_async.tezzeret.queue import JobQueue
from esper_async.tezzeret.settings import ForgeSettings
from esper_async.tezzeret.workbench import Workbench, WorkerLostError, WorkerNotStartedError
from esper_async.urza import Library

P = ParamSpec("P")
T = TypeVar("T")
log = structlog.get_logger("tezzeret")


class Forge:
    """Queue, library and worker of one run of the service.

    Made in a thread (it reads and writes the disk), used in the event loop, closed once.
    `on_ended` is called when a job has come to an end, of whatever kind.
    """

    def __init__(
        self,
        state_dir: Path,
        worker: ChildSpec,
        *,
        settings: ForgeSettings,
        metrics: ForgeMetrics,
        clock: Clock,
        fingerprint: str,
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
        self.library = Library(state_dir / "urza", actor="tezzeret", clock=clock)
        self.queue = JobQueue(
            state_dir / "tezzeret" / "jobs.sqlite",
            now=clock.time,
            max_attempts=settings.max_attempts,
        )
        self.bench = Workbench(
            worker, start_limit_s=settings.start_limit_s, job_limit_s=settings.job_limit_s
        )
        self.counts: dict[str, int] = {}
        self.interfaces = 0
        self.working_on = ""

    async def close(self) -> None:
        """Stop the worker and close the files."""
        await self.bench.stop(2.0)
        self.queue.close()
        self.library.close()

    def wake(self) -> None:
        """There may be something to do."""
        self._wake.set()

    async def on_disk(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call something that blocks on the queue's disk, in a thread and through the breaker.

        Raises BreakerOpen, OSError, sqlite3.Error.
        """
        bound = functools.partial(function, *args, **kwargs)
        return await self._disk.call(to_thread.run_sync, bound)

    async def work(self) -> None:
        """Take jobs one after the other until cancelled."""
        unsettled = False
        while True:
            self._wake = anyio.Event()
            try:
                if unsettled:
                    await self.on_disk(self.queue.recover)
                    unsettled = False
                job = await self.on_disk(self.queue.claim)
                if job is None:
                    await self._idle()
                    continue
                self.working_on = describe(job)
                await self._perform(job)
            except (BreakerOpen, OSError, sqlite3.Error) as error:
                unsettled = True
                log.warning("forge_disk_failed", error=str(error))
                await self._clock.sleep(max(self._settings.retry_s, self._disk.retry_after_s))
            finally:
                self.working_on = ""

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

    async def _idle(self) -> None:
        """Wait for work; the worker goes when there has been none for a while."""
        if self.bench.running:
            with anyio.move_on_after(self._settings.idle_s):
                await self._wake.wait()
                return
            await self.bench.stop(2.0)
        await self._wake.wait()

    async def _perform(self, job: Job) -> None:
        """Have the worker do one job and write down how it ended."""
        try:
            await self._starting.call(self.bench.prepare)
        except (WorkerNotStartedError, ChildStartError, BreakerOpen) as error:
            self._metrics.conservative.set(1.0)
            log.error("forge_worker_not_started", error=str(error))
            await self.on_disk(self.queue.give_back, job.id, str(error))
            await self._clock.sleep(max(self._settings.retry_s, self._starting.retry_after_s))
            return
        self._metrics.conservative.set(0.0)
        try:
            report = await self.bench.perform(job.work)
        except WorkerLostError as lost:
            report = {"outcome": "failed", "error": str(lost)}
        ended = await self._settle(job, report)
        self._metrics.jobs.add(
            1, result="retried" if ended.state is JobState.QUEUED else ended.state
        )
        await self.recount()
        self._on_ended()

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
        self._metrics.duration.observe(elapsed_ms, strategy="eager")
        return await self.on_disk(
            self.queue.finish,
            job.id,
            key=str(report["key"]),
            elapsed_ms=elapsed_ms,
            found=[_proof(job.work, str(blueprint)) for blueprint in found],
        )

    def _lost(self) -> list[Job]:
        """The proofs whose certificate the library no longer has, or has damaged."""
        finished = self.queue.finished(self.fingerprint)
        return [job for job in finished if self.library.certificate(job.key) is None]


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
