"""What happens to entries: admitted or refused, handled, acknowledged, retried or set aside."""

import heapq
import itertools
import random
import sqlite3
import time
from collections import OrderedDict, defaultdict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, NamedTuple

import structlog
from google.protobuf.message import Message

from esper_async.leyline.admission import Admission
from esper_async.leyline.errors import Refusal, Refused
from esper_async.leyline.limits import LIMITS
from esper_async.leyline.registry import TOPICS
from esper_async.leyline.v1.envelope_pb2 import EventEnvelope
from esper_async.oona.connection import Client
from esper_async.oona.dead_letters import dead_letter_fields
from esper_async.oona.line import Line
from esper_async.oona.metrics import BusMetrics
from esper_async.oona.resp import pack
from esper_async.oona.sequence import Tracker
from esper_async.oona.settings import BusSettings
from esper_async.oona.streams import DEAD_LETTERS, FORGED_LETTERS, attempts_key
from esper_async.runtime.errors import BreakerOpen

_LOG = structlog.get_logger(__name__)
_REMEMBERED = 10_000
_WAITING_LIMIT = 1_000
_KEPT_FOR_PEOPLE = frozenset(
    {Refusal.WRONG_VERSION, Refusal.UNKNOWN_TYPE, Refusal.INVALID, Refusal.MALFORMED}
)
"""Authentic messages that this version cannot act on: set aside, not thrown away."""
_AWAY = (BreakerOpen, OSError, sqlite3.OperationalError)
"""What a handler leans on is away, a disk say. That speaks against no message: it is no attempt."""
_ANOTHER_KEY = (
    "it was signed with a key that this consumer does not accept, or is not from us; put that key "
    "behind the present one (docs/bus.md, 'The signing key'), restart, and replay this letter"
)


Handler = Callable[[Any, EventEnvelope], Awaitable[None]]
BatchHandler = Callable[[Sequence[tuple[Any, EventEnvelope]]], Awaitable[None]]
"""Takes messages in the order of their stream: it returns once all have taken effect, and where it
raises, none has. A message may be among them twice."""


def one_at_a_time(handler: BatchHandler) -> Handler:
    """Return a handler of single messages that hands each over as a batch of one."""

    async def alone(message: Any, envelope: EventEnvelope) -> None:
        await handler([(message, envelope)])

    return alone


class Entry(NamedTuple):  # made for every message: a frozen dataclass takes three times as long
    """One entry of a stream. `redelivered`: somebody may have begun to handle it before.

    `gone`: it was trimmed or deleted while it was pending.
    """

    stream: str
    entry_id: str
    wire: bytes
    redelivered: bool = False
    gone: bool = False

    @property
    def key(self) -> tuple[str, str]:
        """What identifies the entry on its topic."""
        return self.stream, self.entry_id


class _Admitted(NamedTuple):
    """An entry whose message may be handled."""

    entry: Entry
    message: Message
    envelope: EventEnvelope


class _Waiting(NamedTuple):
    """An entry that waits for its next attempt; `put_off` is how often what it needs was away."""

    due: float
    order: int
    entry: Entry
    attempt: int
    put_off: int


class Delivery:
    """Delivers entries of one topic to one handler, one at a time, or together to one that asks.

    `line()` is the consumer's connection: nothing else is on its way there while this one uses it.
    """

    def __init__(
        self,
        client: Client,
        line: Callable[[], Line],
        tracker: Tracker,
        *,
        topic: str,
        group: str,
        handler: Handler,
        batch_handler: BatchHandler | None = None,
        admission: Admission,
        settings: BusSettings,
        metrics: BusMetrics,
    ) -> None:
        self._client = client
        self._line = line
        self._tracker = tracker
        self._topic = topic
        self._group = group
        self._handler = handler
        self._batch_handler = batch_handler
        self._admission = admission
        self._settings = settings
        self._metrics = metrics
        self._is_required = group in TOPICS[topic].required_groups
        self.in_hand: set[tuple[str, str]] = set()
        self._waiting: list[_Waiting] = []
        self._order = itertools.count()
        self._done: defaultdict[str, list[str]] = defaultdict(list)
        self._flushed_at = 0.0
        self._handled_since, self._oldest = 0, float("inf")
        self._handled_metric = metrics.handled.bound(topic=topic, group=group)
        self._latency_metric = metrics.consume_latency.bound(topic=topic)
        self._handled: OrderedDict[str, None] = OrderedDict()

    @property
    def has_room(self) -> bool:
        """Whether ordinary entries may be read: not too many wait for another attempt."""
        return len(self._waiting) < _WAITING_LIMIT

    def next_due_s(self) -> float:
        """Return the seconds until an entry is due again; infinite if none waits."""
        return max(0.0, self._waiting[0].due - time.monotonic()) if self._waiting else float("inf")

    def take(self, entries: Iterable[Entry]) -> list[Entry]:
        """Take entries in hand, so that their leases are kept; those in hand are left out."""
        fresh = [entry for entry in entries if entry[:2] not in self.in_hand]
        self.in_hand.update([entry[:2] for entry in fresh])
        return fresh

    def resume(self) -> None:
        """Begin over a new connection: forget what was in hand but neither done nor waiting."""
        self.in_hand = {each.entry.key for each in self._waiting}
        self.in_hand.update((stream, each) for stream, ids in self._done.items() for each in ids)

    def let_go(self) -> None:
        """Give up what is in hand; it stays unacknowledged and will be read again."""
        self.in_hand.clear()
        self._waiting.clear()

    @property
    def together(self) -> bool:
        """Whether the handler asked for batches."""
        return self._batch_handler is not None

    async def deliver(self, entry: Entry) -> None:
        """Bring one entry, which was taken, to its end or to its next attempt."""
        admitted = await self._admitted(entry)
        if admitted is not None:
            await self._attempt(*admitted, attempt=1)

    async def deliver_together(self, entries: Sequence[Entry]) -> None:
        """Bring entries, which were taken, to their end or next attempt with one call for all.

        One that was delivered before comes alone: perhaps it ends its consumer's process, and then
        it is known which it was.
        """
        fresh: list[_Admitted] = []
        for entry in entries:
            if entry.redelivered:
                await self.deliver(entry)
            elif (admitted := await self._admitted(entry)) is not None:
                fresh.append(admitted)
        if fresh:
            await self._attempt_together(fresh)

    async def _admitted(self, entry: Entry) -> _Admitted | None:
        """Return what may be handled of an entry; None where its end has come already."""
        if entry.gone:
            await self._acknowledge(entry)
            return None
        try:
            message, envelope = self._admission.admit(
                entry.wire, topic=self._topic, delivery=entry.key
            )
        except Refused as refused:
            await self._refuse(entry, refused)
            return None
        self._tracker.observe(
            entry.stream, envelope.incarnation, envelope.sequence, redelivered=entry.redelivered
        )
        if envelope.event_id in self._handled:
            self._metrics.duplicates.add(topic=self._topic, group=self._group)
            await self._acknowledge(entry)
            return None
        if entry.redelivered and await self._died_before(entry, envelope):
            await self._give_up(
                entry,
                envelope,
                "its handling ended without an answer each time",
                attempts=envelope.attempts_allowed or LIMITS.retries,
            )
            return None
        return _Admitted(entry, message, envelope)

    @property
    def is_due(self) -> bool:
        """Whether an entry waits whose next attempt is due."""
        return bool(self._waiting) and self._waiting[0].due <= time.monotonic()

    async def retry(self) -> None:
        """Attempt again the entry that has been due for longest."""
        _, _, entry, attempt, put_off = heapq.heappop(self._waiting)
        try:
            message, envelope = self._admission.admit(
                entry.wire, topic=self._topic, delivery=entry.key
            )
        except Refused as refused:
            await self._refuse(entry, refused)
        else:
            await self._attempt(entry, message, envelope, attempt, put_off)

    def acknowledgements(self) -> list[bytes]:
        """Return the packed commands that acknowledge what is done; `acknowledged` follows."""
        return [pack("XACK", stream, self._group, *ids) for stream, ids in self._done.items()]

    def acknowledged(self) -> None:
        """Take in that Redis has carried out the last `acknowledgements`."""
        if self._handled_since:  # once for all of them: it would cost as much as the signature
            self._handled_metric.add(self._handled_since)
            self._latency_metric.observe(max(0.0, (time.time() - self._oldest) * 1000))
        self._handled_since, self._oldest = 0, float("inf")
        for stream, ids in self._done.items():
            self.in_hand.difference_update((stream, entry_id) for entry_id in ids)
        self._done.clear()
        self._flushed_at = time.monotonic()

    async def flush(self) -> None:
        """Acknowledge what is done. What cannot be acknowledged now stays for the next flush."""
        if commands := self.acknowledgements():
            await self._line().call(*commands, timeout_s=self._settings.command_timeout_s)
            self.acknowledged()

    async def _attempt(
        self,
        entry: Entry,
        message: Message,
        envelope: EventEnvelope,
        attempt: int,
        put_off: int = 0,
    ) -> None:
        try:
            await self._handler(message, envelope)
        except _AWAY as error:
            await self._put_off(entry, envelope, attempt, put_off, error)
            return
        except Exception as error:  # noqa: BLE001 - any failure is retried, then a dead letter
            await self._failed(entry, envelope, attempt, error)
            return
        await self._succeeded(entry, envelope)

    async def _attempt_together(self, admitted: Sequence[_Admitted]) -> None:
        """Handle all with one call; if it fails, each alone: one that is bad then fails alone."""
        if self._batch_handler is None:
            raise RuntimeError("the handler did not ask for batches")
        try:
            await self._batch_handler([(message, envelope) for _, message, envelope in admitted])
        except _AWAY as error:
            for entry, _, envelope in admitted:
                await self._put_off(entry, envelope, 1, 0, error)
            return
        except Exception as error:  # noqa: BLE001 - whatever it was, each is attempted alone
            self._metrics.retried.add(topic=self._topic, group=self._group)
            _LOG.warning(
                "batch_failed",
                topic=self._topic,
                group=self._group,
                messages=len(admitted),
                error=repr(error),
            )
            for each in admitted:
                await self._attempt(*each, attempt=1)
            return
        for entry, _, envelope in admitted:
            await self._succeeded(entry, envelope)

    async def _succeeded(self, entry: Entry, envelope: EventEnvelope) -> None:
        self._remember(envelope.event_id)
        self._handled_since += 1
        self._oldest = min(self._oldest, envelope.created_at)
        if entry.redelivered:
            await self._client.hdel(attempts_key(self._topic, self._group), "/".join(entry.key))
        await self._acknowledge(entry)

    async def _failed(
        self, entry: Entry, envelope: EventEnvelope, attempt: int, error: Exception
    ) -> None:
        self._metrics.retried.add(topic=self._topic, group=self._group)
        _LOG.warning(
            "handler_failed",
            topic=self._topic,
            group=self._group,
            event_id=envelope.event_id,
            attempt=attempt,
            error=repr(error),
        )
        if attempt >= (envelope.attempts_allowed or LIMITS.retries):
            reason = f"{type(error).__name__}: {error}"
            await self._give_up(entry, envelope, reason, attempts=attempt)
            return
        self._wait(entry, attempt=attempt + 1, put_off=0)

    async def _put_off(
        self, entry: Entry, envelope: EventEnvelope, attempt: int, put_off: int, error: Exception
    ) -> None:
        """Wait for what the handler leans on, for as long as it is away; no attempt is counted."""
        self._metrics.retried.add(topic=self._topic, group=self._group)
        tell = _LOG.debug if put_off else _LOG.warning
        tell(
            "handling_put_off",
            topic=self._topic,
            group=self._group,
            event_id=envelope.event_id,
            error=repr(error),
        )
        if entry.redelivered:  # its handling has ended, and with an answer
            await self._client.hdel(attempts_key(self._topic, self._group), "/".join(entry.key))
        self._wait(entry, attempt=attempt, put_off=put_off + 1)

    def _wait(self, entry: Entry, *, attempt: int, put_off: int) -> None:
        """Have an entry attempted again after a while, which grows with each time."""
        times = min(attempt + put_off - 2, 32)
        ceiling_s = min(self._settings.retry_cap_s, self._settings.retry_base_s * 2.0**times)
        due = time.monotonic() + random.uniform(ceiling_s / 2, ceiling_s)  # noqa: S311 - jitter
        heapq.heappush(self._waiting, _Waiting(due, next(self._order), entry, attempt, put_off))

    async def _refuse(self, entry: Entry, refused: Refused) -> None:
        self._metrics.refused.add(topic=self._topic, reason=refused.reason.value)
        _LOG.warning(
            "message_refused", topic=self._topic, entry=entry.entry_id, reason=str(refused)
        )
        if refused.reason in _KEPT_FOR_PEOPLE:
            await self._set_aside(entry, str(refused))
        elif refused.reason is Refusal.FORGED and self._is_required:
            # perhaps it is a durable one, which its producer forgets now, and a key is missing here
            await self._set_aside(entry, f"{refused}; {_ANOTHER_KEY}", among=FORGED_LETTERS)
        else:
            await self._acknowledge(entry)

    async def _died_before(self, entry: Entry, envelope: EventEnvelope) -> bool:
        """Count that handling begins; tell whether it began too often without coming to an end.

        Only redelivered entries are counted: one that kills its consumer is one of them, and an
        innocent one that was merely read along with it is not counted until its own turn.
        """
        began = await self._client.hincrby(
            attempts_key(self._topic, self._group), "/".join(entry.key), 1
        )
        return int(began) > (envelope.attempts_allowed or LIMITS.retries)

    async def _give_up(
        self, entry: Entry, envelope: EventEnvelope, reason: str, *, attempts: int
    ) -> None:
        """Set an admitted entry aside; should it be replayed, it says how often it was tried."""
        in_all = envelope.attempts_made + attempts
        wire = self._admission.tried(entry.wire, attempts=in_all)
        await self._set_aside(entry._replace(wire=wire), reason, attempts=in_all)

    async def _set_aside(
        self, entry: Entry, reason: str, *, attempts: int = 0, among: str = DEAD_LETTERS
    ) -> None:
        """Move the entry to the dead letters, in one transaction with its acknowledgement."""
        fields = dead_letter_fields(
            entry.wire,
            topic=self._topic,
            stream=entry.stream,
            group=self._group,
            entry_id=entry.entry_id,
            reason=reason,
            attempts=attempts,
        )
        words = [word for pair in fields.items() for word in pair]
        *_, results = await self._line().call(  # redis-py's pipeline would hold the line up longer
            pack("MULTI"),
            pack("XADD", among, "*", *words),
            pack("XACK", entry.stream, self._group, entry.entry_id),
            pack("HDEL", attempts_key(self._topic, self._group), "/".join(entry.key)),
            pack("EXEC"),
            timeout_s=self._settings.command_timeout_s,
        )
        for result in results:
            if isinstance(result, Exception):
                raise result
        self.in_hand.discard(entry.key)
        self._metrics.dead_letters.add(topic=self._topic, group=self._group)

    async def _acknowledge(self, entry: Entry) -> None:
        self._done[entry.stream].append(entry.entry_id)
        if time.monotonic() - self._flushed_at > self._settings.acknowledge_every_s:
            await self.flush()

    def _remember(self, event_id: str) -> None:
        self._handled[event_id] = None
        if len(self._handled) > _REMEMBERED:
            self._handled.popitem(last=False)
