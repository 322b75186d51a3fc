"""Well-formed reports and decisions for the tests."""

from esper_async.leyline import (
    AdaptationCommand,
    DecisionRecord,
    FieldReport,
    FieldReportOutcome,
    Quantity,
)


def quantity(mean: float, *, estimated: bool = False) -> Quantity:
    return Quantity(mean=mean, low=mean - 0.01, high=mean + 0.01, n=100, estimated=estimated)


def report(run: str, boundary: int, **changes: object) -> FieldReport:
    message = FieldReport(
        version=1,
        report_id=f"{run}-r{boundary}",
        command_id=f"{run}-c{boundary}",
        run_id=run,
        seed_id=f"s{boundary}",
        site="body",
        blueprint_id="BP009",
        outcome=FieldReportOutcome.FIELD_REPORT_OUTCOME_SUCCESS,
        benefit_vs_twin=quantity(0.05),
        dependence=quantity(3.0),
        window_boundaries=3,
        issued_at=1000.0 + boundary,
        boundary=boundary + 6,
    )
    for name, value in changes.items():
        setattr(message, name, value)
    return message


def decision(run: str, boundary: int, **changes: object) -> DecisionRecord:
    message = DecisionRecord(
        version=1,
        decision_id=f"{run}-d{boundary}",
        run_id=run,
        boundary=boundary,
        command=AdaptationCommand(version=1, command_id=f"{run}-c{boundary}", run_id=run),
        policy="random",
        log_probability=-0.5,
        decided_at=900.0 + boundary,
    )
    for name, value in changes.items():
        setattr(message, name, value)
    return message
