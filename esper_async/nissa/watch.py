"""One look at everything, again and again: read, remember, count, judge, tell."""

import asyncio
import sqlite3
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import structlog

from esper_async.nissa.alert_store import AlertStore
from esper_async.nissa.alerts import Alert, AlertBook
from esper_async.nissa.history import History
from esper_async.nissa.metrics import NissaMetrics
from esper_async.nissa.notify.dispatch import Dispatcher
from esper_async.nissa.notify.outbox import Outbox
from esper_async.nissa.reading import Reading
from esper_async.nissa.signals import Signals, SignalSource
from esper_async.nissa.slo import Accounts, Budget
from esper_async.nissa.told_alerts import ToldAlerts
from esper_async.runtime.clock import Clock
from esper_async.runtime.metrics import Registry

log = structlog.get_logger(__name__)
TOLD = "told_by_a_part"
"""The rule under which alerts that parts raise by a name of their own are counted."""


@dataclass(slots=True, kw_only=True)
class Watch:
    """Looks at everything and has alerts told. All calls from one event loop but open and close.

    `on_alert` is told each alert that began or ended.
    """

    registry: Registry
    metrics: NissaMetrics
    signals: SignalSource
    accounts: Accounts
    history: History
    alerts: AlertBook
    store: AlertStore
    outbox: Outbox
    dispatcher: Dispatcher
    told: ToldAlerts
    clock: Clock
    on_alert: Callable[[Alert], None]
    budgets: Sequence[Budget] = ()
    _unsaved: list[dict[str, object]] = field(default_factory=list)

    def open(self) -> None:
        """Open what is on disk and take up what was known; blocks, raises sqlite3.Error."""
        self.history.open()
        self.store.open()
        self.outbox.open()
        self.alerts.restore(self.store.load())
        self.dispatcher.load()

    def close(self) -> None:
        """Write what waits and close; blocks, raises sqlite3.Error. Idempotent."""
        try:
            self._save(self._unsaved)
        finally:
            self.history.close()
            self.store.close()
            self.outbox.close()

    def changed(self, alert: Alert) -> None:
        """Take in that an alert began, ended, was acknowledged or silenced."""
        self._unsaved.append(alert.to_json())
        self.dispatcher.note(alert)

    async def judge(self) -> None:
        """Look once: a disk that refuses costs the history, not the alerts."""
        reading = await asyncio.to_thread(Reading.of, self.registry)
        signals = self.signals.gather(reading, told=self.told.findings())
        self.accounts.count(reading, signals.services)
        try:
            self.budgets = await asyncio.to_thread(self._remember, reading)
        except sqlite3.Error as error:
            log.error("history_not_stored", error=str(error))
        # the accounts count this very look, so their budgets come after the other signals
        for alert in self.alerts.evaluate(replace(signals, budgets=self.budgets)):
            self.on_alert(alert)
        self.dispatcher.look(self.alerts.active())
        self._show(signals)

    async def deliver(self) -> None:
        """Save what changed and send what is due; a disk that refuses is tried again later."""
        try:
            unsaved, self._unsaved = self._unsaved, []
            try:
                await asyncio.to_thread(self._save, unsaved)
            except sqlite3.Error:
                self._unsaved = [*unsaved, *self._unsaved]
                raise
            await self.dispatcher.deliver()
        except sqlite3.Error as error:
            log.error("alerts_not_stored", error=str(error))

    def _remember(self, reading: Reading) -> list[Budget]:
        now = self.clock.time()
        self.history.take(reading, now)
        return self.accounts.budgets(self.history, now)

    def _save(self, bodies: Sequence[dict[str, object]]) -> None:
        for body in bodies:
            self.store.save(body)

    def _show(self, signals: Signals) -> None:
        """Give Prometheus the same facts."""
        active = self.alerts.active()
        self.metrics.alerts.set(len(active))
        rules = self.alerts.rules
        named = Counter(each.name if each.name in rules else TOLD for each in active)
        for rule in rules:
            self.metrics.alerts_of.set(named[rule], rule=rule)
        for service, facts in signals.services.items():
            self.metrics.ready.set(float(facts.get("state") == "ready"), service=service)
        if signals.disk_free is not None:
            self.metrics.disk_free.set(signals.disk_free)
        self.metrics.children_lost.add(signals.lost_now)
        for producer, waited_s in signals.spools_waiting_s.items():
            self.metrics.reports_wait.set(waited_s * 1000.0, producer=producer)
        self.metrics.history_refused.set(self.history.refused)
