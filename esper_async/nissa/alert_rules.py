"""The alerts that are shipped, each a pure function of the signals.

`config/nissa/rules` says the same to a Prometheus; a test holds the names together.
"""

from collections.abc import Callable

from esper_async.leyline import LIMITS
from esper_async.nissa.alerts import Finding, Rule
from esper_async.nissa.signals import Signals
from esper_async.nissa.slo import FAST, MOST_BUDGET_A_DAY, SLOW, Budget

DISK_FREE = 0.05
PAGER, CHAT, MAIL = "pager", "chat", "mail"


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


def field_report_overdue(signals: Signals) -> list[Finding]:
    """What a run must not lose waits on its disk, and nobody takes it."""
    return [
        Finding(
            (("producer", producer),),
            f"Field reports or decisions of {producer} have waited for the bus for "
            f"{waited_s / 60:.0f} minutes; they are safe on its disk.",
            waited_s,
            signals.overdue_s,
        )
        for producer, waited_s in signals.spools_waiting_s.items()
        if waited_s >= signals.overdue_s
    ]


def told_by_a_part(signals: Signals) -> list[Finding]:
    """A part of the system has said so itself, over the bus."""
    return list(signals.told)


def _budget_alert(
    words: str, spends: Callable[[Budget], bool]
) -> Callable[[Signals], list[Finding]]:
    """Return a rule about the error budgets that `spends` picks."""

    def find(signals: Signals) -> list[Finding]:
        return [
            Finding(
                (("objective", budget.objective.kind), ("service", budget.objective.service)),
                f"The error budget of {budget.objective.name} ({budget.objective.text}) {words}.",
                budget.spent_24h,
            )
            for budget in signals.budgets
            if spends(budget)
        ]

    return find


slo_burn_fast = _budget_alert(
    "goes 14 times too fast: it would be used up in two days", lambda budget: budget.burns(FAST)
)
slo_burn_slow = _budget_alert(
    "goes 6 times too fast: it would be used up in five days", lambda budget: budget.burns(SLOW)
)
slo_budget_spent = _budget_alert(
    "lost 40 % or more within a day",
    lambda budget: budget.spent_24h is not None and budget.spent_24h >= MOST_BUDGET_A_DAY,
)

RULES = (
    Rule("training_latency_high", "error", 0.0, training_latency_high, (PAGER, CHAT)),
    Rule("kasmina_isolation_violation", "critical", 0.0, isolation_violation, (PAGER,)),
    Rule("oona_queue_depth", "warning", 120.0, queue_depth, (CHAT,)),
    Rule("tezzeret_conservative_mode", "warning", 900.0, forge_conservative, (MAIL,)),
    Rule("breaker_open", "error", 0.0, breaker_open, (CHAT,)),
    Rule("service_restart_loop", "critical", 5.0, service_down, (PAGER, CHAT)),
    Rule("child_lost", "warning", 0.0, child_lost, (CHAT,)),
    Rule("field_report_overdue", "error", 0.0, field_report_overdue, (CHAT,)),
    Rule("disk_low", "error", 60.0, disk_low, (PAGER, MAIL)),
    Rule("slo_burn_fast", "critical", 0.0, slo_burn_fast, (PAGER, CHAT)),
    Rule("slo_burn_slow", "error", 0.0, slo_burn_slow, (CHAT,)),
    Rule("slo_budget_spent", "error", 0.0, slo_budget_spent, (MAIL,)),
    Rule("told_by_a_part", "error", 0.0, told_by_a_part, (CHAT,)),
)
