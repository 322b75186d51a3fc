"""Who is told what, and when: grouping, silence, repetition, retries, and the dead.

News of one alert name that comes within `group_wait_s` goes to a channel as one message. An alert
that ended before anybody was told is not mentioned. One that goes on is repeated every
`repeat_every_s` until somebody has acknowledged it. A message that its channel does not take is
tried again with growing pauses, and is set aside with the reason after `attempts`.
"""

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any

import structlog

from esper_async.nissa.alerts import Alert
from esper_async.nissa.metrics import NissaMetrics
from esper_async.nissa.notify.channels import Channel
from esper_async.nissa.notify.errors import DeliveryError
from esper_async.nissa.notify.outbox import Notice, Outbox
from esper_async.nissa.notify.settings import NotifyOptions
from esper_async.runtime.clock import Clock, SystemClock

log = structlog.get_logger(__name__)
_LONGEST_PAUSE_S = 3_600.0


class Dispatcher:
    """Carries news to the channels. `look` and `note` are quick; `deliver` speaks to the world."""

    def __init__(
        self,
        channels: Sequence[Channel],
        outbox: Outbox,
        *,
        options: NotifyOptions,
        metrics: NissaMetrics,
        clock: Clock | None = None,
    ) -> None:
        self._channels = {channel.name: channel for channel in channels}
        self._outbox = outbox
        self._options = options
        self._metrics = metrics
        self._clock = clock or SystemClock()
        self._told: dict[tuple[str, str], float] = {}
        self._pending: dict[tuple[str, str], tuple[float, dict[str, dict[str, Any]]]] = {}

    def load(self) -> None:
        """Take up who had been told before; blocks on the disk."""
        self._told = self._outbox.told()

    @property
    def names(self) -> list[str]:
        """The channels there are."""
        return list(self._channels)

    def look(self, active: Iterable[Alert]) -> None:
        """Have told what is firing and has not been, or not for a long time."""
        now = self._clock.time()
        for alert in active:
            if alert.state != "firing" or alert.silent(now):
                continue
            for channel in self._listening(alert):
                at = self._told.get((channel, alert.id))
                if at is None or now - at >= self._options.repeat_every_s:
                    self._add(channel, alert)

    def note(self, alert: Alert) -> None:
        """Have an end or an acknowledgement told to those who were told of the beginning."""
        if alert.state == "firing":
            return
        for channel in self._listening(alert):
            if (channel, alert.id) in self._told:
                self._add(channel, alert)
            elif alert.state == "resolved":
                self._drop(channel, alert)

    def _listening(self, alert: Alert) -> list[str]:
        return [
            name
            for name, channel in self._channels.items()
            if not channel.role or channel.role in alert.routes
        ]

    def _add(self, channel: str, alert: Alert) -> None:
        fresh: tuple[float, dict[str, dict[str, Any]]] = (self._clock.monotonic(), {})
        _, group = self._pending.setdefault((channel, alert.name), fresh)
        group[alert.id] = alert.to_json()

    def _drop(self, channel: str, alert: Alert) -> None:
        group = self._pending.get((channel, alert.name))
        if group is not None:
            group[1].pop(alert.id, None)

    async def deliver(self) -> None:
        """Write down the groups that are complete and send what is due; raises sqlite3.Error."""
        await self._write_groups()
        due = await asyncio.to_thread(self._outbox.due, self._clock.time())
        by_channel: dict[str, list[Notice]] = {}
        for notice in due:
            by_channel.setdefault(notice.channel, []).append(notice)
        async with asyncio.TaskGroup() as group:  # a slow channel holds up no other
            for name, notices in by_channel.items():
                group.create_task(self._send_all(name, notices))
        counts = await asyncio.to_thread(self._outbox.counts)
        self._metrics.notices_waiting.set(counts.get("waiting", 0))
        self._metrics.notices_dead.set(counts.get("dead", 0))

    async def _write_groups(self) -> None:
        now = self._clock.monotonic()
        for key, (since, group) in list(self._pending.items()):
            if now - since < self._options.group_wait_s:
                continue
            if group:
                alerts, wall = list(group.values()), self._clock.time()
                await asyncio.to_thread(self._outbox.put, key[0], alerts, wall)
                for alert in alerts:
                    if alert["state"] == "resolved":
                        self._told.pop((key[0], alert["id"]), None)
                    else:
                        self._told[(key[0], alert["id"])] = wall
            del self._pending[key]

    async def _send_all(self, name: str, notices: Sequence[Notice]) -> None:
        """Send a channel its messages in order; after a failure the others wait, too."""
        for notice in notices:
            channel = self._channels.get(name)
            try:
                if channel is None:
                    raise DeliveryError(f"no channel {name!r} is configured", lasting=True)
                await channel.send(notice.alerts)
            except DeliveryError as error:
                await self._failed(notice, error)
                if not error.lasting:
                    return
            else:
                self._metrics.notices.add(channel=name, result="sent")
                await asyncio.to_thread(self._outbox.sent, notice.id, self._clock.time())

    async def _failed(self, notice: Notice, error: DeliveryError) -> None:
        now = self._clock.time()
        dead = error.lasting or notice.attempts + 1 >= self._options.attempts
        pause_s = error.after_s or self._options.first_retry_s * 4.0**notice.attempts
        due_at = None if dead else now + min(pause_s, _LONGEST_PAUSE_S)
        self._metrics.notices.add(channel=notice.channel, result="dead" if dead else "retried")
        log.warning("alert_not_delivered", channel=notice.channel, dead=dead, reason=str(error))
        await asyncio.to_thread(self._outbox.failed, notice.id, str(error), due_at=due_at, now=now)
