"""What Nissa is given: times and addresses, and the parts that it watches."""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from aiohttp import web

from esper_async.nissa.notify.settings import NotifyOptions
from esper_async.nissa.ports import (
    Blueprints,
    DeadLetterBox,
    Kernels,
    Policies,
    RunManager,
    SystemState,
    TelemetryBus,
)
from esper_async.tamiyo.hub import Hub


@dataclass(frozen=True, slots=True, kw_only=True)
class NissaOptions:
    """Times in seconds; `changes_per_minute` is each client's.

    `prometheus_url` names a Prometheus from which page and API read the metrics' past; empty: from
    the roll-ups. With `elasticsearch_url` events go there, too. `alert_hold_scale` shortens the
    alerts' hold times and how far back they look (not the windows of error budgets), for drills.
    """

    event_retention_s: float = 7 * 86_400.0
    metric_retention_s: float = 30 * 86_400.0
    prometheus_url: str = ""
    alert_every_s: float = 30.0
    alert_hold_scale: float = 1.0
    elasticsearch_url: str = ""
    elasticsearch_api_key: str = ""
    elasticsearch_stream: str = "esper-events"
    logs_every_s: float = 1.0
    notify: NotifyOptions = field(default_factory=NotifyOptions)
    deliver_every_s: float = 1.0
    flush_every_s: float = 0.25
    status_every_s: float = 1.0
    prune_every_s: float = 600.0
    changes_per_minute: int = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class NissaParts:
    """What Nissa watches and hands requests to.

    `bus.consume` and `dead_letters()` raise RuntimeError while there is no bus; `mount` is the
    listener's: it serves routes for as long as the context is open.
    """

    hub: Hub
    runs: RunManager
    blueprints: Blueprints
    kernels: Kernels
    policies: Policies | None
    system: SystemState
    bus: TelemetryBus
    dead_letters: Callable[[], DeadLetterBox]
    mount: Callable[[Iterable[web.AbstractRouteDef]], AbstractContextManager[None]]
