"""The controller's supervisor side of policy updates: from the bus to the desk, and what follows.

Updates come over the bus, what runs tell of them by the hub. What the desk rejects is taken back in
the registry, and stands as an alert until another policy takes over.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

import structlog
from google.protobuf.message import Message

from esper_async.leyline import Alert, AlertState, EventEnvelope, PolicyUpdate, TelemetryLevel
from esper_async.oona.errors import FAULTS, Backpressure
from esper_async.runtime.clock import Clock
from esper_async.runtime.errors import BreakerOpen
from esper_async.runtime.metrics import Metric, Registry
from esper_async.tamiyo.errors import PolicyFileError, UnknownRunError
from esper_async.tamiyo.hub import Hub, Subscription
from esper_async.tamiyo.policy_desk import TELLING, PolicyDesk, PolicyUpdateRefusedError
from esper_async.tamiyo.published import KINDS, Event

log = structlog.get_logger(__name__)
POLICY_REJECTED: Final = "policy_rejected"
LOOK_EVERY_S, REPEAT_EVERY_S = 1.0, 30.0
_AWAY = (*FAULTS, BreakerOpen, Backpressure, RuntimeError)
"""What tells that the bus is away, or not open."""


class Withdraw(Protocol):
    """Puts back what decided before a policy that was rejected. Blocking."""

    def __call__(self, policy_id: str, features: str, *, reason: str) -> None:
        """Do so, unless another is active; raises PolicyFileError, OSError."""
        ...


def updates_metric(registry: Registry) -> Metric:
    """Return the counter of updates by what became of them."""
    return registry.counter("tamiyo.policy.updates", "Policy updates, by result.", ["result"])


class PolicyIntake:
    """Keeps a desk current. All calls from one event loop; the desk is changed in threads.

    Args:
        desk: which holds what is known.
        hub: with what runs tell.
        publish: of the bus, for alerts.
        withdraw: of the registry.
        metrics: where updates are counted.
    """

    def __init__(
        self,
        desk: PolicyDesk,
        hub: Hub,
        publish: Callable[[Alert], Awaitable[object]],
        *,
        withdraw: Withdraw,
        metrics: Registry,
        clock: Clock,
    ) -> None:
        self.desk = desk
        self._hub = hub
        self._publish = publish
        self._withdraw = withdraw
        self._updates = updates_metric(metrics)
        self._clock = clock
        self._changing = asyncio.Lock()
        self._alerts: dict[str, tuple[float, Alert]] = {}

    async def open(self) -> None:
        """Read what is on disk. Raises OSError."""
        await asyncio.to_thread(self.desk.open)

    async def take(self, message: Message, _envelope: EventEnvelope) -> None:
        """Take an update from the bus; a refused one is counted, told and over.

        Raises OSError when the disk refuses, so that the bus delivers it again.
        """
        if not isinstance(message, PolicyUpdate):
            log.warning("not_a_policy_update", type=message.DESCRIPTOR.name)
            return
        async with self._changing:
            try:
                new = await asyncio.to_thread(self.desk.take, message)
            except PolicyUpdateRefusedError as refusal:
                self._updates.add(result="refused")
                log.error(
                    "policy_update_refused", version=message.policy_version, reason=str(refusal)
                )
                return
        if new:
            told = self.desk.book.history[-1]
            self._updates.add(result=told.what)
            log.info("policy_update_taken", version=told.id, what=told.what, reason=told.reason)

    async def keep_folding(self, subscription: Subscription) -> None:
        """Take in what runs tell of updates, until cancelled."""
        async for changed in subscription:
            for run_id, seq_before in changed.items():
                await self._fold(run_id, seq_before, subscription)

    async def _fold(self, run_id: str, seq_before: int, subscription: Subscription) -> None:
        if self._hub.policy_of(run_id) not in KINDS:
            return
        try:
            picture = await self._hub.picture(run_id)
            for note in list(picture.notes):
                if note["kind"] in TELLING and note["seq"] > self.desk.folded_of(run_id):
                    async with self._changing:
                        await asyncio.to_thread(self.desk.fold, run_id, note)
        except UnknownRunError:
            return
        except (OSError, BreakerOpen) as error:
            log.warning("policy_updates_wait", run=run_id, reason=str(error))
            await self._clock.sleep(LOOK_EVERY_S)
            subscription.tell(run_id, seq_before)

    async def keep_following(self) -> None:
        """Take back in the registry what was rejected, and tell alerts, until cancelled."""
        while True:
            try:
                await self._take_back()
                await self._tell()
            except (PolicyFileError, OSError) as error:
                log.warning("policy_not_withdrawn", reason=str(error))
            except _AWAY as error:
                log.debug("policy_alerts_wait", error=str(error))
            await self._clock.sleep(LOOK_EVERY_S)

    async def _take_back(self) -> None:
        for version in self.desk.to_withdraw():
            async with self._changing:
                self._updates.add(result="rejected")
                log.error("policy_rejected", version=version.id, reason=version.reason)
                await asyncio.to_thread(
                    self._withdraw, version.id, version.features, reason=version.reason
                )
                await asyncio.to_thread(self.desk.withdrawn, version.id)

    async def _tell(self) -> None:
        now = self._clock.monotonic()
        holds = self.desk.book.trouble
        for features in self._alerts.keys() - holds.keys():
            _, alert = self._alerts[features]
            alert.state = AlertState.ALERT_STATE_RESOLVED
            alert.ended_at = self._clock.time()
            await self._publish(alert)
            del self._alerts[features]
        for features, event in holds.items():
            told_at, alert = self._alerts.get(features) or (None, _alert(event))
            if told_at is None or now - told_at >= REPEAT_EVERY_S:
                await self._publish(alert)
                self._alerts[features] = (now, alert)


def _alert(event: Event) -> Alert:
    return Alert(
        version=1,
        alert_id=f"{POLICY_REJECTED}/{event.features}",
        name=POLICY_REJECTED,
        level=TelemetryLevel.TELEMETRY_LEVEL_ERROR,
        state=AlertState.ALERT_STATE_FIRING,
        summary=f"The policy {event.id} was rejected, and the one before it decides: "
        f"{event.reason}",
        started_at=event.at,
        labels={"policy": event.id},
    )
