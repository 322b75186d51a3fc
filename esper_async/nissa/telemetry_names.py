"""The telemetry that comes over the bus: which names there are, of what kind, and what they tell.

A name that is not listed is taken as a gauge under a bound on how many such names there may be.
"""

from esper_async.runtime.metrics import Kind

SUBSYSTEMS = (
    "leyline", "runtime", "supervisor", "oona", "karn", "urza", "kasmina", "tezzeret", "tamiyo",
    "tolaria", "simic", "nissa", "esper",
)  # fmt: skip

KNOWN: dict[str, tuple[Kind, str]] = {
    "tolaria.training.loss": ("gauge", "Training loss of the last boundary"),
    "tolaria.validation.loss": ("gauge", "Validation loss of the last boundary"),
    "tolaria.validation.accuracy": ("gauge", "Validation accuracy of the last boundary, 0 to 1"),
    "tolaria.epoch.duration_ms": ("histogram", "Time an epoch took"),
    "tolaria.boundary.over_budget": ("counter", "Boundaries that took over a budget, by part"),
    "tolaria.boundary.duration_ms": (
        "histogram",
        "Time a boundary took, by part; total is all of them but validation",
    ),
    "tolaria.shadow.cost_ratio": ("gauge", "Multiply-accumulates of shadow passes a host's"),
    "tolaria.seeds.active": ("gauge", "Seeds in the run"),
    "tolaria.throughput.samples_per_s": ("gauge", "Training samples a second"),
    "tolaria.rollback.count": ("counter", "Rollbacks"),
    "tolaria.rollback.duration_ms": ("histogram", "Time a rollback took"),
    "tolaria.emergency.count": ("counter", "Emergencies, by level"),
    "tolaria.checkpoint.duration_ms": ("histogram", "Time a checkpoint took"),
    "tolaria.checkpoint.copy_ms": ("histogram", "Time training was held up by its copy"),
    "tolaria.checkpoint.size_bytes": ("gauge", "Size of the last checkpoint"),
    "tolaria.recompiles": ("counter", "Programs that torch compiled after a run's first step"),
    "tolaria.compile.duration_ms": ("histogram", "Time a step waited for torch's compiler"),
    "tolaria.compile.given_up": ("counter", "Functions that torch will not compile again"),
    "tolaria.checkpoint.memory_bytes": ("gauge", "What the states kept in memory take"),
    "tolaria.lr.integrity_violations": ("counter", "Rates changed by somebody else"),
    "kasmina.seeds.active": ("gauge", "Seeds in the model, by stage"),
    "kasmina.stage.transitions": ("counter", "Changes of stage"),
    "kasmina.gate.result": ("counter", "Gates passed and failed"),
    "kasmina.isolation.violations": ("counter", "A seed in training touched its host"),
    "kasmina.kernel.fetch_latency_ms": ("histogram", "Time to get a kernel"),
    "kasmina.alpha": ("gauge", "How far a seed is blended in, 0 to 1"),
    "kasmina.clean_contribution": ("gauge", "Loss a seed saves before blending"),
    "kasmina.dependence": ("gauge", "Loss that switching a blended seed off costs"),
    "kasmina.benefit_vs_twin": ("gauge", "Loss saved against the twin that did not grow"),
    "kasmina.commands.refused": ("counter", "Commands refused"),
    "tamiyo.inference.latency_ms": ("histogram", "Time to decide"),
    "tamiyo.risk.score": ("gauge", "Risk, 0 to 1"),
    "tamiyo.risk.level": ("gauge", "Risk level, 1 green to 5 critical"),
    "tamiyo.decision.total": ("counter", "Decisions"),
    "tamiyo.pause.quota_remaining": ("gauge", "Pause requests left"),
    "tamiyo.field_report.dispatch_latency_ms": ("histogram", "From closing a window to the bus"),
    "tamiyo.conservative_mode": ("gauge", "1 while in conservative mode"),
    "tamiyo.policy.version": ("gauge", "Version of the policy"),
    "tezzeret.compilation.duration_ms": ("histogram", "Time a kernel's proof or compilation took"),
    "tezzeret.queue.depth": ("gauge", "Jobs waiting in the forge"),
    "tezzeret.jobs.total": ("counter", "Jobs ended, by result"),
    "tezzeret.conservative_mode": ("gauge", "1 while in conservative mode"),
}


def kind_of(name: str) -> tuple[Kind, str] | None:
    """What a name is: as listed, else told by its ending; None for no subsystem's name."""
    if name in KNOWN:
        return KNOWN[name]
    if name.partition(".")[0] not in SUBSYSTEMS:
        return None
    if name.endswith("_ms"):
        return "histogram", "Telemetry, in seconds"
    if name.endswith("total"):
        return "counter", "Telemetry"
    return "gauge", "Telemetry"
