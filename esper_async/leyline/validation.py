"""What a message must satisfy beyond its schema before it is published or acted on."""

import math
from collections.abc import Callable
from typing import Any

from google.protobuf.message import Message

from esper_async.leyline.errors import Refusal, Refused
from esper_async.leyline.limits import LIMITS, SCHEMA_VERSION
from esper_async.leyline.registry import PayloadSpec
from esper_async.leyline.v1 import enums_pb2 as enums
from esper_async.leyline.v1.commands_pb2 import AdaptationCommand, SeedCommand
from esper_async.leyline.v1.reports_pb2 import FieldReport, Quantity
from esper_async.leyline.v1.state_pb2 import SystemStatePacket

_PAYLOAD_OF_TYPE = {
    enums.COMMAND_TYPE_SEED: "seed",
    enums.COMMAND_TYPE_ROLLBACK: "rollback",
    enums.COMMAND_TYPE_OPTIMIZER: "optimizer",
    enums.COMMAND_TYPE_CIRCUIT_BREAKER: "breaker",
    enums.COMMAND_TYPE_PAUSE: "pause",
    enums.COMMAND_TYPE_EMERGENCY: "emergency",
    enums.COMMAND_TYPE_NO_OPERATION: "no_operation",
}


def validate(message: Message, spec: PayloadSpec) -> None:
    """Raise Refused (WRONG_VERSION or INVALID) with the first thing that is wrong."""
    foreign: Any = message  # every payload has `version` and its identity; a test holds that
    if foreign.version != SCHEMA_VERSION:
        raise Refused(
            Refusal.WRONG_VERSION,
            f"{spec.name} has version {foreign.version}, not {SCHEMA_VERSION}",
        )
    if not getattr(foreign, spec.identity):
        raise Refused(Refusal.INVALID, f"{spec.name}.{spec.identity} is empty")
    check = _CHECKS.get(type(message))
    if check is not None and (problem := check(message)):
        raise Refused(Refusal.INVALID, problem)


def command_problem(command: AdaptationCommand) -> str | None:
    """Say what makes this command one that nobody may carry out, or None."""
    if command.type == enums.COMMAND_TYPE_STRUCTURAL_PRUNING:
        return "STRUCTURAL_PRUNING is reserved and always refused"
    expected = _PAYLOAD_OF_TYPE.get(command.type)
    if expected is None:
        return f"command type {command.type} is unknown"
    carried = command.WhichOneof("payload")
    if carried != expected:
        return f"a command of this type carries {expected!r}, not {carried!r}"
    if not command.run_id and expected != "breaker":  # a breaker belongs to no run
        return "the command names no run"
    if not math.isfinite(command.issued_at):
        return "issued_at is not a time"
    return _seed_problem(command.seed, command) if expected == "seed" else None


def _seed_problem(seed: SeedCommand, command: AdaptationCommand) -> str | None:
    if seed.operation == enums.SEED_OPERATION_UNKNOWN:
        return "the seed operation is unknown"
    if seed.operation != enums.SEED_OPERATION_GERMINATE:
        return None if command.seed_id else "this operation needs a target seed"
    if not 1 <= len(seed.candidates) <= LIMITS.candidates:
        return f"{len(seed.candidates)} candidates, not 1 to {LIMITS.candidates}"
    if any(not candidate.site or not candidate.blueprint_id for candidate in seed.candidates):
        return "every candidate names a site and a blueprint"
    return None


def _report_problem(report: FieldReport) -> str | None:
    if report.outcome == enums.FIELD_REPORT_OUTCOME_UNSPECIFIED:
        return "a field report has an outcome"
    for name in ("clean_contribution", "dependence", "benefit_vs_twin"):
        if report.HasField(name) and not _is_interval(getattr(report, name)):
            return f"{name} is no interval with low <= mean <= high of finite numbers"
    return None


def _state_problem(packet: SystemStatePacket) -> str | None:
    if len(packet.seeds) > LIMITS.seeds_per_epoch:
        return f"{len(packet.seeds)} seeds, more than {LIMITS.seeds_per_epoch}"
    return None


def _is_interval(quantity: Quantity) -> bool:
    numbers = (quantity.low, quantity.mean, quantity.high)
    return all(map(math.isfinite, numbers)) and quantity.low <= quantity.mean <= quantity.high


_CHECKS: dict[type[Message], Callable[[Any], str | None]] = {
    AdaptationCommand: command_problem,
    FieldReport: _report_problem,
    SystemStatePacket: _state_problem,
}
