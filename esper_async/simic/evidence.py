"""What a reward may look at: the causal quantities, what became of the seed, and what it cost.

This is the only module that reads messages and is read by the formula. It copies two of a report's
quantities; a test holds that neither it nor the formula mentions any other.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from esper_async.leyline import (
    DecisionRecord,
    FieldReport,
    FieldReportOutcome,
    Quantity,
    SeedLifecycleStage,
    SeedOperation,
)

_KEPT = SeedLifecycleStage.SEED_LIFECYCLE_STAGE_FOSSILIZED
_REMOVED = (
    SeedLifecycleStage.SEED_LIFECYCLE_STAGE_CULLED,
    SeedLifecycleStage.SEED_LIFECYCLE_STAGE_EMBARGOED,
    SeedLifecycleStage.SEED_LIFECYCLE_STAGE_RESETTING,
    SeedLifecycleStage.SEED_LIFECYCLE_STAGE_DORMANT,
    SeedLifecycleStage.SEED_LIFECYCLE_STAGE_TERMINATED,
)


@dataclass(frozen=True, slots=True)
class Measured:
    """An effect in nats (or per cent of the running loss) with its interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Evidence:
    """What one step's reward is computed from. None is "not measured", which is never zero.

    Attributes:
        benefit: against the twin.
        contribution: on against off in the shadow. No term reads it; learners may.
        kept: whether the seed is part of the network for good; None while that is open.
        parameter_ratio: its parameters, of the host's own.
        compute_boundaries: what its window cost beside the host's training, in boundaries of that.
        terminal_gain: the run's result on the decision split over its baseline's, at the last step.
        disruptions: seeds that were judged in the network and removed.
        rollbacks: of the run, that undid the step.
    """

    benefit: Measured | None = None
    contribution: Measured | None = None
    kept: bool | None = None
    parameter_ratio: float | None = None
    compute_boundaries: float | None = None
    terminal_gain: float | None = None
    disruptions: int = 0
    rollbacks: int = 0


def evidence_of(
    decision: DecisionRecord,
    reports: Sequence[FieldReport],
    *,
    terminal_gain: float | None = None,
) -> Evidence:
    """Take from a step what may be rewarded: of its reports, the newest.

    Only a germination is paid: a report about another command repeats the quantities of a seed
    that was planted before. An estimated benefit contains the host's own learning, and is not
    measured.
    """
    if not reports:
        return Evidence(terminal_gain=terminal_gain)
    report = reports[-1]
    rollbacks = int(report.outcome == FieldReportOutcome.FIELD_REPORT_OUTCOME_ABORTED)
    if decision.command.seed.operation != SeedOperation.SEED_OPERATION_GERMINATE:
        return Evidence(terminal_gain=terminal_gain, rollbacks=rollbacks)
    kept = None if rollbacks else _kept(report)
    judged = report.HasField("benefit_vs_twin")
    compute = None
    if report.HasField("compute_ratio"):
        compute = report.compute_ratio * report.window_boundaries
    return Evidence(
        benefit=_measured(report.benefit_vs_twin) if judged else None,
        contribution=(
            _measured(report.clean_contribution) if report.HasField("clean_contribution") else None
        ),
        kept=kept,
        parameter_ratio=report.parameter_ratio if report.HasField("parameter_ratio") else None,
        compute_boundaries=compute,
        terminal_gain=terminal_gain,
        disruptions=int(judged and kept is False),
        rollbacks=rollbacks,
    )


def _kept(report: FieldReport) -> bool | None:
    if report.stage == _KEPT:
        return True
    return False if report.stage in _REMOVED else None


def _measured(quantity: Quantity) -> Measured | None:
    if quantity.estimated:
        return None
    return Measured(quantity.mean, quantity.low, quantity.high)
