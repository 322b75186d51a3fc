"""From the bus's queries to the catalogue's, and from its records to messages."""

import math
import re
from datetime import UTC, datetime

from esper_async.karn.catalogue import Query
from esper_async.karn.errors import QueryRefusedError
from esper_async.karn.record import TIERS, BlueprintRecord, ParameterRecord, Tier, interface_of
from esper_async.leyline import (
    SCHEMA_VERSION,
    Approval,
    BlueprintDescriptor,
    BlueprintQuery,
    BlueprintTier,
    ParameterBound,
    short_name,
    value_of,
)

_WHOLE = re.compile(r"\d+")


def query_of(message: BlueprintQuery) -> Query:
    """Return what a message asks for; never for a drill, which asks in its own process.

    Raises:
        QueryRefusedError: it names what there is not.
    """
    asked = message
    site = asked.interface if asked.HasField("interface") else None
    return Query(
        tiers=tuple(_tier(value) for value in asked.tiers) or ("production",),
        interface=None if site is None else interface_of(site.kind, site.shape),
        highest_stage=asked.maximum_stage if asked.HasField("maximum_stage") else None,
        risk_ceiling=_decimal(asked.risk_ceiling) if asked.HasField("risk_ceiling") else None,
        parameter_budget=asked.parameter_budget if asked.HasField("parameter_budget") else None,
        flop_budget=asked.flop_budget if asked.HasField("flop_budget") else None,
    )


def descriptor_of(record: BlueprintRecord) -> BlueprintDescriptor:
    """Return a record as a message."""
    approved = datetime.fromisoformat(record.approval.approved_on).replace(tzinfo=UTC)
    return BlueprintDescriptor(
        version=SCHEMA_VERSION,
        blueprint_id=record.id,
        name=record.name,
        description=record.description,
        tier=value_of(BlueprintTier, record.tier.upper()),
        stage=record.stage,
        risk=record.risk,
        interface_kinds=record.kinds,
        parameters=[_bound(parameter) for parameter in record.parameters],
        approval=Approval(
            approved_by=record.approval.approved_by,
            approved_at=approved.timestamp(),
            note=record.approval.note,
        ),
        replacement=record.output == "replacement",
        code_hash=record.code_hash,
    )


def _tier(value: BlueprintTier.ValueType) -> Tier:
    try:
        name = short_name(BlueprintTier, value).lower()
    except ValueError:
        name = str(value)
    for tier in TIERS:
        if tier == name:
            return tier
    raise QueryRefusedError(f"unknown tier {name!r}: there are {', '.join(TIERS)}")


def _bound(parameter: ParameterRecord) -> ParameterBound:
    number = _WHOLE.fullmatch(parameter.preset)
    return ParameterBound(
        name=parameter.name,
        minimum=parameter.low,
        maximum=parameter.high,
        preset=math.nan if number is None else float(parameter.preset),
    )


def _decimal(single: float) -> float:
    """Return what a number in single precision was written as: 0.4, not 0.4000000059."""
    return float(f"{single:.7g}")
