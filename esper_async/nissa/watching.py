"""Puts a watch together from its parts."""

from collections.abc import Callable
from pathlib import Path

from esper_async.nissa.alert_rules import RULES
from esper_async.nissa.alert_store import AlertStore
from esper_async.nissa.alerts import Alert, AlertBook
from esper_async.nissa.history import History
from esper_async.nissa.metrics import NissaMetrics
from esper_async.nissa.notify.channels import channels_of
from esper_async.nissa.notify.dispatch import Dispatcher
from esper_async.nissa.notify.outbox import Outbox
from esper_async.nissa.objectives import OBJECTIVES
from esper_async.nissa.options import NissaOptions, NissaParts
from esper_async.nissa.signals import SignalSource
from esper_async.nissa.slo import Accounts
from esper_async.nissa.told_alerts import ToldAlerts
from esper_async.nissa.watch import Watch
from esper_async.runtime.clock import Clock
from esper_async.runtime.metrics import Registry


def watch_of(
    state_dir: Path,
    parts: NissaParts,
    *,
    registry: Registry,
    metrics: NissaMetrics,
    options: NissaOptions,
    clock: Clock,
    on_alert: Callable[[Alert], None],
) -> Watch:
    """Return a watch over these parts; opens nothing."""
    folder = state_dir / "nissa"
    outbox = Outbox(folder / "notifications.sqlite")
    watch = Watch(
        registry=registry,
        metrics=metrics,
        signals=SignalSource(
            hub=parts.hub,
            system=parts.system,
            resumes=lambda: sum(run.resumes for run in parts.runs.runs()),
            state_dir=state_dir,
            clock=clock,
            time_scale=options.alert_hold_scale,
        ),
        accounts=Accounts(OBJECTIVES, metrics=metrics),
        history=History(folder / "metrics.sqlite", retention_s=options.metric_retention_s),
        alerts=AlertBook(RULES, clock=clock, hold_scale=options.alert_hold_scale),
        store=AlertStore(folder / "alerts.sqlite"),
        outbox=outbox,
        dispatcher=Dispatcher(
            channels_of(options.notify),
            outbox,
            options=options.notify,
            metrics=metrics,
            clock=clock,
        ),
        told=ToldAlerts(clock=clock),
        clock=clock,
        on_alert=on_alert,
    )
    watch.alerts.on_change = watch.changed
    return watch
