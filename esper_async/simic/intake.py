"""What may enter the store: a report or decision record that says what it is about."""

import math

from google.protobuf.message import Message

from esper_async.leyline import (
    DecisionRecord,
    FieldReport,
    FieldReportOutcome,
    Quantity,
    Refused,
    SeedOperation,
    spec_of,
)
from esper_async.leyline.validation import validate
from esper_async.simic.choices import choices_problem

Record = FieldReport | DecisionRecord


class MalformedError(ValueError):
    """A message that nothing can be learned from; the message says why."""


def admitted(message: Message) -> Record:
    """The message, once it is one that can be learned from. Raises MalformedError."""
    if not isinstance(message, FieldReport | DecisionRecord):
        raise MalformedError(f"a {type(message).__name__} is no experience")
    try:
        validate(message, spec_of(message))
    except Refused as refused:
        raise MalformedError(str(refused)) from refused
    if not message.run_id:
        raise MalformedError("it names no run")
    problem = (
        _report_problem(message) if isinstance(message, FieldReport) else _decision_problem(message)
    )
    if problem:
        raise MalformedError(problem)
    return message


def _report_problem(report: FieldReport) -> str | None:
    if not report.command_id:
        return "it names no command"
    if report.outcome not in FieldReportOutcome.values():
        return f"outcome {report.outcome} is not known"
    if not math.isfinite(report.issued_at):
        return "issued_at is not a time"
    for name in ("parameter_ratio", "compute_ratio"):
        ratio = getattr(report, name)
        if not (math.isfinite(ratio) and ratio >= 0.0):
            return f"{name} {ratio} is no share"
    for loser in report.losers:
        if loser.HasField("clean_contribution") and not _finite(loser.clean_contribution):
            return f"the clean contribution of loser {loser.seed_id} is not finite"
    return None


def _decision_problem(decision: DecisionRecord) -> str | None:
    if not decision.HasField("command") or not decision.command.command_id:
        return "it carries no command"
    operation = decision.command.seed.operation
    if operation not in SeedOperation.values():
        return f"operation {operation} is not known"
    if decision.command.run_id and decision.command.run_id != decision.run_id:
        return f"its command belongs to run {decision.command.run_id}"
    if not math.isfinite(decision.decided_at):
        return "decided_at is not a time"
    if decision.HasField("log_probability") and not _log_probability(decision.log_probability):
        return f"log_probability {decision.log_probability} is none"
    return choices_problem(decision) if decision.HasField("choices") else None


def _finite(quantity: Quantity) -> bool:
    return all(map(math.isfinite, (quantity.low, quantity.mean, quantity.high)))


def _log_probability(value: float) -> bool:
    return math.isfinite(value) and value <= 1e-6
