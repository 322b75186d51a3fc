"""The bus as a service uses it: publish a message, consume a topic."""

import asyncio
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

import anyio
from google.protobuf.message import Message

from esper_async.leyline.admission import Admission
from esper_async.leyline.envelope import event_id_of, wrap
from esper_async.leyline.errors import Refused
from esper_async.leyline.nonces import NonceStore
from esper_async.leyline.registry import PayloadSpec, Topic, spec_of
from esper_async.leyline.signing import Signer
from esper_async.leyline.v1.enums_pb2 import MESSAGE_PRIORITY_CRITICAL, MessagePriority
from esper_async.leyline.validation import validate
from esper_async.oona.connection import connect
from esper_async.oona.consumer import Consumer
from esper_async.oona.courier import Courier
from esper_async.oona.delivery import BatchHandler, Handler, one_at_a_time
from esper_async.oona.depths import Depths
from esper_async.oona.errors import FAULTS, Backpressure, BusUnavailable
from esper_async.oona.metrics import BusMetrics
from esper_async.oona.outbox import Parcel, label_of
from esper_async.oona.presence import Presence
from esper_async.oona.pressure import Pressure, Verdict
from esper_async.oona.publisher import Publisher
from esper_async.oona.sequence import Numbering
from esper_async.oona.settings import BusSettings
from esper_async.oona.spool import Spool, SpoolEntry
from esper_async.oona.streams import lane_for
from esper_async.runtime.breaker import BreakerPolicy
from esper_async.runtime.errors import BreakerOpen


class _Draft(NamedTuple):  # made for every message: a frozen dataclass takes three times as long
    """One message that is going to be published."""

    message: Message
    spec: PayloadSpec
    priority: MessagePriority.ValueType
    event_id: str
    correlation_id: str


class Bus:
    """One participant's connection to the bus; use it as an async context manager.

    `source` names the participant in every envelope. Durable messages need a `spool`; while the
    context is open they are carried from it to Redis. `nonces` remembers those of the commands that
    came; by default in memory, so that one who starts again would take a replay of the last minute.
    `on_carried` is told each message of the spool that Redis has taken for the first time.
    `presence` tells when a server that this process keeps is gone and back; others are sought.
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
        nonces: NonceStore | None = None,
        on_carried: Callable[[SpoolEntry], None] | None = None,
        presence: Presence | None = None,
    ) -> None:
        self.settings = settings or BusSettings()
        self.metrics = metrics or BusMetrics()
        self._url = url
        self._signer = signer
        self._source = source
        self._spool = spool
        self._on_carried = on_carried
        self._presence = presence
        self._client = connect(url, timeout_s=self.settings.command_timeout_s)
        self.breaker = self.metrics.breakers.make(
            "oona.publish",
            BreakerPolicy(
                failures=self.settings.breaker_failures, open_s=self.settings.publish_open_s
            ),
            is_failure=lambda error: isinstance(error, FAULTS),
        )
        self._courier: Courier | None = None
        self._carrying: asyncio.Task[None] | None = None
        self._admission = Admission(signer, nonces=nonces)
        self._depths = Depths(self._client, settings=self.settings, metrics=self.metrics)
        self._publisher = Publisher(url, self._client, settings=self.settings)
        self._direct = Numbering()
        self._lasting = Numbering()
        self._spooling = asyncio.Lock()
        self._closed = asyncio.Event()

    async def __aenter__(self) -> "Bus":
        if self._spool is not None:
            self._courier = Courier(
                self._url,
                self._spool,
                source=self._source,
                settings=self.settings,
                metrics=self.metrics,
                on_carried=self._on_carried,
                presence=self._presence,
            )
            self._carrying = asyncio.create_task(self._courier.run(), name="oona.courier")
        return self

    async def __aexit__(self, *_: object) -> None:
        self._closed.set()
        with anyio.CancelScope(shield=True):
            if self._carrying is not None:
                self._carrying.cancel()
                await asyncio.gather(self._carrying, return_exceptions=True)
            await self._publisher.aclose()
            await self._client.aclose()

    async def wait_closed(self) -> None:
        """Wait until the bus has been closed: what consumes from it should end."""
        await self._closed.wait()

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
        answer is "" then). Messages that several tasks publish at once travel together. Raises
        Refused for a message that must not be published, Backpressure when the topic is at its
        bound (after `deadline_s`, if given), BusUnavailable or BreakerOpen while Redis is away.
        """
        (event_id,) = await self.publish_many(
            (message,),
            priority=priority,
            correlation_id=correlation_id,
            durable=durable,
            deadline_s=deadline_s,
        )
        return event_id

    async def publish_many(
        self,
        messages: Sequence[Message],
        *,
        priority: MessagePriority.ValueType | None = None,
        correlation_id: str = "",
        durable: bool | None = None,
        deadline_s: float | None = None,
    ) -> list[str]:
        """Publish messages together, in order, as `publish` does; return their event ids.

        One round trip, and one write to disk for the durable ones, serve them all. When it raises
        Refused or Backpressure none was published; when Redis fails some may have been.
        """
        event_ids: list[str] = []
        lasting: list[_Draft] = []
        passing: list[_Draft] = []
        for message in messages:
            spec = spec_of(message)
            validate(message, spec)
            chosen = spec.priority if priority is None else priority
            keep = spec.durable if durable is None else durable
            if not keep and not await self._admit(spec.topic, chosen, deadline_s):
                self.metrics.dropped.add(priority=label_of(chosen), reason="depth")
                event_ids.append("")
                continue
            event_id = event_id_of(message, spec)
            event_ids.append(event_id)
            if chosen == MESSAGE_PRIORITY_CRITICAL:
                self.metrics.rerouted.add(topic=spec.topic.name)
            draft = _Draft(message, spec, chosen, event_id, correlation_id)
            (lasting if keep else passing).append(draft)
        if lasting:
            parcels = await self._spool_up(lasting, passing)
            if parcels:
                await self._send(parcels)
        elif passing:
            with self._direct.given_back_on(Refused, BreakerOpen):
                await self._send([self._parcel(draft, self._direct) for draft in passing])
        return event_ids

    async def consume(
        self, topic: str, group: str, handler: Handler, *, consumer: str, optional: bool = False
    ) -> None:
        """Call `handler(message, envelope)` for everything on `topic` until cancelled.

        At least once: an entry is acknowledged after the handler returned, retried when it raised
        and set aside as a dead letter after its attempts. `consumer` is a stable name; two live
        consumers of a group never share one. When cancelled, a running handler finishes first.
        """
        await self._consumer(topic, group, handler, None, consumer, optional=optional).run()

    async def consume_batches(
        self,
        topic: str,
        group: str,
        handler: BatchHandler,
        *,
        consumer: str,
        optional: bool = False,
    ) -> None:
        """As `consume`, but what waits together is handed over together, at most `batch` of it.

        All of it is acknowledged after the handler returned. When it raised, none may have had an
        effect: each is handed over again alone, so that a bad one fails by itself; so is what may
        have been begun before. A critical message waits for the batch that is at work.
        """
        alone = one_at_a_time(handler)
        await self._consumer(topic, group, alone, handler, consumer, optional=optional).run()

    def wake_courier(self) -> None:
        """Say, in the bus's own loop, that the spool was filled by somebody else."""
        if self._courier is not None:
            self._courier.wake()

    @property
    def refusals(self) -> dict[str, int]:
        """How many messages this participant refused, by reason."""
        return {reason.value: count for reason, count in self._admission.refusals.items()}

    def _consumer(
        self,
        topic: str,
        group: str,
        handler: Handler,
        batch_handler: BatchHandler | None,
        consumer: str,
        *,
        optional: bool,
    ) -> Consumer:
        return Consumer(
            self._url,
            topic=topic,
            group=group,
            consumer=consumer,
            handler=handler,
            batch_handler=batch_handler,
            optional=optional,
            admission=self._admission,
            settings=self.settings,
            metrics=self.metrics,
            presence=self._presence,
        )

    def _parcel(self, draft: _Draft, numbering: Numbering) -> Parcel:
        topic = draft.spec.topic
        stream = lane_for(topic.name, draft.priority)
        wire = wrap(
            draft.message,
            source=self._source,
            signer=self._signer,
            priority=draft.priority,
            event_id=draft.event_id,
            correlation_id=draft.correlation_id,
            time_to_live_ms=topic.time_to_live_ms,
            incarnation=numbering.incarnation,
            sequence=numbering.take(stream),
        )
        return Parcel(stream, topic.name, draft.priority, wire)

    async def _spool_up(self, lasting: Sequence[_Draft], passing: Sequence[_Draft]) -> list[Parcel]:
        """Write the lasting ones to disk; return the others, wrapped before anything is written.

        One at a time, so that the spool's order is that of the numbers.
        """
        if self._spool is None or self._courier is None or self._carrying is None:
            raise RuntimeError(
                "a durable message needs a bus with a spool, inside its `async with`"
            )
        if self._carrying.done():
            self._carrying.result()  # what went wrong with the courier is the caller's to know
        drafts: dict[str, _Draft] = {}
        for draft in lasting:
            drafts.setdefault(draft.event_id, draft)
        async with self._spooling:
            for waiting in await asyncio.to_thread(self._spool.waiting, list(drafts)):
                del drafts[waiting]
            with (
                self._direct.given_back_on(Refused),
                self._lasting.given_back_on(Refused, sqlite3.Error),
            ):
                parcels = [self._parcel(draft, self._direct) for draft in passing]
                named = [
                    (event_id, self._parcel(draft, self._lasting))
                    for event_id, draft in drafts.items()
                ]
                await asyncio.to_thread(self._spool.append_many, named)
        self._courier.wake()
        return parcels

    async def _send(self, parcels: Sequence[Parcel]) -> None:
        started = time.perf_counter()
        try:
            await self.breaker.call(self._publisher.add, parcels)
        except BreakerOpen:
            raise
        except FAULTS as error:
            raise BusUnavailable(f"redis did not take the message: {error}") from error
        elapsed_ms = (time.perf_counter() - started) * 1000
        for topic, count in Counter(parcel.topic for parcel in parcels).items():
            self.metrics.published.bound(topic=topic).add(count)
            self.metrics.publish_latency.bound(topic=topic).observe(elapsed_ms)

    async def _admit(
        self,
        topic: Topic,
        priority: MessagePriority.ValueType,
        deadline_s: float | None,
    ) -> bool:
        """Tell whether to publish, and count it in; False means drop. Raises Backpressure."""
        give_up = None
        while True:
            pressure = self._depths.recent(topic) or await self._measure(topic)
            verdict = pressure.verdict(priority)
            if verdict is not Verdict.PUSH_BACK:
                if verdict is Verdict.ADMIT and topic.required_groups:
                    pressure.observe(pressure.depth + 1)
                return verdict is Verdict.ADMIT
            if give_up is None:
                give_up = time.monotonic() + (deadline_s or 0.0)
            if time.monotonic() >= give_up:
                raise Backpressure(topic.name, pressure.depth, self.settings.queue_bound)
            await asyncio.sleep(self.settings.depth_refresh_s)

    async def _measure(self, topic: Topic) -> Pressure:
        try:
            return await self.breaker.call(self._depths.measure, topic)
        except FAULTS as error:
            raise BusUnavailable(f"redis does not answer: {error}") from error
