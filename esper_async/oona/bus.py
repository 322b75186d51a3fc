"""The bus as a service uses it: publish a message, consume a topic."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
from google.protobuf.message import Message

from esper_async.leyline.admission import Admission
from esper_async.leyline.envelope import event_id_of, wrap
from esper_async.leyline.names import short_name
from esper_async.leyline.registry import PayloadSpec, Topic, spec_of
from esper_async.leyline.signing import Signer
from esper_async.leyline.v1.enums_pb2 import MESSAGE_PRIORITY_CRITICAL, MessagePriority
from esper_async.leyline.v1.envelope_pb2 import EventEnvelope
from esper_async.leyline.validation import validate
from esper_async.oona.connection import connect
from esper_async.oona.consumer import Consumer
from esper_async.oona.courier import Courier
from esper_async.oona.errors import FAULTS, Backpressure, BusUnavailable
from esper_async.oona.groups import ensure_groups, group_states
from esper_async.oona.metrics import BusMetrics
from esper_async.oona.pressure import Pressure, Verdict
from esper_async.oona.settings import BusSettings
from esper_async.oona.spool import Spool
from esper_async.oona.streams import WIRE_FIELD, lane_for, lanes
from esper_async.runtime.breaker import CircuitBreaker
from esper_async.runtime.errors import BreakerOpen

Handler = Callable[[Any, EventEnvelope], Awaitable[None]]


class Bus:
    """One participant's connection to the bus; use it as an async context manager.

    `source` names the participant in every envelope. Durable messages need a `spool`; while the
    context is open they are carried from it to Redis.
    """

    def __init__(
        self,
        url: str,
        *,
        signer: Signer,
        source: str,
        spool: Spool | None = None,
        settings: BusSettings | None = None,
        metrics: BusMetrics | None = None,
    ) -> None:
        self.settings = settings or BusSettings()
        self.metrics = metrics or BusMetrics()
        self._url = url
        self._signer = signer
        self._source = source
        self._spool = spool
        self._client = connect(url, timeout_s=self.settings.command_timeout_s)
        self.breaker = CircuitBreaker(
            "oona.publish",
            failures=self.settings.breaker_failures,
            open_s=self.settings.publish_open_s,
            on_transition=self.metrics.breaker_moved,
            is_failure=lambda error: isinstance(error, FAULTS),
        )
        self._courier: Courier | None = None
        self._carrying: asyncio.Task[None] | None = None
        self._admission = Admission(signer)
        self._pressure: dict[str, tuple[Pressure, float]] = {}
        self._sequences: dict[str, int] = {}
        self._prepared: set[str] = set()

    async def __aenter__(self) -> "Bus":
        if self._spool is not None:
            self._courier = Courier(
                self._url, self._spool, settings=self.settings, metrics=self.metrics
            )
            self._carrying = asyncio.create_task(self._courier.run(), name="oona.courier")
        return self

    async def __aexit__(self, *_: object) -> None:
        with anyio.CancelScope(shield=True):
            if self._carrying is not None:
                self._carrying.cancel()
                await asyncio.gather(self._carrying, return_exceptions=True)
            await self._client.aclose()

    async def publish(
        self,
        message: Message,
        *,
        priority: MessagePriority.ValueType | None = None,
        correlation_id: str = "",
        durable: bool | None = None,
        deadline_s: float | None = None,
    ) -> str:
        """Publish `message` on the topic of its type; return its event id.

        A durable message is on disk when this returns, whether Redis is there or not. Any other
        has been taken by Redis, or, at low priority on a deep topic, dropped and counted (the
        answer is "" then). Raises Refused for a message that must not be published, Backpressure
        when the topic is at its bound (after `deadline_s`, if given), BusUnavailable or
        BreakerOpen while Redis is away.
        """
        spec = spec_of(message)
        validate(message, spec)
        chosen = spec.priority if priority is None else priority
        lasting = spec.durable if durable is None else durable
        if not lasting and not await self._admit(spec.topic, chosen, deadline_s):
            self.metrics.dropped.add(priority=_label(chosen), reason="depth")
            return ""
        event_id = event_id_of(message, spec)
        wire = self._wrap(message, spec, chosen, event_id, correlation_id)
        stream = lane_for(spec.topic.name, chosen)
        if chosen == MESSAGE_PRIORITY_CRITICAL:
            self.metrics.rerouted.add(topic=spec.topic.name)
        if lasting:
            await self._spool_up(spec.topic.name, stream, event_id, wire)
        else:
            await self._send(spec.topic, stream, wire)
        return event_id

    async def consume(
        self, topic: str, group: str, handler: Handler, *, consumer: str, optional: bool = False
    ) -> None:
        """Call `handler(message, envelope)` for everything on `topic` until cancelled.

        At least once: an entry is acknowledged after the handler returned, retried when it raised
        and set aside as a dead letter after its attempts. `consumer` is a stable name; two live
        consumers of a group never share one. When cancelled, a running handler finishes first.
        """
        await Consumer(
            self._url,
            topic=topic,
            group=group,
            consumer=consumer,
            handler=handler,
            optional=optional,
            admission=self._admission,
            settings=self.settings,
            metrics=self.metrics,
        ).run()

    def wake_courier(self) -> None:
        """Say, in the bus's own loop, that the spool was filled by somebody else."""
        if self._courier is not None:
            self._courier.wake()

    @property
    def refusals(self) -> dict[str, int]:
        """How many messages this participant refused, by reason."""
        return {reason.value: count for reason, count in self._admission.refusals.items()}

    def _wrap(
        self,
        message: Message,
        spec: PayloadSpec,
        priority: MessagePriority.ValueType,
        event_id: str,
        correlation_id: str,
    ) -> bytes:
        topic = spec.topic
        sequence = self._sequences.get(topic.name, 0) + 1
        wire = wrap(
            message,
            source=self._source,
            signer=self._signer,
            priority=priority,
            event_id=event_id,
            correlation_id=correlation_id,
            time_to_live_ms=int((topic.retention_s or 0) * 1000),
            sequence=sequence,
        )
        self._sequences[topic.name] = sequence
        return wire

    async def _spool_up(self, topic: str, stream: str, event_id: str, wire: bytes) -> None:
        if self._spool is None or self._courier is None or self._carrying is None:
            raise RuntimeError(
                "a durable message needs a bus with a spool, inside its `async with`"
            )
        if self._carrying.done():
            self._carrying.result()  # what went wrong with the courier is the caller's to know
        spool = self._spool
        await asyncio.to_thread(
            lambda: spool.append(event_id=event_id, stream=stream, topic=topic, wire=wire)
        )
        self._courier.wake()

    async def _send(self, topic: Topic, stream: str, wire: bytes) -> None:
        started = time.perf_counter()
        try:
            await self.breaker.call(self._add, topic, stream, wire)
        except BreakerOpen:
            raise
        except FAULTS as error:
            raise BusUnavailable(f"redis did not take the message: {error}") from error
        self.metrics.published.add(topic=topic.name)
        elapsed_ms = (time.perf_counter() - started) * 1000
        self.metrics.publish_latency.observe(elapsed_ms, topic=topic.name)

    async def _add(self, topic: Topic, stream: str, wire: bytes) -> None:
        if stream not in self._prepared:
            await ensure_groups(self._client, stream, topic.required_groups)
            self._prepared.add(stream)
        await self._client.xadd(stream, {WIRE_FIELD: wire})

    async def _admit(
        self,
        topic: Topic,
        priority: MessagePriority.ValueType,
        deadline_s: float | None,
    ) -> bool:
        """Tell whether to publish; False means drop. Raises Backpressure."""
        give_up = time.monotonic() + (deadline_s or 0.0)
        while True:
            pressure = await self._measured(topic)
            verdict = pressure.verdict(priority)
            if verdict is not Verdict.PUSH_BACK:
                return verdict is Verdict.ADMIT
            if time.monotonic() >= give_up:
                raise Backpressure(topic.name, pressure.depth, self.settings.queue_bound)
            await asyncio.sleep(self.settings.depth_refresh_s)

    async def _measured(self, topic: Topic) -> Pressure:
        """Return the topic's pressure, measured lately; its own publishing counts in between."""
        pressure, measured_at = self._pressure.get(topic.name) or (Pressure(self.settings), 0.0)
        now = time.monotonic()
        if not topic.required_groups:
            return pressure
        if now - measured_at < self.settings.depth_refresh_s:
            pressure.observe(pressure.depth + 1)
            return pressure
        try:
            pressure.observe(await self.breaker.call(self._depth, topic))
        except FAULTS as error:
            raise BusUnavailable(f"redis does not answer: {error}") from error
        self._pressure[topic.name] = (pressure, now)
        self.metrics.depth.set(pressure.depth, topic=topic.name)
        self.metrics.conservative.set(float(pressure.conservative), topic=topic.name)
        return pressure

    async def _depth(self, topic: Topic) -> int:
        """Return how many entries the slowest required group has still to acknowledge."""
        depths = [0]
        for stream in lanes(topic.name):
            states = await group_states(self._client, stream, lag_limit=self.settings.queue_bound)
            if states.keys() >= set(topic.required_groups):
                depths += [states[name].depth for name in topic.required_groups]
            else:
                depths.append(int(await self._client.xlen(stream)))
        return max(depths)


def _label(priority: MessagePriority.ValueType) -> str:
    return short_name(MessagePriority, priority).lower()
