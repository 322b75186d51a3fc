"""The journal's records as contract messages, for the bus."""

import json
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from esper_async.leyline import (
    SCHEMA_VERSION,
    AdaptationCommand,
    DecisionRecord,
    EmergencySignal,
    FieldReport,
    Ramp,
    SeedCandidate,
    SeedCommand,
    StateForm,
    SystemStatePacket,
    TelemetryPacket,
    value_of,
)
from esper_async.leyline.v1 import enums_pb2 as enums
from esper_async.leyline.v1.reports_pb2 import Quantity, TournamentLoser
from esper_async.tamiyo.evidence import unpack
from esper_async.tamiyo.offer import unpack_draw
from esper_async.tolaria.emergency_signal import issuer, signal_of
from esper_async.tolaria.telemetry import points_of

RUN_RECORD = "run.record"
_GATES = {
    "G0": "G0_SANITY",
    "G1": "G1_GRADIENT_HEALTH",
    "G2": "G2_STABILITY",
    "G3": "G3_INTERFACE",
    "G4": "G4_SYSTEM_IMPACT",
    "G5": "G5_RESET",
}
_PACKED = ("evidence", "choices")
"""What the decision record has in its own form."""
_KNOWN_METRICS = ("training_loss", "validation_loss", "validation_accuracy")

Record = Mapping[str, Any]


class Primary(NamedTuple):
    """A task's primary metric: its key among a boundary's metrics, and its direction."""

    key: str
    larger_is_better: bool


def telemetry_of(record: Record, *, loss_unit: str) -> TelemetryPacket:
    """Return the packet that carries a record whole, and its figures as metric points."""
    packet = TelemetryPacket(
        version=SCHEMA_VERSION,
        packet_id=f"{record['run']}/{record['seq']}",
        created_at=record["time"],
        source="tolaria",
        level=enums.TELEMETRY_LEVEL_INFO,
        run_id=record["run"],
    )
    event = packet.events.add(
        name=RUN_RECORD, created_at=record["time"], level=enums.TELEMETRY_LEVEL_INFO
    )
    told = {key: value for key, value in record.items() if key not in _PACKED}
    event.fields["record"] = json.dumps(told, separators=(",", ":"))
    for point in points_of(record, loss_unit=loss_unit):
        labels = {"run": record["run"], **point.labels}
        packet.points.add(name=point.name, value=point.value, unit=point.unit, labels=labels)
    return packet


def form_of(run_id: str, name: str, primary: Primary | None) -> StateForm:
    """Return the form of a run's state packets."""
    if primary is None:
        return StateForm(run_id, name)
    direction = "MAXIMISE" if primary.larger_is_better else "MINIMISE"
    return StateForm(
        run_id,
        name,
        primary_metric=primary.key,
        primary_direction=value_of(enums.MetricDirection, direction),
    )


def system_state_of(record: Record, *, form: StateForm) -> SystemStatePacket:
    """Fill the run's state packet from a boundary record; what was not measured is absent."""
    packet = form.begin(record["boundary"], seeds=len(record["seeds"]))
    packet.packet_id = f"{record['run']}/b{record['boundary']}"
    packet.created_at = record["time"]
    packet.global_step = record["step"]
    packet.epoch = record["epoch"]
    for field, value in record["metrics"].items():
        if value is None:
            continue
        if field in _KNOWN_METRICS:
            setattr(packet, field, value)
        else:
            form.metrics[field] = value
    for field, value in record["hardware"].items():
        setattr(form.hardware, field, value)
    for state, seed in zip(form.seeds, record["seeds"], strict=True):
        state.seed_id = seed["id"]
        state.stage = value_of(enums.SeedLifecycleStage, seed["stage"])
        for field in ("gradient_norm", "learning_rate"):
            if seed[field] is not None:
                setattr(state, field, seed[field])
        state.layer_depth = seed["depth"]
        state.age_epochs = max(seed["age_epochs"], 0)
        state.site = seed["site"]
        state.blueprint_id = seed["blueprint"]
        state.alpha = seed["alpha"]
    return packet


def decision_of(record: Record) -> DecisionRecord:
    """Return the decision record behind one command, with its behaviour log-probability."""
    evidence = record.get("evidence")
    message = DecisionRecord() if evidence is None else unpack(evidence)
    message.MergeFrom(_plain_decision(record))
    choices = record.get("choices")  # journals of earlier versions have none
    if choices is not None:
        message.choices.CopyFrom(unpack_draw(choices))
    for alternative in record["alternatives"]:
        _add_alternative(message, alternative)
    placements = record.get("placements")  # journals of earlier versions have none
    if placements is not None:
        for values in placements["values"]:
            message.placements.add(version=placements["version"], values=values)
    return message


def _plain_decision(record: Record) -> DecisionRecord:
    message = DecisionRecord(
        version=SCHEMA_VERSION,
        decision_id=f"{record['run']}/{record['command']['id']}",
        run_id=record["run"],
        boundary=record["boundary"],
        global_step=record["step"],
        command=_command_of(record),
        policy=record["policy"],
        policy_version=record["policy_version"],
        reason=record["reason"],
        decided_at=record["time"],
    )
    if record["probability"] is not None:
        message.log_probability = math.log(record["probability"])
    return message


def _command_of(record: Record) -> AdaptationCommand:
    told = record["command"]
    command = AdaptationCommand(
        version=SCHEMA_VERSION,
        command_id=f"{record['run']}/{told['id']}",
        run_id=record["run"],
        boundary=record["boundary"],
        issued_at=record["time"],
        issued_by=record["policy"],
    )
    if record.get("risk") is not None:
        _fill_risk(command, record["risk"])
    if told["operation"] is None:
        command.type = enums.COMMAND_TYPE_NO_OPERATION
        command.no_operation.SetInParent()
        return command
    if told["type"] == "PAUSE":
        command.type = enums.COMMAND_TYPE_PAUSE
        command.pause.resume = told["operation"] == "RESUME"
        if len(told["seeds"]) == 1:
            command.seed_id = told["seeds"][0]
        return command
    command.type = enums.COMMAND_TYPE_SEED
    command.seed.operation = value_of(enums.SeedOperation, told["operation"])
    if told["target"] is not None:
        command.seed_id = told["target"]
    if told.get("tuning") is not None:
        _fill_tuning(command.seed, told["tuning"])
    for candidate in told["candidates"]:
        command.seed.candidates.append(
            SeedCandidate(
                site=candidate["site"],
                blueprint_id=candidate["blueprint"],
                parameters={key: float(value) for key, value in candidate["parameters"].items()},
                blend=value_of(enums.BlendMode, (candidate["blend"] or "unspecified").upper()),
                ramp=_ramp_of(candidate["ramp"]),
            )
        )
    return command


def _fill_risk(command: AdaptationCommand, risk: Record) -> None:
    command.risk.level = value_of(enums.RiskLevel, risk["level"])
    command.risk.score = risk["score"]
    command.risk.reason_code = risk["reason_code"]
    command.risk.mitigations.extend(risk["mitigations"])


def _add_alternative(message: DecisionRecord, told: Record) -> None:
    """Add an alternative that a policy gave a probability; others cannot be weighed."""
    probability = told.get("probability")
    if not probability:
        return
    entry = message.alternatives.add(log_probability=math.log(probability))
    if told["operation"] != "NO_OP":
        entry.operation = value_of(enums.SeedOperation, told["operation"])
    if told["blueprint"] is not None:
        entry.blueprint_id, entry.site = told["blueprint"], told["target"]
    elif told["target"] is not None:
        entry.seed_id = told["target"]


def _fill_tuning(command: SeedCommand, tuning: Mapping[str, Any]) -> None:
    if tuning["learning_rate"] is not None:
        command.learning_rate = tuning["learning_rate"]
    if tuning["ramp"] is not None:
        command.ramp.schedule = value_of(enums.RampSchedule, tuning["ramp"].upper())
    if tuning["ramp_boundaries"] is not None:
        command.ramp.boundaries = tuning["ramp_boundaries"]


def _ramp_of(schedule: str | None) -> Ramp | None:
    if schedule is None:
        return None
    return Ramp(schedule=value_of(enums.RampSchedule, schedule.upper()))


def emergency_of(record: Record) -> EmergencySignal:
    """Return the signal that tells of an emergency which the run has answered."""
    run_id = record["run"]
    return signal_of(
        run_id,
        record["level"],
        record["reason"],
        issued_by=issuer(run_id),
        issued_at=record["time"],
        signal_id=f"{run_id}/{record['seq']}",
    )


def field_report_of(record: Record) -> FieldReport:
    """Return the field report as the contract carries it."""
    report = FieldReport(
        version=SCHEMA_VERSION,
        report_id=record["report_id"],
        command_id=f"{record['run']}/{record['command_id']}",
        run_id=record["run"],
        seed_id=record["seed"],
        site=record["site"],
        blueprint_id=record["blueprint"],
        outcome=value_of(enums.FieldReportOutcome, record["outcome"]),
        window_boundaries=record["window"]["to"] - record["window"]["from"],
        issued_at=record["time"],
        policy_version=record["policy_version"],
        boundary=record["boundary"],
    )
    for name in ("clean_contribution", "dependence", "benefit_vs_twin"):
        _fill(getattr(report, name), record[name])
        if record[name] is None:
            report.ClearField(name)
    _fill_costs(report, record)
    change = record["observed_change"]
    if change.get("validation_loss") is not None:
        report.observed_change.loss = change["validation_loss"]
    if change.get("validation_accuracy") is not None:
        report.observed_change.accuracy = change["validation_accuracy"]
    report.mitigations.extend(record.get("mitigations", ()))
    for loser in record["losers"]:
        report.losers.append(_loser_of(loser))
    return report


def _fill_costs(report: FieldReport, record: Record) -> None:
    """Tell what came of the seed and what it took; journals of earlier versions say nothing."""
    if record.get("stage") is not None:
        report.stage = value_of(enums.SeedLifecycleStage, record["stage"])
    for name in ("parameter_ratio", "compute_ratio"):
        if record.get(name) is not None:
            setattr(report, name, record[name])


def _loser_of(loser: Record) -> TournamentLoser:
    message = TournamentLoser(
        seed_id=loser["seed"], site=loser["site"], blueprint_id=loser["blueprint"]
    )
    if loser["clean_contribution"] is not None:
        _fill(message.clean_contribution, loser["clean_contribution"])
    if loser["failed_gate"] is not None:
        message.failed_gate = value_of(enums.SeedLifecycleGate, _GATES[loser["failed_gate"]])
    return message


def _fill(quantity: Quantity, told: Record | None) -> None:
    if told is None or any(told[name] is None for name in ("mean", "low", "high")):
        return
    quantity.mean, quantity.low, quantity.high = told["mean"], told["low"], told["high"]
    quantity.n = told["n"]
    quantity.estimated = told["estimated"]
    quantity.unit = value_of(enums.QuantityUnit, told["unit"].upper())
    quantity.paired_by = value_of(enums.PairedBy, told["paired_by"].upper())
