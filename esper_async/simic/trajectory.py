"""Joining decisions with what became of them: a run is an episode, a boundary its step."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from esper_async.leyline import DecisionRecord, FieldReport


@dataclass(frozen=True, slots=True)
class Step:
    """One decision, and the reports about its command (none while its window is open)."""

    boundary: int
    decision: DecisionRecord
    reports: tuple[FieldReport, ...]


@dataclass(frozen=True, slots=True)
class Trajectory:
    """The steps of one run in order.

    `missing` are boundaries between the first and the last of which no decision has arrived;
    `unmatched` the reports whose decision has not. `terminal_gain` is the run's result on the
    decision split over its baseline's, in nats; None where nobody has told it.
    """

    run: str
    steps: tuple[Step, ...]
    missing: tuple[int, ...]
    unmatched: tuple[FieldReport, ...]
    terminal_gain: float | None = None

    @property
    def whole(self) -> bool:
        """Whether nothing is known to be lacking."""
        return not self.missing and not self.unmatched


def join(
    run: str,
    decisions: Iterable[DecisionRecord],
    reports: Iterable[FieldReport],
    *,
    terminal_gain: float | None = None,
) -> Trajectory:
    """Join what has arrived of a run, in whatever order it did.

    A boundary that was decided again after a rollback has a step for each decision.
    """
    about: dict[str, list[FieldReport]] = defaultdict(list)
    for report in sorted(reports, key=lambda report: (report.boundary, report.report_id)):
        about[report.command_id].append(report)
    steps = tuple(
        Step(decision.boundary, decision, tuple(about.pop(decision.command.command_id, ())))
        for decision in sorted(
            decisions,
            key=lambda decision: (decision.boundary, decision.decided_at, decision.decision_id),
        )
    )
    seen = {step.boundary for step in steps}
    expected = range(min(seen), max(seen)) if seen else ()
    unmatched = [report for left in about.values() for report in left]
    return Trajectory(
        run=run,
        steps=steps,
        missing=tuple(boundary for boundary in expected if boundary not in seen),
        unmatched=tuple(sorted(unmatched, key=lambda report: (report.boundary, report.report_id))),
        terminal_gain=terminal_gain,
    )
