"""The alerts that are shipped, each a pure function of the signals."""

from esper_async.leyline import LIMITS
from esper_async.nissa.alerts import Finding, Rule
from esper_async.nissa.signals import Signals

DISK_FREE = 0.05


def training_latency_high(signals: Signals) -> list[Finding]:
    """The last three boundaries of a run were all over their limit."""
    limit_ms = LIMITS.boundary_ms
    return [
        Finding(
            (("run", run),),
            f"Three boundaries of run {run} took over {limit_ms:g} ms, "
            f"the last one {times[-1]:.1f} ms.",
            times[-1],
            limit_ms,
        )
        for run, times in signals.boundary_ms.items()
        if len(times) >= 3 and min(times[-3:]) > limit_ms
    ]


def isolation_violation(signals: Signals) -> list[Finding]:
    """A seed in training touched its host."""
    count = signals.increases.get("kasmina.isolation.violations", 0.0)
    if count < 3:
        return []
    return [Finding((), f"{count:g} isolation violations within five minutes.", count, 3.0)]


def queue_depth(signals: Signals) -> list[Finding]:
    """Messages wait that required readers have not taken."""
    high = float(LIMITS.queue_high_water)
    return [
        Finding(sample.labels, f"{sample.value:g} messages wait on the bus.", sample.value, high)
        for sample in signals.gauges.get("oona.queue.depth", ())
        if sample.value > high
    ]


def forge_conservative(signals: Signals) -> list[Finding]:
    """The forge has cut itself back."""
    return [
        Finding(sample.labels, "The forge is in conservative mode.")
        for sample in signals.gauges.get("tezzeret.conservative_mode", ())
        if sample.value > 0
    ]


def breaker_open(signals: Signals) -> list[Finding]:
    """A part refuses calls because what it calls kept failing."""
    return [
        Finding(
            (("service", service), ("breaker", breaker)),
            f"The breaker {breaker} of {service} is open: its calls are refused for now.",
        )
        for service, facts in signals.services.items()
        for breaker, state in (facts.get("breakers") or {}).items()
        if state == "open"
    ]


def service_down(signals: Signals) -> list[Finding]:
    """A service is not ready after having been restarted."""
    return [
        Finding(
            (("service", service),),
            f"{service} is {facts.get('state')} after {facts.get('restarts')} restarts.",
            float(facts.get("restarts") or 0),
        )
        for service, facts in signals.services.items()
        if facts.get("state") != "ready" and (facts.get("restarts") or 0) >= 1
    ]


def child_lost(signals: Signals) -> list[Finding]:
    """A training process died and was started again."""
    count = signals.increases.get("resumes", 0.0)
    if count < 1:
        return []
    return [Finding((), f"Training processes were lost {count:g} times in five minutes.", count)]


def disk_low(signals: Signals) -> list[Finding]:
    """The disk of the state directory is nearly full."""
    free = signals.disk_free
    if free is None or free >= DISK_FREE:
        return []
    return [Finding((), f"Only {free:.1%} of the disk is free.", free, DISK_FREE)]


RULES = (
    Rule("training_latency_high", "error", 0.0, training_latency_high),
    Rule("kasmina_isolation_violation", "critical", 0.0, isolation_violation),
    Rule("oona_queue_depth", "warning", 120.0, queue_depth),
    Rule("tezzeret_conservative_mode", "warning", 900.0, forge_conservative),
    Rule("breaker_open", "error", 0.0, breaker_open),
    Rule("service_restart_loop", "critical", 5.0, service_down),
    Rule("child_lost", "warning", 0.0, child_lost),
    Rule("disk_low", "error", 60.0, disk_low),
)
