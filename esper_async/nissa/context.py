"""What the HTTP handlers work with, given once."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from esper_async.nissa.access import Access
from esper_async.nissa.alerts import AlertBook
from esper_async.nissa.event_store import EventStore
from esper_async.nissa.metrics import NissaMetrics
from esper_async.nissa.notify.outbox import Outbox
from esper_async.nissa.past_metrics import PastMetrics
from esper_async.nissa.ports import (
    Blueprints,
    DeadLetterBox,
    Kernels,
    Policies,
    RunManager,
    SystemState,
)
from esper_async.nissa.rate_limit import RateLimit
from esper_async.nissa.slo import Budget
from esper_async.nissa.stream import Stream
from esper_async.runtime.clock import Clock
from esper_async.runtime.metrics import Registry
from esper_async.tamiyo.hub import Hub


@dataclass(frozen=True, slots=True, kw_only=True)
class NissaContext:
    """Everything a request may need. `dead_letters()` raises RuntimeError while there is no bus."""

    hub: Hub
    runs: RunManager
    blueprints: Blueprints
    kernels: Kernels
    policies: Policies | None
    dead_letters: Callable[[], DeadLetterBox]
    events: EventStore
    alerts: AlertBook
    outbox: Outbox
    past: PastMetrics
    stream: Stream
    registry: Registry
    metrics: NissaMetrics
    system: SystemState
    access: Access
    changes: RateLimit
    refusals: RateLimit
    clock: Clock
    started_at: float
    budgets: Callable[[], Sequence[Budget]] = tuple
    versions: Mapping[str, str] = field(default_factory=dict)
