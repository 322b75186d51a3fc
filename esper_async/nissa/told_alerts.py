"""Alerts that parts of the system raise themselves, over the bus's `alerts` topic."""

import math

from google.protobuf.message import Message

from esper_async.leyline import Alert, AlertState, EventEnvelope
from esper_async.nissa.alerts import Finding
from esper_async.nissa.event_store import level_of
from esper_async.runtime.clock import Clock, SystemClock

LONGEST_S = 86_400.0
"""A part that died cannot take its alert back: it ends after this long without a repetition."""
_MOST = 500
_TEXT = 500
_LABELS = 8
_LEVELS = ("warning", "error", "critical")


class ToldAlerts:
    """What has been told and not been taken back. All calls from one event loop."""

    def __init__(self, *, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._told: dict[str, tuple[float, Finding]] = {}
        self.refused = 0

    async def handle(self, message: Message, _envelope: EventEnvelope) -> None:
        """Take one alert from the bus. Nothing in it can make this raise."""
        if not isinstance(message, Alert) or not message.alert_id or not message.name:
            self.refused += 1
            return
        if message.state == AlertState.ALERT_STATE_RESOLVED:
            self._told.pop(message.alert_id, None)
            return
        if len(self._told) >= _MOST and message.alert_id not in self._told:
            self.refused += 1
            return
        self._told[message.alert_id] = (self._clock.monotonic(), _finding(message))

    def findings(self) -> list[Finding]:
        """What holds now."""
        oldest = self._clock.monotonic() - LONGEST_S
        self._told = {key: item for key, item in self._told.items() if item[0] > oldest}
        return [finding for _, finding in self._told.values()]


def _finding(message: Alert) -> Finding:
    level = level_of(message.level)
    labels = [(name[:60], text[:80]) for name, text in sorted(message.labels.items())[:_LABELS]]
    return Finding(
        (*labels, ("by", message.alert_id[:80])),
        message.summary[:_TEXT] or message.name[:100],
        _number(message, "value"),
        _number(message, "threshold"),
        name=message.name[:100],
        level=level if level in _LEVELS else "warning",
        routes=tuple(route[:20] for route in message.routes[:4]),
    )


def _number(message: Alert, name: str) -> float | None:
    """Return a number of the alert, None where it was not measured or is none."""
    value: float = getattr(message, name)
    return value if message.HasField(name) and math.isfinite(value) else None  # type: ignore[arg-type]
