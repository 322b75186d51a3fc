"""A plain example of every payload, the reference messages of the size limits among them.

`complete_examples` has one with every field.
"""

from google.protobuf.message import Message

from esper_async import leyline
from esper_async.leyline import long_name


def enum_value(name: str, short: str) -> int:
    """Return the number of an enum's value by its short name."""
    enum = getattr(leyline, name)
    return enum.Value(long_name(enum, short))


def quantity(mean: float, *, estimated: bool = False) -> leyline.Quantity:
    """Return an interval of ± 0.01 over 360 samples."""
    return leyline.Quantity(
        mean=mean,
        low=mean - 0.01,
        high=mean + 0.01,
        n=360,
        estimated=estimated,
        unit=enum_value("QuantityUnit", "NATS"),
        paired_by=enum_value("PairedBy", "SAMPLE"),
    )


def state_packet() -> leyline.SystemStatePacket:
    """Return the reference state: 3 seeds, 6 metrics, a hardware block."""
    seeds = [
        leyline.SeedState(
            seed_id=f"s{index}",
            stage=enum_value("SeedLifecycleStage", "TRAINING"),
            gradient_norm=0.25 + index,
            learning_rate=0.01,
            layer_depth=index,
            age_epochs=4,
            risk_score=0.125,
        )
        for index in range(3)
    ]
    return leyline.SystemStatePacket(
        version=1,
        packet_id="digits-1/12",
        created_at=1_790_000_000.25,
        run_id="digits-1",
        experiment="digits",
        global_step=1_560,
        epoch=12,
        boundary=12,
        validation_accuracy=0.875,
        validation_loss=0.5,
        training_loss=0.375,
        metrics={"gradient": 1.5, "speed": 90_000.0, "gap": 0.125},
        primary_metric="validation_loss",
        primary_direction=enum_value("MetricDirection", "MINIMISE"),
        hardware=leyline.HardwareContext(
            device_type="cpu",
            memory_total_bytes=8 << 30,
            memory_available_bytes=5 << 30,
            temperature_celsius=51.5,
            utilisation=0.75,
            compute_capability="avx2",
        ),
        seeds=seeds,
    )


def germinate() -> leyline.AdaptationCommand:
    """Return a tournament of two candidates."""
    candidates = [
        leyline.SeedCandidate(
            site="block.1",
            blueprint_id=blueprint,
            parameters={"expansion": 2.0},
            blend=enum_value("BlendMode", "RESIDUAL"),
            ramp=leyline.Ramp(boundaries=3, target=1.0),
        )
        for blueprint in ("BP009", "BP016")
    ]
    return leyline.AdaptationCommand(
        version=1,
        command_id="digits-1/c7",
        run_id="digits-1",
        boundary=7,
        type=enum_value("CommandType", "SEED"),
        execution_deadline_ms=18,
        issued_at=1_790_000_000.5,
        issued_by="tamiyo",
        nonce=bytes(range(16)),
        risk=leyline.RiskRationale(
            level=enum_value("RiskLevel", "GREEN"), score=0.125, reason_code="plateau"
        ),
        seed=leyline.SeedCommand(
            operation=enum_value("SeedOperation", "GERMINATE"), candidates=candidates
        ),
    )


def field_report() -> leyline.FieldReport:
    """Return the reference report: one candidate, no notes, all three quantities."""
    return leyline.FieldReport(
        version=1,
        report_id="digits-1/r7",
        command_id="digits-1/c7",
        run_id="digits-1",
        seed_id="digits-1/s1",
        site="block.1",
        blueprint_id="BP009",
        outcome=enum_value("FieldReportOutcome", "SUCCESS"),
        observed_change=leyline.ObservedChange(
            accuracy=0.03125, loss=-0.125, step_time_ms=0.25, memory_bytes=-4_096
        ),
        clean_contribution=quantity(0.0625),
        dependence=quantity(0.5),
        benefit_vs_twin=quantity(0.03125, estimated=True),
        window_boundaries=3,
        issued_at=1_790_000_001.5,
        policy_version="heuristic-1",
        boundary=16,
    )


def telemetry_packet() -> leyline.TelemetryPacket:
    """Return the reference telemetry: ten points."""
    points = [
        leyline.MetricPoint(name=f"tolaria.metric_{index}", value=index / 2, unit="ms")
        for index in range(10)
    ]
    return leyline.TelemetryPacket(
        version=1,
        packet_id="t1",
        created_at=1_790_000_000.25,
        source="tolaria",
        level=enum_value("TelemetryLevel", "INFO"),
        points=points,
        events=[leyline.TelemetryEvent(name="run.record", fields={"json": "{}"})],
        health=leyline.SystemHealth(status=enum_value("HealthStatus", "HEALTHY"), summary="well"),
        run_id="digits-1",
    )


def decision_record() -> leyline.DecisionRecord:
    """Return a decision with a small graph, one head and one alternative."""
    graph = leyline.DecisionGraph(
        nodes=[leyline.NodeSet(type="seed", width=2, features=[0.5, 0.0], missing=[1])],
        edges=[leyline.EdgeSet(relation="on", sources=[0], targets=[0])],
    )
    return leyline.DecisionRecord(
        version=1,
        decision_id="digits-1/d7",
        run_id="digits-1",
        boundary=7,
        command=germinate(),
        policy="heuristic",
        policy_version="heuristic-1",
        log_probability=-0.5,
        value=0.0,
        reason="plateau",
        graph=graph,
        heads=[
            leyline.PolicyHead(
                name="operation", legal=[True, False], log_probabilities=[-0.5, -1.0], chosen=0
            )
        ],
        alternatives=[leyline.Alternative(site="block.2", blueprint_id="BP009")],
    )


def payloads() -> dict[str, Message]:
    """Return an example of every payload by type name."""
    site = leyline.SiteInterface(
        kind="spatial", shape=[8, 4, 4], dtype="float32", layout="contiguous"
    )
    examples: list[Message] = [
        state_packet(),
        germinate(),
        field_report(),
        telemetry_packet(),
        decision_record(),
        leyline.BlueprintDescriptor(
            version=1,
            blueprint_id="BP009",
            name="residual_block",
            tier=enum_value("BlueprintTier", "PRODUCTION"),
            stage=1,
            risk=0.25,
            interface_kinds=["spatial"],
            parameters=[leyline.ParameterBound(name="expansion", minimum=1, maximum=4, preset=2)],
            approval=leyline.Approval(approved_by="review", approved_at=1_790_000_000.0),
        ),
        leyline.BlueprintQuery(version=1, query_id="q1", interface=site, risk_ceiling=0.5),
        leyline.KernelRequest(version=1, request_id="k1", blueprint_id="BP009", interface=site),
        leyline.KernelReady(version=1, kernel_id="k1", interface=site, forward_ms=0.5),
        leyline.KernelError(version=1, request_id="k1", reason="numerics", attempts=2),
        leyline.CatalogueUpdate(
            version=1, update_id="u1", lifecycle=enum_value("AssetLifecycle", "ACTIVE")
        ),
        leyline.PolicyUpdate(version=1, update_id="p1", artifact_sha256=bytes(32)),
        leyline.EmergencySignal(
            version=1,
            signal_id="e1",
            level=enum_value("EmergencyLevel", "SEVERE"),
            reason="NaN loss",
        ),
        leyline.Alert(
            version=1, alert_id="a1", state=enum_value("AlertState", "FIRING"), labels={"run": "x"}
        ),
    ]
    return {type(message).__name__: message for message in examples}
