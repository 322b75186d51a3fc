"""Leyline: the contracts between the parts. Messages, enums, limits, signing; it runs nothing.

Messages and enums are generated from `proto/esper/leyline/v1`. `registry` says which topic a
message belongs to, `envelope` wraps and unwraps it, `admission` refuses what must not be acted
on. A quantity that was not measured is an absent message, never 0.
"""

from esper_async.leyline.admission import Admission
from esper_async.leyline.envelope import unwrap, wrap
from esper_async.leyline.errors import Refusal, Refused
from esper_async.leyline.keys import load_key, load_signer
from esper_async.leyline.limits import LIMITS, SCHEMA_VERSION, Limits
from esper_async.leyline.names import long_name, short_name, value_of
from esper_async.leyline.nonces import NonceStore
from esper_async.leyline.registry import PAYLOADS, TOPICS, PayloadSpec, Topic, spec_of
from esper_async.leyline.signing import Signer, sign_command, verify_command
from esper_async.leyline.state_form import StateForm
from esper_async.leyline.v1.catalogue_pb2 import (
    Approval,
    BlueprintDescriptor,
    BlueprintQuery,
    CatalogueUpdate,
    KernelError,
    KernelReady,
    KernelRequest,
    ParameterBound,
    SiteInterface,
)
from esper_async.leyline.v1.commands_pb2 import (
    AdaptationCommand,
    BreakerRequest,
    EmergencyRequest,
    NoOperation,
    OptimizerAdjustment,
    PauseRequest,
    Ramp,
    RiskRationale,
    RollbackTarget,
    SeedCandidate,
    SeedCommand,
)
from esper_async.leyline.v1.control_pb2 import (
    Alert,
    EmergencySignal,
    PolicyUpdate,
)
from esper_async.leyline.v1.decisions_pb2 import (
    Alternative,
    ChoiceSet,
    DecisionGraph,
    DecisionRecord,
    EdgeSet,
    NodeSet,
    PlacementFeatures,
    PolicyHead,
)
from esper_async.leyline.v1.enums_pb2 import (
    AlertState,
    AssetLifecycle,
    BlendMode,
    BlueprintTier,
    CircuitBreakerState,
    CommandType,
    CompileStrategy,
    DeliveryGuarantee,
    EmergencyLevel,
    FieldReportOutcome,
    HealthStatus,
    MessagePriority,
    MetricDirection,
    PairedBy,
    PayloadEncoding,
    QuantityUnit,
    RampSchedule,
    RiskLevel,
    SeedLifecycleGate,
    SeedLifecycleStage,
    SeedOperation,
    TelemetryLevel,
)
from esper_async.leyline.v1.envelope_pb2 import (
    EventEnvelope,
)
from esper_async.leyline.v1.reports_pb2 import (
    FieldReport,
    ObservedChange,
    Quantity,
    TournamentLoser,
)
from esper_async.leyline.v1.state_pb2 import (
    HardwareContext,
    SeedState,
    SystemStatePacket,
)
from esper_async.leyline.v1.telemetry_pb2 import (
    MetricPoint,
    SystemHealth,
    TelemetryEvent,
    TelemetryPacket,
    TraceSpan,
)

__all__ = [
    "LIMITS",
    "PAYLOADS",
    "SCHEMA_VERSION",
    "TOPICS",
    "AdaptationCommand",
    "Admission",
    "Alert",
    "AlertState",
    "Alternative",
    "Approval",
    "AssetLifecycle",
    "BlendMode",
    "BlueprintDescriptor",
    "BlueprintQuery",
    "BlueprintTier",
    "BreakerRequest",
    "CatalogueUpdate",
    "ChoiceSet",
    "CircuitBreakerState",
    "CommandType",
    "CompileStrategy",
    "DecisionGraph",
    "DecisionRecord",
    "DeliveryGuarantee",
    "EdgeSet",
    "EmergencyLevel",
    "EmergencyRequest",
    "EmergencySignal",
    "EventEnvelope",
    "FieldReport",
    "FieldReportOutcome",
    "HardwareContext",
    "HealthStatus",
    "KernelError",
    "KernelReady",
    "KernelRequest",
    "Limits",
    "MessagePriority",
    "MetricDirection",
    "MetricPoint",
    "NoOperation",
    "NodeSet",
    "NonceStore",
    "ObservedChange",
    "OptimizerAdjustment",
    "PairedBy",
    "ParameterBound",
    "PauseRequest",
    "PayloadEncoding",
    "PayloadSpec",
    "PlacementFeatures",
    "PolicyHead",
    "PolicyUpdate",
    "Quantity",
    "QuantityUnit",
    "Ramp",
    "RampSchedule",
    "Refusal",
    "Refused",
    "RiskLevel",
    "RiskRationale",
    "RollbackTarget",
    "SeedCandidate",
    "SeedCommand",
    "SeedLifecycleGate",
    "SeedLifecycleStage",
    "SeedOperation",
    "SeedState",
    "Signer",
    "SiteInterface",
    "StateForm",
    "SystemHealth",
    "SystemStatePacket",
    "TelemetryEvent",
    "TelemetryLevel",
    "TelemetryPacket",
    "Topic",
    "TournamentLoser",
    "TraceSpan",
    "load_key",
    "load_signer",
    "long_name",
    "short_name",
    "sign_command",
    "spec_of",
    "unwrap",
    "value_of",
    "verify_command",
    "wrap",
]
