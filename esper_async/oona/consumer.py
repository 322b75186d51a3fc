"""Reads one topic for one consumer of a group: emergency lane first, nothing lost on the way.

A blocking read is never cancelled: its reply could be in flight and its entries would be owned
but unseen. Stopping is a flag; the read is released with CLIENT UNBLOCK, and entries that were
delivered but not acknowledged are read again (id 0) whenever a connection begins.
"""

import asyncio
import time
from collections.abc import Iterable
from typing import Any

import anyio
import structlog
from redis.exceptions import ResponseError

from esper_async.leyline.admission import Admission
from esper_async.leyline.registry import TOPICS
from esper_async.oona.connection import ReconnectGate, connect
from esper_async.oona.delivery import BatchHandler, Delivery, Entry, Handler
from esper_async.oona.errors import FAULTS
from esper_async.oona.gaps import Gaps
from esper_async.oona.groups import ensure_groups
from esper_async.oona.leases import Leases
from esper_async.oona.line import Line, open_line
from esper_async.oona.metrics import BusMetrics
from esper_async.oona.presence import Presence
from esper_async.oona.resp import pack
from esper_async.oona.sequence import Tracker
from esper_async.oona.settings import BusSettings
from esper_async.oona.streams import WIRE_FIELD, lanes
from esper_async.runtime.breaker import BreakerPolicy
from esper_async.runtime.errors import BreakerOpen

_LOG = structlog.get_logger(__name__)
_READ_MARGIN_S = 5.0
_RELEASE_EVERY_S = 0.02


class Consumer:
    """One consumer of one group of one topic; `run` returns only by cancellation."""

    def __init__(
        self,
        url: str,
        *,
        topic: str,
        group: str,
        consumer: str,
        handler: Handler,
        batch_handler: BatchHandler | None = None,
        optional: bool,
        admission: Admission,
        settings: BusSettings,
        metrics: BusMetrics,
        presence: Presence | None = None,
    ) -> None:
        required = TOPICS[topic].required_groups
        if optional is (group in required):
            raise ValueError(
                f"{topic} has the required groups {required}; {group!r} was declared "
                f"{'optional' if optional else 'required'}"
            )
        self._url = url
        self._topic = topic
        self._group = group
        self._name = consumer
        self._optional = optional
        self._settings = settings
        self._metrics = metrics
        self._presence = presence
        self._streams = lanes(topic)
        self._stopping = False
        self._line: Line | None = None
        self._ahead: asyncio.Future[list[Any]] | None = None
        self._ahead_entries: list[Entry] = []
        self._reader_id: int | None = None
        self._looked_at = 0.0
        self._client = connect(url, timeout_s=settings.command_timeout_s)
        tracker = Tracker()
        self._delivery = Delivery(
            self._client,
            self._open_line,
            tracker,
            topic=topic,
            group=group,
            handler=handler,
            batch_handler=batch_handler,
            admission=admission,
            settings=settings,
            metrics=metrics,
        )
        self._leases = Leases(
            self._client,
            topic=topic,
            group=group,
            consumer=consumer,
            delivery=self._delivery,
            settings=settings,
            metrics=metrics,
            on_claimed=self._release_reader,
        )
        self._gaps = Gaps(
            self._client,
            tracker,
            topic=topic,
            group=group,
            consumer=consumer,
            settings=settings,
            metrics=metrics,
        )
        self._breaker = metrics.breakers.make(
            f"oona.consume.{topic}.{group}",
            BreakerPolicy(failures=settings.breaker_failures, open_s=settings.consume_open_s),
            is_failure=lambda error: isinstance(error, FAULTS),
        )

    async def run(self) -> None:
        """Consume until cancelled; then finish the handler at work and acknowledge."""
        work = asyncio.create_task(self._work(), name=f"oona.consume.{self._topic}.{self._group}")
        try:
            await asyncio.shield(work)
        finally:
            self._stopping = True
            with anyio.CancelScope(shield=True):
                await self._finish(work)
                await self._client.aclose()
                self._metrics.breakers.forget(self._breaker)

    async def _finish(self, work: "asyncio.Task[None]") -> None:
        """Let `work` end by itself within the drain deadline, then cancel it."""
        give_up = time.monotonic() + self._settings.drain_s
        while not work.done() and time.monotonic() < give_up:
            await self._release_reader()  # again and again: it may be about to block
            await asyncio.wait({work}, timeout=_RELEASE_EVERY_S)
        if not work.done():
            _LOG.warning("handler_did_not_finish", topic=self._topic, group=self._group)
            work.cancel()
            await asyncio.wait({work})
        if not work.cancelled() and (error := work.exception()) is not None:
            _LOG.error("consumer_failed", topic=self._topic, group=self._group, error=repr(error))

    async def _release_reader(self) -> None:
        if self._reader_id is None:
            return
        try:
            await self._client.client_unblock(self._reader_id)
        except FAULTS as error:
            _LOG.debug("reader_not_released", topic=self._topic, error=str(error))

    async def _work(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            beside = [tasks.create_task(each.run()) for each in (self._leases, self._gaps)]
            role = f"consumer of {self._topic}"
            cap_s = self._settings.reconnect_cap_s
            gate = ReconnectGate(role, cap_s=cap_s, presence=self._presence)
            try:
                while not self._stopping:
                    try:
                        await self._session(gate)
                    except (*FAULTS, BreakerOpen) as error:
                        await self._recover(error)
                        await gate.pause(error)
            finally:
                for task in beside:
                    task.cancel()

    async def _recover(self, error: Exception) -> None:
        self._metrics.reconnects.add(role="consumer")
        if self._optional and isinstance(error, ResponseError) and "NOGROUP" in str(error):
            try:
                await self._skip_to_end()
            except FAULTS as fault:
                _LOG.debug("group_not_back_yet", topic=self._topic, error=str(fault))

    async def _skip_to_end(self) -> None:
        """An evicted optional group begins again at the end of a stream that is still long."""
        for stream in self._streams:
            long = await self._client.xlen(stream) > self._settings.optional_lag_limit
            await ensure_groups(self._client, stream, [self._group], at="$" if long else "0")

    async def _session(self, gate: ReconnectGate) -> None:
        """Read over one connection until stopped or until it breaks."""
        try:
            self._line = await self._breaker.call(self._open)
            gate.passed()
            self._leases.take_claimed()  # they are pending here: the replay brings them
            self._delivery.resume()
            await self._replay()
            while not self._stopping:
                await self._cycle()
            await self._delivery.flush()
        finally:
            self._reader_id = None
            if self._line is not None:
                await self._line.aclose()
            self._ahead, self._ahead_entries = None, []

    async def _open(self) -> Line:
        """Connect, and make sure that the groups are there."""
        timeout_s = self._settings.command_timeout_s
        for stream in self._streams:
            await ensure_groups(self._client, stream, [self._group])
        line = await open_line(self._url, timeout_s=timeout_s)
        try:
            (number,) = await line.call(pack("CLIENT", "ID"), timeout_s=timeout_s)
        except BaseException:
            await line.aclose()
            raise
        self._reader_id = int(number)
        return line

    def _open_line(self) -> Line:
        if self._line is None:
            raise RuntimeError("entries are delivered within a session")
        return self._line

    async def _replay(self) -> None:
        """Handle again what an earlier connection of this consumer left unacknowledged."""
        for stream in self._streams:
            cursor = "0"
            while not self._stopping:
                entries = await self._read({stream: cursor}, redelivered=True)
                if not entries:
                    break
                cursor = entries[-1].entry_id
                await self._deliver_all(self._delivery.take(entries))

    async def _cycle(self) -> None:
        """Deliver one round: what was claimed, what is due again, what is new."""
        await self._deliver_all(self._leases.take_claimed())
        await self._retry_due()
        emergency, normal = self._streams
        if self._ahead is not None:
            urgent = self._delivery.take(await self._read({emergency: ">"}))
            entries = urgent + await self._take_ahead()
        else:
            wait_s = min(self._settings.block_s, self._delivery.next_due_s())
            streams = {emergency: ">", normal: ">"} if self._delivery.has_room else {emergency: ">"}
            block_s = wait_s if wait_s > 0 and not self._stopping else None
            entries = self._delivery.take(await self._read(streams, block_s=block_s))
        if len(entries) >= self._settings.batch and self._delivery.has_room:
            self._ahead = self._read_ahead(normal)
        await self._deliver_all(entries)

    def _read_ahead(self, stream: str) -> "asyncio.Future[list[Any]]":
        """Have Redis look up the next ordinary entries while the present ones are handled.

        They are in hand, and their leases are kept, from the moment they arrive.
        """

        def arrived(future: "asyncio.Future[list[Any]]") -> None:
            if not future.cancelled() and future.exception() is None:
                (reply,) = future.result()
                if not isinstance(reply, Exception):  # it will be met again by the next read
                    self._ahead_entries = self._delivery.take(_entries(reply, [stream]))

        command = self._read_command({stream: ">"})
        sent = self._open_line().send(command, 1, timeout_s=_READ_MARGIN_S)
        sent.add_done_callback(arrived)
        return sent

    async def _take_ahead(self) -> list[Entry]:
        """Return what was read ahead."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            await ahead
        entries, self._ahead_entries = self._ahead_entries, []
        return entries

    async def _deliver_all(self, batch: list[Entry]) -> None:
        """Deliver in order, letting emergencies pass in front of ordinary entries.

        What is done is acknowledged along with the next read. Nothing passes within what is
        delivered together.
        """
        emergency = self._streams[0]
        self._looked_at = time.monotonic()
        if self._delivery.together and not self._stopping:
            await self._delivery.deliver_together(batch)
            batch = []
        for entry in batch:
            if self._stopping:
                break
            if entry.stream != emergency:
                await self._let_emergencies_pass()
            await self._delivery.deliver(entry)
        if self._stopping:
            await self._delivery.flush()
            self._delivery.let_go()

    async def _retry_due(self) -> None:
        """Attempt again what is due, letting emergencies pass in front."""
        self._looked_at = time.monotonic()
        while self._delivery.is_due and not self._stopping:
            await self._delivery.retry()
            await self._let_emergencies_pass()

    async def _let_emergencies_pass(self) -> None:
        """Deliver what is on the emergency lane, unless it was looked at a moment ago."""
        if time.monotonic() - self._looked_at <= self._settings.emergency_every_s:
            return
        for urgent in self._delivery.take(await self._read({self._streams[0]: ">"})):
            await self._delivery.deliver(urgent)
        self._looked_at = time.monotonic()

    async def _read(
        self, streams: dict[str, str], *, block_s: float | None = None, redelivered: bool = False
    ) -> list[Entry]:
        """Acknowledge what is done, then read new (`>`) or own unacknowledged entries.

        Both go out together. Emergency entries come first.
        """
        done = self._delivery.acknowledgements()
        replies = await self._open_line().call(
            *done,
            self._read_command(streams, block_s=block_s),
            timeout_s=(block_s or 0.0) + _READ_MARGIN_S,
        )
        if done:
            self._delivery.acknowledged()
        return _entries(replies[-1], streams, redelivered=redelivered)

    def _read_command(self, streams: dict[str, str], *, block_s: float | None = None) -> bytes:
        command: list[str | int] = ["XREADGROUP", "GROUP", self._group, self._name]
        command += ["COUNT", self._settings.batch]
        if block_s is not None:
            command += ["BLOCK", max(1, int(block_s * 1000))]
        return pack(*command, "STREAMS", *streams, *streams.values())


def _entries(reply: Any, streams: Iterable[str], *, redelivered: bool = False) -> list[Entry]:
    """Return the entries in XREADGROUP's reply, stream by stream in the order given."""
    by_stream = {name.decode(): rows for name, rows in reply or ()}
    return [
        Entry(stream, entry_id.decode(), _wire(fields), redelivered, not fields)
        for stream in streams
        for entry_id, fields in by_stream.get(stream, ())
    ]


def _wire(fields: list[bytes] | None) -> bytes:
    """Return the envelope among an entry's fields; nothing when there is none."""
    if not fields:
        return b""
    if fields[0] == WIRE_FIELD:
        return fields[1]
    return dict(zip(fields[::2], fields[1::2], strict=True)).get(WIRE_FIELD, b"")
