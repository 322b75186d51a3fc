"""The supervisor side of the coach: experience from the bus into the store."""

import contextlib
import functools
import sqlite3
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import structlog
from anyio import to_thread

from esper_async.leyline import TOPICS, EventEnvelope
from esper_async.oona.errors import BusUnavailable
from esper_async.runtime.breakers import Breakers
from esper_async.runtime.clock import Clock, SystemClock
from esper_async.runtime.errors import BreakerOpen
from esper_async.runtime.metrics import Registry
from esper_async.simic.announcing import Announcements
from esper_async.simic.learning import Learning
from esper_async.simic.metrics import CoachMetrics
from esper_async.simic.registry import PolicyRegistry
from esper_async.simic.store import GROUP, Bounds, ExperienceStore, Intake, experience_path
from esper_async.tamiyo.errors import PolicyFileError

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from esper_async.oona import Bus

_LOG = structlog.get_logger(__name__)
_TOPICS = (TOPICS["field_reports"].name, TOPICS["decisions"].name)

_COUNT_EVERY_S = 0.5
_AWAY = (RuntimeError, BusUnavailable, BreakerOpen)
"""What tells that the bus is away, or not open."""
ANNOUNCE_EVERY_S = 1.0
"""Between two looks at the registry, which any process may change."""


class SimicService:
    """The coach: it keeps experience. `learn` learns from that, and publishes what passes; the
    controller is told of it here, whichever process has changed the registry.

    A registry of policies that is given is signed with today's key when the service starts.
    """

    name = "simic"

    def __init__(
        self,
        state_dir: Path,
        bus: "Bus",
        *,
        policies: PolicyRegistry | None = None,
        bounds: Bounds | None = None,
        registry: Registry | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._path = experience_path(state_dir)
        self._bus = bus
        self._policies = policies
        self._bounds = bounds
        registry = registry or Registry()
        self._metrics = CoachMetrics(registry)
        self._clock: Clock = clock or SystemClock()
        self.breakers = Breakers("simic", registry=registry, clock=self._clock)
        self._disk = self.breakers.make(
            "simic.store", is_failure=lambda error: isinstance(error, OSError | sqlite3.Error)
        )
        self._learning = Learning(state_dir, policies, registry=registry, clock=self._clock)
        self._counts: dict[str, int] = {}
        self._changed = anyio.Event()
        self.store: ExperienceStore | None = None

    async def run(self, ready: Callable[[], None]) -> None:
        """Store what arrives until cancelled; a message is acknowledged once it is on disk."""
        await to_thread.run_sync(self._begin)
        store = self.store = await to_thread.run_sync(self._open)
        try:
            await self._recount(store)
            async with anyio.create_task_group() as group:
                group.start_soon(self._learning.follow)
                for topic in _TOPICS:
                    handler = functools.partial(self._take, store)
                    consume = functools.partial(
                        self._bus.consume_batches, topic, GROUP, handler, consumer=GROUP
                    )
                    group.start_soon(consume)
                group.start_soon(self._keep_count, store)
                if self._policies is not None:
                    group.start_soon(self._keep_announcing, Announcements(self._policies))
                ready()
        finally:
            self.store = None
            store.close()

    def detail(self) -> dict[str, object]:
        """What is kept, for readiness."""
        return {"learner": "on demand", **self._counts}

    def _begin(self) -> None:
        if self._policies is None:
            return
        try:
            self._policies.begin()
        except (
            PolicyFileError,
            OSError,
        ) as error:  # the shipped policy decides, and experience is kept
            _LOG.error("policy_registry_refused", reason=str(error))

    def _open(self) -> ExperienceStore:
        return ExperienceStore(self._path, now=self._clock.time, bounds=self._bounds)

    async def _take(
        self, store: ExperienceStore, arrived: Sequence[tuple["Message", EventEnvelope]]
    ) -> None:
        """Store messages in one transaction, so that they wait for the disk once.

        Raises when the disk fails, so that the bus delivers them again.
        """
        messages = [(message, envelope.event_id) for message, envelope in arrived]
        results = await self._disk.call(to_thread.run_sync, store.take_many, messages)
        for result, count in Counter(results).items():
            self._metrics.experiences.add(count, result=result)
        if any(result is not Intake.DUPLICATE for result in results):
            self._changed.set()

    async def _keep_count(self, store: ExperienceStore) -> None:
        """Count again after changes, but not for every single one."""
        while True:
            await self._changed.wait()
            self._changed = anyio.Event()
            with contextlib.suppress(BreakerOpen, sqlite3.Error):
                await self._recount(store)
            await self._clock.sleep(_COUNT_EVERY_S)

    async def _keep_announcing(self, announcements: Announcements) -> None:
        """Tell what the registry lets decide, and again whenever that changes."""
        complaint = ""
        while True:
            try:
                for update in await to_thread.run_sync(announcements.due):
                    await self._bus.publish(update)
                    announcements.told(update)
                    self._metrics.published.add()
                    _LOG.info("policy_update_told", version=update.policy_version)
            except (PolicyFileError, OSError, sqlite3.Error, *_AWAY) as error:
                announcements.again()
                if str(error) != complaint:
                    complaint = str(error)
                    _LOG.warning("policy_update_waits", reason=complaint)
            await self._clock.sleep(ANNOUNCE_EVERY_S)

    async def _recount(self, store: ExperienceStore) -> None:
        self._counts = await self._disk.call(to_thread.run_sync, store.count)
        for kind in ("reports", "decisions"):
            self._metrics.size.set(self._counts[kind], kind=kind)
