"""One table from payload type to message class, topic and class of delivery, used by everybody."""

from dataclasses import dataclass, field

from google.protobuf.message import Message

from esper_async.leyline.errors import Refusal, Refused
from esper_async.leyline.limits import LIMITS
from esper_async.leyline.v1 import catalogue_pb2 as catalogue
from esper_async.leyline.v1 import commands_pb2 as commands
from esper_async.leyline.v1 import control_pb2 as control
from esper_async.leyline.v1 import decisions_pb2 as decisions
from esper_async.leyline.v1 import reports_pb2 as reports
from esper_async.leyline.v1 import state_pb2 as state
from esper_async.leyline.v1 import telemetry_pb2 as telemetry
from esper_async.leyline.v1.enums_pb2 import (
    DELIVERY_GUARANTEE_AT_LEAST_ONCE,
    DELIVERY_GUARANTEE_AT_MOST_ONCE,
    MESSAGE_PRIORITY_CRITICAL,
    MESSAGE_PRIORITY_HIGH,
    MESSAGE_PRIORITY_LOW,
    MESSAGE_PRIORITY_NORMAL,
    DeliveryGuarantee,
    MessagePriority,
)


@dataclass(frozen=True, slots=True)
class Topic:
    """A stream of the bus. Nothing a required group has not acknowledged is ever trimmed."""

    name: str
    required_groups: tuple[str, ...] = ()
    retention_s: float | None = None

    @property
    def time_to_live_ms(self) -> int:
        """How long after its making a message of this topic may still be handled; 0: for ever."""
        return int((self.retention_s or 0.0) * 1000)

    @property
    def delivery(self) -> DeliveryGuarantee.ValueType:
        """What the bus does for its messages: nobody keeps what no group is required to read."""
        if self.required_groups:
            return DELIVERY_GUARANTEE_AT_LEAST_ONCE
        return DELIVERY_GUARANTEE_AT_MOST_ONCE


@dataclass(frozen=True, slots=True)
class PayloadSpec:
    """How one message type travels.

    `identity` names the field that identifies a message for ever; a durable message's event id
    is made from it, so that publishing it again is recognised. `fresh` messages are refused when
    they are old, from the future or a replay. `answers` names the field with the id of what the
    message answers, its correlation id.
    """

    message: type[Message]
    topic: Topic
    identity: str
    priority: MessagePriority.ValueType = MESSAGE_PRIORITY_NORMAL
    durable: bool = False
    fresh: bool = False
    answers: str = ""
    name: str = field(init=False)
    """The payload type as it stands in an envelope."""
    run: str = field(init=False)
    """The field with the run that the message is about; empty for a type that has none."""

    def __post_init__(self) -> None:
        described = self.message.DESCRIPTOR
        object.__setattr__(self, "name", described.name)
        object.__setattr__(self, "run", "run_id" if "run_id" in described.fields_by_name else "")


TOPICS: dict[str, Topic] = {
    topic.name: topic
    for topic in (
        Topic("system_state", ("tamiyo",)),
        Topic("commands", ("tolaria",)),
        Topic("decisions", ("simic",)),
        Topic("telemetry", retention_s=LIMITS.telemetry_retention_s),
        Topic("field_reports", ("simic",)),
        Topic("policy_updates", ("tamiyo",)),
        Topic("kernel_requests", ("tezzeret",)),
        Topic("kernel_events", ("urza",)),
        Topic("alerts", ("nissa",)),
        Topic("control", ("tolaria",)),
    )
}

PAYLOADS: dict[str, PayloadSpec] = {
    spec.name: spec
    for spec in (
        PayloadSpec(state.SystemStatePacket, TOPICS["system_state"], "packet_id"),
        PayloadSpec(
            commands.AdaptationCommand,
            TOPICS["commands"],
            "command_id",
            MESSAGE_PRIORITY_HIGH,
            fresh=True,
        ),
        PayloadSpec(decisions.DecisionRecord, TOPICS["decisions"], "decision_id", durable=True),
        PayloadSpec(
            telemetry.TelemetryPacket, TOPICS["telemetry"], "packet_id", MESSAGE_PRIORITY_LOW
        ),
        PayloadSpec(
            reports.FieldReport,
            TOPICS["field_reports"],
            "report_id",
            durable=True,
            answers="command_id",
        ),
        PayloadSpec(control.PolicyUpdate, TOPICS["policy_updates"], "update_id", durable=True),
        PayloadSpec(
            control.EmergencySignal,
            TOPICS["control"],
            "signal_id",
            MESSAGE_PRIORITY_CRITICAL,
            durable=True,
        ),
        PayloadSpec(control.Alert, TOPICS["alerts"], "alert_id", MESSAGE_PRIORITY_HIGH),
        PayloadSpec(catalogue.BlueprintQuery, TOPICS["kernel_requests"], "query_id"),
        PayloadSpec(catalogue.KernelRequest, TOPICS["kernel_requests"], "request_id"),
        PayloadSpec(catalogue.BlueprintDescriptor, TOPICS["kernel_events"], "blueprint_id"),
        PayloadSpec(
            catalogue.KernelReady, TOPICS["kernel_events"], "kernel_id", answers="request_id"
        ),
        PayloadSpec(
            catalogue.KernelError, TOPICS["kernel_events"], "request_id", answers="request_id"
        ),
        PayloadSpec(catalogue.CatalogueUpdate, TOPICS["kernel_events"], "update_id"),
    )
}

_BY_CLASS: dict[type[Message], PayloadSpec] = {spec.message: spec for spec in PAYLOADS.values()}


def spec_of(message: Message) -> PayloadSpec:
    """Return how `message` travels. Raises Refused for a type that is not a bus payload."""
    spec = _BY_CLASS.get(type(message))
    if spec is None:
        name = type(message).__name__
        raise Refused(Refusal.UNKNOWN_TYPE, f"{name} does not travel on its own")
    return spec
