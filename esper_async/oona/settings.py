"""Every setting of the bus with its default."""

from dataclasses import dataclass

from esper_async.leyline.limits import LIMITS


@dataclass(frozen=True, slots=True)
class BusSettings:
    """Settings of one bus connection; seconds and entries as the names say."""

    queue_bound: int = LIMITS.queue_bound
    high_water: int = LIMITS.queue_high_water
    low_water: int = LIMITS.queue_low_water
    depth_refresh_s: float = 0.1
    command_timeout_s: float = 5.0
    breaker_failures: int = 3
    publish_open_s: float = 30.0
    consume_open_s: float = 1.0  # not 30: what waited for Redis must be drained within 10 s
    reconnect_cap_s: float = 1.0
    batch: int = 100
    linger_s: float = 0.001
    block_s: float = 1.0
    emergency_every_s: float = 0.002
    retry_base_s: float = 0.1
    retry_cap_s: float = 5.0
    lease_s: float = 30.0
    claim_every_s: float = 5.0
    drain_s: float = 10.0
    acknowledge_every_s: float = 0.05
    spool_poll_s: float = 0.1
    metrics_every_s: float = 5.0
    janitor_every_s: float = 1.0
    optional_lag_limit: int = 20_000
    expendable_entries: int = 20_000
    dead_letters_kept: int = 10_000
    idle_consumer_s: float = 3_600.0
