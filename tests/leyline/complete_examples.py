"""Every field of every message in some example: one of each payload, one of each command.

What is appended to a message goes into an example of its own, as old bytes never change.
"""

from google.protobuf.message import Message

from esper_async import leyline
from tests.leyline import examples
from tests.leyline.examples import enum_value, quantity

_TIME = 1_790_000_000.25
_DIGEST = bytes(range(32))


def complete() -> dict[str, Message]:
    """Return the examples by the name of their golden file."""
    payloads: list[Message] = [
        _state(),
        _report(),
        _telemetry(),
        _decision(),
        _blueprint(),
        _query(),
        _request(),
        _ready(),
        _error(),
        _catalogue_update(),
        _policy_update(),
        _emergency(),
        _alert(),
        _envelope(),
    ]
    named = {f"{type(message).__name__}-complete": message for message in payloads}
    named["KernelRequest-compilation"] = _compilation()
    named["FieldReport-costs"] = _costs()
    named["DecisionRecord-placements"] = _placements()
    named["DecisionRecord-choices"] = _choices()
    return named | {f"AdaptationCommand-{name}": each for name, each in commands().items()}


def commands() -> dict[str, leyline.AdaptationCommand]:
    """Return a command with each payload; GERMINATE acts on a site, the others on a seed or run."""
    germinate = _command("SEED", site="block.1", seed=_germination())
    tune = leyline.SeedCommand(
        operation=enum_value("SeedOperation", "FINE_TUNE"), learning_rate=0.125, ramp=_ramp()
    )
    optimizer = leyline.OptimizerAdjustment(learning_rate_factor=0.5, gradient_clip_norm=1.5)
    breaker = leyline.BreakerRequest(
        breaker="oona.publish", state=enum_value("CircuitBreakerState", "HALF_OPEN")
    )
    emergency = leyline.EmergencyRequest(
        level=enum_value("EmergencyLevel", "SEVERE"), reason="loss is not finite"
    )
    return {
        "germinate": germinate,
        "fine_tune": _command("SEED", seed_id="digits-1/s1", seed=tune),
        "optimizer": _command("OPTIMIZER", optimizer=optimizer),
        "breaker": _command("CIRCUIT_BREAKER", breaker=breaker),
        "rollback": _command("ROLLBACK", rollback=leyline.RollbackTarget(boundary=5, full=True)),
        "pause": _command("PAUSE", pause=leyline.PauseRequest(resume=True, boundaries=3)),
        "emergency": _command("EMERGENCY", emergency=emergency),
        "no_operation": _command("NO_OPERATION", no_operation=leyline.NoOperation()),
    }


def _command(
    kind: str, *, site: str | None = None, seed_id: str | None = None, **payload: Message
) -> leyline.AdaptationCommand:
    return leyline.AdaptationCommand(
        version=1,
        command_id="digits-1/c7",
        run_id="digits-1",
        boundary=7,
        type=enum_value("CommandType", kind),
        site=site,
        seed_id=seed_id,
        execution_deadline_ms=18,
        issued_at=_TIME,
        issued_by="tamiyo",
        nonce=bytes(range(16)),
        risk=leyline.RiskRationale(
            level=enum_value("RiskLevel", "YELLOW"),
            score=0.375,
            reason_code="plateau",
            mitigations=["longer_ramp", "lower_rate"],
        ),
        signature=_DIGEST,
        **payload,  # type: ignore[arg-type]
    )


def _ramp() -> leyline.Ramp:
    return leyline.Ramp(schedule=enum_value("RampSchedule", "COSINE"), boundaries=3, target=0.75)


def _germination() -> leyline.SeedCommand:
    return leyline.SeedCommand(
        operation=enum_value("SeedOperation", "GERMINATE"),
        candidates=[
            leyline.SeedCandidate(
                site="block.1",
                blueprint_id="BP009",
                parameters={"expansion": 2.0, "groups": 4.0},
                blend=enum_value("BlendMode", "PER_CHANNEL"),
                ramp=_ramp(),
            )
        ],
    )


def _interface() -> leyline.SiteInterface:
    return leyline.SiteInterface(
        kind="spatial", shape=[8, 4, 4], dtype="float32", layout="contiguous"
    )


def _state() -> leyline.SystemStatePacket:
    packet = examples.state_packet()
    packet.hardware.device_id = "0"
    for seed in packet.seeds:
        seed.metrics.update({"norm": 0.5, "shadow_loss": 0.25})
        seed.site, seed.blueprint_id, seed.alpha = "block.1", "BP009", 0.5
    return packet


def _report() -> leyline.FieldReport:
    report = examples.field_report()
    report.observed_change.metrics["f1"] = 0.0625
    report.mitigations.extend(["longer_ramp", "lower_rate"])
    report.notes = "the second of two"
    report.losers.add(
        seed_id="digits-1/s2",
        site="block.2",
        blueprint_id="BP016",
        clean_contribution=quantity(-0.125),
        failed_gate=enum_value("SeedLifecycleGate", "G2_STABILITY"),
    )
    return report


def _costs() -> leyline.FieldReport:
    """Return a report with what was added to it since the release."""
    report = examples.field_report()
    report.stage = enum_value("SeedLifecycleStage", "FOSSILIZED")
    report.parameter_ratio, report.compute_ratio = 0.5, 0.25
    return report


def _placements() -> leyline.DecisionRecord:
    """Return a decision with what was added to it since the release."""
    record = examples.decision_record()
    record.placements.add(version="placement-1", values=[1.0, 0.25])
    return record


def _choices() -> leyline.DecisionRecord:
    """Return a decision with everything that could have been drawn; added since the release."""
    record = examples.decision_record()
    record.choices.CopyFrom(
        leyline.ChoiceSet(
            sites=["block.1", "block.2"],
            depths=[1, 2],
            blueprints=["BP009"],
            blueprint_facts=[1.0, 0.25, 0.0, 0.0],
            site_of=[0, 1],
            blueprint_of=[0, 0],
            parameters=[130, 300],
            host_parameters=1000,
            probabilities=[0.25, 0.5],
            idle_probability=0.25,
            chosen=1,
        )
    )
    return record


def _telemetry() -> leyline.TelemetryPacket:
    packet = examples.telemetry_packet()
    packet.points[0].labels.update({"run": "digits-1", "part": "apply"})
    packet.events.add(
        name="seed_culled",
        created_at=_TIME,
        level=enum_value("TelemetryLevel", "WARNING"),
        message="s1 was culled",
        fields={"seed": "s1"},
    )
    packet.spans.add(
        trace_id=bytes(range(16)),
        span_id=bytes(range(8)),
        parent_span_id=bytes(range(8, 16)),
        name="boundary",
        started_at=_TIME,
        duration_ms=4.5,
        attributes={"part": "decision"},
    )
    packet.health.indicators["queue_depth"] = 12.0
    return packet


def _decision() -> leyline.DecisionRecord:
    record = examples.decision_record()
    record.command.CopyFrom(_command("SEED", site="block.1", seed=_germination()))
    record.global_step = 910
    record.decided_at = _TIME
    record.value = 0.25
    record.heads[0].chosen = 1
    record.graph.nodes[0].names.append("s1")
    record.graph.edges[0].MergeFrom(
        leyline.EdgeSet(source_type="seed", target_type="site", width=1, features=[0.5])
    )
    record.alternatives.add(
        operation=enum_value("SeedOperation", "CULL"),
        site="block.1",
        blueprint_id="BP009",
        seed_id="digits-1/s1",
        log_probability=-2.5,
    )
    return record


def _blueprint() -> leyline.BlueprintDescriptor:
    return leyline.BlueprintDescriptor(
        version=1,
        blueprint_id="BP009",
        name="residual_block",
        description="Two convolutions and a way around them.",
        tier=enum_value("BlueprintTier", "PRODUCTION"),
        stage=1,
        risk=0.25,
        interface_kinds=["spatial", "sequence"],
        parameters=[leyline.ParameterBound(name="expansion", minimum=1, maximum=4, preset=2)],
        approval=leyline.Approval(approved_by="review", approved_at=_TIME, note="as it was asked"),
        replacement=True,
        code_hash="9f2c",
    )


def _query() -> leyline.BlueprintQuery:
    return leyline.BlueprintQuery(
        version=1,
        query_id="q1",
        run_id="digits-1",
        requested_by="tamiyo",
        tiers=[
            enum_value("BlueprintTier", "PRODUCTION"),
            enum_value("BlueprintTier", "EXPERIMENTAL"),
        ],
        maximum_stage=2,
        interface=_interface(),
        risk_ceiling=0.5,
        parameter_budget=10_000,
        flop_budget=1 << 40,
    )


def _request() -> leyline.KernelRequest:
    return leyline.KernelRequest(
        version=1,
        request_id="k1",
        run_id="digits-1",
        blueprint_id="BP009",
        code_hash="9f2c",
        interface=_interface(),
        parameters={"expansion": 2.0, "groups": 4.0},
        torch_version="2.8.0",
        device="cpu",
        strategy=enum_value("CompileStrategy", "FAST"),
    )


def _compilation() -> leyline.KernelRequest:
    """Return a request with what was added to it since the release."""
    request = _request()
    request.batch, request.threads = 32, 1
    return request


def _ready() -> leyline.KernelReady:
    return leyline.KernelReady(
        version=1,
        kernel_id="k1",
        request_id="digits-1:spatial:BP009",
        blueprint_id="BP009",
        interface=_interface(),
        certificate_key="9f2c-spatial",
        artifact_sha256=_DIGEST,
        strategy=enum_value("CompileStrategy", "STANDARD"),
        forward_ms=0.5,
        backward_ms=1.5,
        eager_forward_ms=0.75,
        eager_backward_ms=1.75,
        largest_difference=0.0009765625,
        parameters=1_160,
        flops=74_240,
        memory_bytes=65_536,
    )


def _error() -> leyline.KernelError:
    return leyline.KernelError(
        version=1,
        request_id="digits-1:spatial:BP009",
        blueprint_id="BP009",
        interface=_interface(),
        strategy=enum_value("CompileStrategy", "AGGRESSIVE"),
        reason="numerics",
        attempts=2,
        retryable=True,
    )


def _catalogue_update() -> leyline.CatalogueUpdate:
    return leyline.CatalogueUpdate(
        version=1,
        update_id="u1",
        asset_id="blueprint:BP009",
        asset_version=3,
        asset_sha256=_DIGEST,
        lifecycle=enum_value("AssetLifecycle", "QUARANTINED"),
        updated_at=_TIME,
        reason="its checksum differs",
    )


def _policy_update() -> leyline.PolicyUpdate:
    return leyline.PolicyUpdate(
        version=1,
        update_id="p1",
        policy="learned",
        policy_version="learned-4",
        parent_version="learned-3",
        artifact_sha256=_DIGEST,
        schema_digest="41ab",
        validation_id="v4",
        rollback=True,
        issued_at=_TIME,
        issued_by="simic",
    )


def _emergency() -> leyline.EmergencySignal:
    return leyline.EmergencySignal(
        version=1,
        signal_id="e1",
        run_id="digits-1",
        level=enum_value("EmergencyLevel", "CRITICAL"),
        reason="loss is not finite",
        issued_at=_TIME,
        issued_by="operator",
    )


def _alert() -> leyline.Alert:
    return leyline.Alert(
        version=1,
        alert_id="a1",
        name="training_latency_high",
        level=enum_value("TelemetryLevel", "ERROR"),
        state=enum_value("AlertState", "RESOLVED"),
        summary="Three boundaries took over 18 ms.",
        started_at=_TIME,
        ended_at=_TIME + 60.0,
        labels={"run": "digits-1"},
        value=21.5,
        threshold=18.0,
        routes=["page", "log"],
    )


def _envelope() -> leyline.EventEnvelope:
    return leyline.EventEnvelope(
        version=1,
        event_id="FieldReport:digits-1/r7",
        type="field_reports",
        source="tolaria/digits-1",
        created_at=_TIME,
        processing_deadline_ms=500,
        time_to_live_ms=3_600_000,
        payload_type="FieldReport",
        payload_encoding=enum_value("PayloadEncoding", "PROTOBUF"),
        payload=examples.field_report().SerializeToString(deterministic=True),
        priority=enum_value("MessagePriority", "NORMAL"),
        correlation_id="digits-1/c7",
        delivery=enum_value("DeliveryGuarantee", "AT_LEAST_ONCE"),
        attempts_allowed=3,
        signature=_DIGEST,
        attempts_made=6,
        routing_keys=["digits-1"],
        sequence=7,
        incarnation=2**63 + 1,
    )
