"""The telemetry that comes over the bus: which names there are, of what kind, and what they tell.

A listed name has the labels that stand here and no others, so that no packet can decide for those
that come after it. A name that is not listed is taken as a gauge under a bound on how many such
names there may be.
"""

from dataclasses import dataclass

from esper_async.runtime.metrics import Kind

SUBSYSTEMS = (
    "leyline", "runtime", "supervisor", "oona", "karn", "urza", "kasmina", "tezzeret", "tamiyo",
    "tolaria", "simic", "nissa", "esper",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Known:
    """A listed name. `text` says what it tells and in which unit; `labels` are in order."""

    kind: Kind
    text: str
    labels: tuple[str, ...] = ("run",)


def _of_run(kind: Kind, text: str, *labels: str) -> Known:
    return Known(kind, text, tuple(sorted(("run", *labels))))


KNOWN: dict[str, Known] = {
    "runtime.labels.folded": Known(
        "counter", "Times that a metric was used past its bound of label values", ("metric",)
    ),
    "tolaria.training.loss": _of_run("gauge", "Training loss of the last boundary"),
    "tolaria.training.accuracy": _of_run(
        "gauge", "Accuracy on the last training step before the boundary, 0 to 1"
    ),
    "tolaria.validation.loss": _of_run("gauge", "Validation loss of the last boundary"),
    "tolaria.validation.accuracy": _of_run(
        "gauge", "Validation accuracy of the last boundary, 0 to 1"
    ),
    "tolaria.epoch.duration_ms": _of_run("histogram", "Time an epoch took, seconds"),
    "tolaria.boundary.over_budget": _of_run(
        "counter", "Boundaries that took over a budget, by part", "part"
    ),
    "tolaria.boundary.duration_ms": _of_run(
        "histogram",
        "Time a boundary took by part, seconds; total is all of them but validation",
        "part",
    ),
    "tolaria.shadow.cost_ratio": _of_run(
        "gauge", "Multiply-accumulates of shadow passes over the host's, a ratio"
    ),
    "tolaria.seeds.active": _of_run("gauge", "Seeds that are tried in the run"),
    "tolaria.throughput.samples_per_s": _of_run("gauge", "Training samples a second"),
    "tolaria.rollback.count": _of_run("counter", "Rollbacks, by cause", "cause"),
    "tolaria.rollback.duration_ms": _of_run(
        "histogram", "Time a rollback took by where it was read from, seconds", "source"
    ),
    "tolaria.emergency.count": _of_run("counter", "Emergencies, by level", "level"),
    "tolaria.checkpoint.duration_ms": _of_run("histogram", "Time a checkpoint took, seconds"),
    "tolaria.checkpoint.copy_ms": _of_run(
        "histogram", "Time training was held up by a checkpoint's copy, seconds"
    ),
    "tolaria.checkpoint.size_bytes": _of_run("gauge", "Size of the last checkpoint, bytes"),
    "tolaria.recompiles": _of_run(
        "counter", "Programs that torch compiled after a run's first step"
    ),
    "tolaria.compile.duration_ms": _of_run(
        "histogram", "Time a step waited for torch's compiler, seconds"
    ),
    "tolaria.compile.given_up": _of_run("counter", "Functions that torch will not compile again"),
    "tolaria.checkpoint.memory_bytes": _of_run(
        "gauge", "What the states kept in memory take, bytes"
    ),
    "tolaria.lr.integrity_violations": _of_run("counter", "Rates changed by somebody else"),
    "kasmina.seeds.active": _of_run("gauge", "Seeds in the model, by stage", "stage"),
    "kasmina.stage.transitions": _of_run("counter", "Changes of stage", "from", "to"),
    "kasmina.gate.result": _of_run("counter", "Gates passed and failed", "gate", "result"),
    "kasmina.isolation.violations": _of_run("counter", "A seed in training touched its host"),
    "kasmina.kernel.fetch_latency_ms": _of_run(
        "histogram", "Time to get a kernel, made here or compiled by the forge, seconds", "source"
    ),
    "kasmina.alpha": _of_run("gauge", "How far a seed is blended in, 0 to 1", "seed"),
    "kasmina.clean_contribution": _of_run("gauge", "Loss a seed saves before blending", "seed"),
    "kasmina.dependence": _of_run("gauge", "Loss that switching a blended seed off costs", "seed"),
    "kasmina.benefit_vs_twin": _of_run(
        "gauge", "Loss saved against the twin that did not grow", "seed"
    ),
    "kasmina.commands.refused": _of_run("counter", "Commands refused, by reason", "reason"),
    "tamiyo.inference.latency_ms": _of_run("histogram", "Time to decide, seconds"),
    "tamiyo.risk.score": _of_run("gauge", "Risk, 0 to 1"),
    "tamiyo.risk.level": _of_run("gauge", "Risk level, 1 green to 5 critical"),
    "tamiyo.decision.total": _of_run(
        "counter", "Decisions, by action and reason code", "action", "reason"
    ),
    "tamiyo.pause.quota_remaining": _of_run("gauge", "Pause requests left"),
    "tamiyo.field_report.dispatch_latency_ms": _of_run(
        "histogram", "From the spooling of a closed window's report to the bus, seconds"
    ),
    "tamiyo.conservative_mode": _of_run("gauge", "1 while in conservative mode"),
    "tamiyo.policy.version": _of_run(
        "gauge", "1 under the policy and version that decide now", "policy", "version"
    ),
}

PER_SEED = frozenset(name for name, known in KNOWN.items() if "seed" in known.labels)
"""Gauges of single seeds: they end with their seed, since a stale figure would look like news."""
ONE_AT_A_TIME = frozenset({"tamiyo.policy.version"})
"""Gauges of a run of which one series is true: a new one ends the one before it."""
CENSUS = "kasmina.seeds.active"
"""What a packet carries that tells of every seed in the network."""


def kind_of(name: str) -> tuple[Kind, str] | None:
    """What a name is: as listed, else told by its ending; None for no subsystem's name."""
    if name in KNOWN:
        return KNOWN[name].kind, KNOWN[name].text
    if name.partition(".")[0] not in SUBSYSTEMS:
        return None
    if name.endswith("_ms"):
        return "histogram", "Telemetry that is not in the catalogue, seconds"
    if name.endswith("total"):
        return "counter", "Telemetry that is not in the catalogue"
    return "gauge", "Telemetry that is not in the catalogue"
