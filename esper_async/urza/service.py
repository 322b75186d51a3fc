"""The supervisor side of the library: it counts, checks and tidies, and hears of new kernels."""

import functools
import sqlite3
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import structlog
from anyio import to_thread

from esper_async.leyline import (
    TOPICS,
    BlueprintDescriptor,
    EventEnvelope,
    KernelError,
    KernelReady,
)
from esper_async.runtime.breakers import Breakers
from esper_async.runtime.clock import Clock, SystemClock
from esper_async.runtime.errors import BreakerOpen
from esper_async.runtime.metrics import Registry
from esper_async.urza.garbage import Collected
from esper_async.urza.library import DISK_POLICY, Library, speaks_against_the_disk
from esper_async.urza.metrics import LibraryMetrics
from esper_async.urza.shelves import IntegrityFailure
from esper_async.urza.sweep import SweepReport

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from esper_async.oona import Bus

log = structlog.get_logger("urza")
_DISK_TROUBLE = (OSError, sqlite3.Error, BreakerOpen)


@dataclass(frozen=True, slots=True)
class UrzaSettings:
    """How the library is looked after; durations in seconds.

    A sweep checks everything and rests `sweep_rest_s` between blobs; what nobody needs is
    collected after it, once older than `garbage_age_s`.
    """

    count_every_s: float = 15.0
    sweep_every_s: float = 3_600.0
    sweep_rest_s: float = 0.002
    garbage_age_s: float = 7 * 86_400.0


class _SweepStopped(Exception):  # noqa: N818 - not an error: it ends a sweep at shutdown
    pass


class UrzaService:
    """Keeps the library whole. Others open the same directory with a `Library` of their own."""

    name = "urza"

    def __init__(
        self,
        state_dir: Path,
        bus: "Bus",
        *,
        settings: UrzaSettings | None = None,
        registry: Registry | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._bus = bus
        self._settings = settings or UrzaSettings()
        registry = registry or Registry()
        self._metrics = LibraryMetrics(registry)
        self._clock: Clock = clock or SystemClock()
        self.breakers = Breakers("urza", registry=registry, clock=self._clock)
        self._disk = self.breakers.make("urza", DISK_POLICY, is_failure=speaks_against_the_disk)
        self._stopping = threading.Event()
        self._counts: dict[str, dict[str, int]] = {}
        self._events = {"kernels_ready": 0, "kernels_failed": 0, "kernels_missing": 0}
        self._last_sweep: SweepReport | None = None
        self._collected: Collected | None = None
        self._directory = state_dir / "urza"
        self._library: Library | None = None

    @property
    def library(self) -> Library:
        """The library; opened (its folders made) at the first use. Calls block on the disk."""
        if self._library is None:
            self._library = Library(
                self._directory,
                actor="urza",
                clock=self._clock,
                on_query=self._metrics.queried,
                breaker=self._disk,
                on_damage=self._damaged,
            )
        return self._library

    async def run(self, ready: Callable[[], None]) -> None:
        """Look after the library until cancelled. Raises OSError when it cannot be opened."""
        self._stopping.clear()
        library = await to_thread.run_sync(lambda: self.library)
        try:
            await self._count()
            async with anyio.create_task_group() as group:
                group.start_soon(
                    functools.partial(
                        self._bus.consume,
                        TOPICS["kernel_events"].name,
                        "urza",
                        self._on_event,
                        consumer="urza",
                    )
                )
                group.start_soon(self._keep_count)
                group.start_soon(self._keep_whole)
                ready()
                try:
                    await anyio.sleep_forever()
                finally:
                    self._stopping.set()
        finally:
            library.close()

    def detail(self) -> dict[str, object]:
        """Counts and the last sweep's findings, for readiness."""
        sweep = asdict(self._last_sweep) if self._last_sweep is not None else None
        library = self._library
        return {
            "assets": dict(self._counts.get("lifecycle", {})),
            "kinds": dict(self._counts.get("kind", {})),
            "integrity_failures": library.statistics.integrity_failures if library else 0,
            "last_sweep": sweep,
            **self._events,
        }

    async def _on_event(self, message: "Message", _envelope: EventEnvelope) -> None:
        """Check that an announced kernel is really here; keep a described blueprint."""
        if isinstance(message, KernelReady):
            found = await to_thread.run_sync(self.library.certificate, message.certificate_key)
            if found is None:
                self._events["kernels_missing"] += 1
                log.error("kernel_announced_but_absent", key=message.certificate_key)
            else:
                self._events["kernels_ready"] += 1
        elif isinstance(message, KernelError):
            self._events["kernels_failed"] += 1
            log.warning("kernel_failed", blueprint=message.blueprint_id, reason=message.reason)
        elif isinstance(message, BlueprintDescriptor):
            await to_thread.run_sync(self._keep_blueprint, message)

    def _keep_blueprint(self, message: BlueprintDescriptor) -> None:
        self.library.put(
            f"blueprint:{message.blueprint_id}",
            message.SerializeToString(deterministic=True),
            kind="blueprint",
            blueprint=message.blueprint_id,
        )

    async def _keep_count(self) -> None:
        while True:
            await self._clock.sleep(self._settings.count_every_s)
            await self._count()

    async def _count(self) -> None:
        try:
            self._counts = await to_thread.run_sync(self.library.counts)
        except _DISK_TROUBLE as error:
            log.warning("library_not_counted", error=str(error))
            return
        ratio = self.library.statistics.hit_ratio
        self._metrics.counted(self._counts["lifecycle"], ratio)

    async def _keep_whole(self) -> None:
        """Sweep and tidy at start and then from time to time."""
        while True:
            try:
                self._last_sweep = await to_thread.run_sync(self.library.verify, self._rest)
                self._collected = await to_thread.run_sync(self._tidy)
                await self._count()
            except _SweepStopped:
                return
            except _DISK_TROUBLE as error:
                log.warning("library_sweep_failed", error=str(error))
            await self._clock.sleep(self._settings.sweep_every_s)

    def _tidy(self) -> Collected:
        return self.library.collect_garbage(min_age_s=self._settings.garbage_age_s)

    def _rest(self) -> None:
        if self._stopping.wait(self._settings.sweep_rest_s):
            raise _SweepStopped

    def _damaged(self, failure: IntegrityFailure) -> None:
        self._metrics.damaged(failure.what)
        log.error(
            "integrity_failure", what=failure.what, asset=failure.asset, detail=failure.detail
        )
