"""Alerts by rule: what is wrong now, since when, and who has seen it.

A rule is a pure function of the signals. A finding must hold for the rule's `hold_s` before it
fires; it resolves when the rule no longer finds it. Acknowledging records who and when; a silenced
alert goes on being evaluated and says until when it is silent.
"""

import hashlib
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from esper_async.nissa.signals import Signals
from esper_async.runtime.clock import Clock, SystemClock

_REMEMBERED = 200


@dataclass(frozen=True, slots=True)
class Finding:
    """Something a rule found: where (labels), in words, and the number against its threshold."""

    labels: tuple[tuple[str, str], ...]
    summary: str
    value: float | None = None
    threshold: float | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """What to look for, how grave it is and how long it must hold."""

    name: str
    level: str
    hold_s: float
    find: Callable[[Signals], Sequence[Finding]]


@dataclass(slots=True)
class Alert:
    """One alert from its first sight on; times are Unix seconds."""

    id: str
    name: str
    level: str
    labels: dict[str, str]
    summary: str
    value: float | None
    threshold: float | None
    started_at: float
    state: str = "firing"
    ended_at: float | None = None
    acknowledged_at: float | None = None
    acknowledged_by: str | None = None
    silenced_until: float | None = None

    def to_json(self) -> dict[str, Any]:
        """The alert as the API shows it."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(slots=True)
class _Watch:
    since: float
    seen_at: float
    alert: Alert | None = field(default=None)


class AlertBook:
    """The alerts of this installation, active and recent."""

    def __init__(self, rules: Sequence[Rule], *, clock: Clock | None = None) -> None:
        self._rules = tuple(rules)
        self._clock = clock or SystemClock()
        self._watched: dict[tuple[str, tuple[tuple[str, str], ...]], _Watch] = {}
        self._past: deque[Alert] = deque(maxlen=_REMEMBERED)

    def evaluate(self, signals: Signals) -> list[Alert]:
        """Apply every rule; return the alerts that began to fire or were resolved by this."""
        now, wall = self._clock.monotonic(), self._clock.time()
        changed: list[Alert] = []
        seen = set()
        for rule in self._rules:
            for finding in rule.find(signals):
                key = (rule.name, finding.labels)
                seen.add(key)
                watch = self._watched.setdefault(key, _Watch(now, wall))
                if watch.alert is not None:
                    watch.alert.summary, watch.alert.value = finding.summary, finding.value
                elif now - watch.since >= rule.hold_s:
                    watch.alert = _alert(rule, finding, watch.seen_at)
                    changed.append(watch.alert)
        for key in [key for key in self._watched if key not in seen]:
            alert = self._watched.pop(key).alert
            if alert is not None:
                alert.state, alert.ended_at = "resolved", wall
                self._past.appendleft(alert)
                changed.append(alert)
        return changed

    def active(self) -> list[Alert]:
        """Firing and acknowledged alerts, the gravest and newest first."""
        alerts = [watch.alert for watch in self._watched.values() if watch.alert is not None]
        rank = {"critical": 0, "error": 1, "warning": 2}
        return sorted(alerts, key=lambda a: (rank.get(a.level, 3), -a.started_at))

    def all(self) -> list[Alert]:
        """The active ones, then those resolved of late."""
        return [*self.active(), *self._past]

    def acknowledge(self, alert_id: str, who: str) -> Alert:
        """Record that somebody has seen it; raises KeyError when it is not active."""
        alert = self._find(alert_id)
        if alert.acknowledged_at is None:
            alert.state = "acknowledged"
            alert.acknowledged_at, alert.acknowledged_by = self._clock.time(), who
        return alert

    def silence(self, alert_id: str, seconds: float) -> Alert:
        """Keep it quiet for so long; raises KeyError when it is not active."""
        alert = self._find(alert_id)
        alert.silenced_until = self._clock.time() + seconds
        return alert

    def _find(self, alert_id: str) -> Alert:
        for alert in self.active():
            if alert.id == alert_id:
                return alert
        raise KeyError(alert_id)


def _alert(rule: Rule, finding: Finding, started_at: float) -> Alert:
    identity = repr((rule.name, finding.labels, started_at)).encode()
    return Alert(
        id=hashlib.sha256(identity).hexdigest()[:16],
        name=rule.name,
        level=rule.level,
        labels=dict(finding.labels),
        summary=finding.summary,
        value=finding.value,
        threshold=finding.threshold,
        started_at=started_at,
    )
