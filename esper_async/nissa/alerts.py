"""Alerts by rule: what is wrong now, since when, and who has seen it.

A rule is a pure function of the signals. A finding must hold for the rule's `hold_s` before it
fires; it resolves when the rule no longer finds it. Acknowledging records who and when; a silenced
alert goes on being evaluated and says until when it is silent. What was fired, seen and silenced
outlives a restart where the book has a store.
"""

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from esper_async.runtime.clock import Clock, SystemClock

if TYPE_CHECKING:
    from esper_async.nissa.signals import Signals

_REMEMBERED = 200


@dataclass(frozen=True, slots=True)
class Finding:
    """Something a rule found: where (labels), in words, and the number against its threshold.

    `name`, `level` and `routes`, where given, stand for the rule's own.
    """

    labels: tuple[tuple[str, str], ...]
    summary: str
    value: float | None = None
    threshold: float | None = None
    name: str = ""
    level: str = ""
    routes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Rule:
    """What to look for, how grave it is, how long it must hold and whom it is told to."""

    name: str
    level: str
    hold_s: float
    find: "Callable[[Signals], Sequence[Finding]]"
    routes: tuple[str, ...] = ()


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
    routes: tuple[str, ...] = ()
    state: str = "firing"
    ended_at: float | None = None
    acknowledged_at: float | None = None
    acknowledged_by: str | None = None
    silenced_until: float | None = None

    def to_json(self) -> dict[str, Any]:
        """The alert as the API shows it."""
        return {name: getattr(self, name) for name in self.__slots__} | {
            "routes": list(self.routes)
        }

    @classmethod
    def from_json(cls, body: dict[str, Any]) -> "Alert":
        """The alert as `to_json` told it; raises TypeError for fields that are not its own."""
        return cls(**{**body, "routes": tuple(body["routes"])})

    def silent(self, now: float) -> bool:
        """Whether nobody is to be told of it at Unix time `now`."""
        return self.silenced_until is not None and now < self.silenced_until


@dataclass(slots=True)
class _Watch:
    since: float
    seen_at: float
    alert: Alert | None = field(default=None)


class AlertBook:
    """The alerts of this installation, active and recent.

    `hold_scale` shortens every hold time, for drills. `on_change` is told each alert that began,
    ended, was acknowledged or silenced.
    """

    def __init__(
        self,
        rules: Sequence[Rule],
        *,
        clock: Clock | None = None,
        hold_scale: float = 1.0,
    ) -> None:
        self.on_change: Callable[[Alert], None] | None = None
        self._rules = tuple(rules)
        self._hold_scale = hold_scale
        self._clock = clock or SystemClock()
        self._watched: dict[tuple[str, tuple[tuple[str, str], ...]], _Watch] = {}
        self._past: deque[Alert] = deque(maxlen=_REMEMBERED)

    @property
    def rules(self) -> tuple[str, ...]:
        """The names of the rules."""
        return tuple(rule.name for rule in self._rules)

    def restore(self, alerts: Iterable[Alert]) -> None:
        """Take up what an earlier process knew, oldest first; what has gone resolves by itself."""
        now = self._clock.monotonic()
        for alert in alerts:
            if alert.state == "resolved":
                self._past.appendleft(alert)
                continue
            key = (alert.name, tuple(sorted(alert.labels.items())))
            self._watched[key] = _Watch(now, alert.started_at, alert)

    def evaluate(self, signals: "Signals") -> list[Alert]:
        """Apply every rule; return the alerts that began to fire or were resolved by this."""
        now, wall = self._clock.monotonic(), self._clock.time()
        changed: list[Alert] = []
        seen = set()
        for rule in self._rules:
            for finding in rule.find(signals):
                key = (finding.name or rule.name, tuple(sorted(finding.labels)))
                seen.add(key)
                watch = self._watched.setdefault(key, _Watch(now, wall))
                if watch.alert is not None:
                    watch.alert.summary, watch.alert.value = finding.summary, finding.value
                elif now - watch.since >= rule.hold_s * self._hold_scale:
                    watch.alert = _alert(rule, finding, watch.seen_at)
                    changed.append(watch.alert)
        for key in [key for key in self._watched if key not in seen]:
            alert = self._watched.pop(key).alert
            if alert is not None:
                alert.state, alert.ended_at = "resolved", wall
                self._past.appendleft(alert)
                changed.append(alert)
        for alert in changed:
            self._tell(alert)
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
            self._tell(alert)
        return alert

    def silence(self, alert_id: str, seconds: float) -> Alert:
        """Keep it quiet for so long; raises KeyError when it is not active."""
        alert = self._find(alert_id)
        alert.silenced_until = self._clock.time() + seconds
        self._tell(alert)
        return alert

    def _tell(self, alert: Alert) -> None:
        if self.on_change is not None:
            self.on_change(alert)

    def _find(self, alert_id: str) -> Alert:
        for alert in self.active():
            if alert.id == alert_id:
                return alert
        raise KeyError(alert_id)


def _alert(rule: Rule, finding: Finding, started_at: float) -> Alert:
    name = finding.name or rule.name
    labels = dict(sorted(finding.labels))
    identity = repr((name, labels, started_at)).encode()
    return Alert(
        id=hashlib.sha256(identity).hexdigest()[:16],
        name=name,
        level=finding.level or rule.level,
        labels=labels,
        summary=finding.summary,
        value=finding.value,
        threshold=finding.threshold,
        started_at=started_at,
        routes=finding.routes or rule.routes,
    )
