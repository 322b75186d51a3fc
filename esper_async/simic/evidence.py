"""What a reward may look at: the causal quantities, and nothing else of a field report.

This is the only module that reads both a report and is read by the formula. It copies two of the
report's quantities; a test holds that neither it nor the formula mentions any other.
"""

from dataclasses import dataclass

from esper_async.leyline import FieldReport, Quantity


@dataclass(frozen=True, slots=True)
class Measured:
    """An effect in nats (or per cent of the running loss) with its interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Evidence:
    """What one step's reward is computed from. None is "not measured", which is never zero.

    `parameter_ratio` and `compute_ratio` are what the kept seed adds, over the host's own;
    `terminal_gain` is the run's result on the decision split over its baseline's, at the last step;
    `disruptions` are culls after blending, `rollbacks` what the step caused.
    """

    benefit: Measured | None = None
    contribution: Measured | None = None
    parameter_ratio: float | None = None
    compute_ratio: float | None = None
    terminal_gain: float | None = None
    disruptions: int = 0
    rollbacks: int = 0


def evidence_of(
    report: FieldReport,
    *,
    parameter_ratio: float | None = None,
    compute_ratio: float | None = None,
    terminal_gain: float | None = None,
    disruptions: int = 0,
    rollbacks: int = 0,
) -> Evidence:
    """Take from a report what may be rewarded.

    An estimated benefit contains the host's own learning, and is not measured.
    """
    return Evidence(
        benefit=_measured(report.benefit_vs_twin) if report.HasField("benefit_vs_twin") else None,
        contribution=(
            _measured(report.clean_contribution) if report.HasField("clean_contribution") else None
        ),
        parameter_ratio=parameter_ratio,
        compute_ratio=compute_ratio,
        terminal_gain=terminal_gain,
        disruptions=disruptions,
        rollbacks=rollbacks,
    )


def _measured(quantity: Quantity) -> Measured | None:
    if quantity.estimated:
        return None
    return Measured(quantity.mean, quantity.low, quantity.high)
