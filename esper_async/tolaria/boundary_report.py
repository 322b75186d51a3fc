"""What a boundary of a growing model comes to: measurements, a decision, changes of stage."""

from dataclasses import dataclass, field

from esper_async.kasmina.compiling.host import Pause
from esper_async.kasmina.gates import GateResult
from esper_async.kasmina.seed import Seed
from esper_async.kasmina.stage import Stage
from esper_async.tamiyo.command import Decision


@dataclass(frozen=True, slots=True)
class Transition:
    """A seed's change of stage at a boundary, and the gate that allowed or forced it."""

    seed: Seed
    source: Stage
    target: Stage
    gate: GateResult | None


@dataclass(slots=True)
class BoundaryReport:
    """What happened at a boundary: metrics, the decision, stage changes, and the time it took.

    `refused` says why the decision's command could not be carried out; nothing was changed then.
    `isolation_violations` counts samples since the last boundary in which a seed in training had
    touched the host; None where nothing grows. `pauses` are the steps since then that waited for
    the compiler.
    """

    boundary: int
    metrics: dict[str, float]
    decision: Decision
    transitions: list[Transition] = field(default_factory=list)
    duration_ms: dict[str, float] = field(default_factory=dict)
    refused: str | None = None
    isolation_violations: int | None = None
    pauses: list[Pause] = field(default_factory=list)
