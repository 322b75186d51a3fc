"""The reference messages of the contracts' bars, built as the parts of Esper build them.

The six metrics of the reference state are the three with fields of their own (both losses and the
accuracy) and three in the map. Six in the map besides would be nine: that packet is larger than
the bar unless its names are short, and so is the packet of a run of the supervisor. Both are
measured as well.
"""

from esper_async.leyline import (
    FieldReport,
    HardwareContext,
    StateForm,
    SystemStatePacket,
    TelemetryPacket,
)
from esper_async.leyline.v1 import enums_pb2 as enums
from esper_async.leyline.v1.enums_pb2 import SEED_LIFECYCLE_STAGE_TRAINING

_METRICS = {"gradient": 1.5, "speed": 90_000.0, "gap": 0.125}
_FURTHER_METRICS = {"twin_loss": 0.5, "averaged_loss": 0.5, "f1": 0.875}
_SEEDS = ("s0", "s1", "s2")
_NAMES = tuple(f"tolaria.metric_{index}" for index in range(10))
FORM = StateForm(
    "digits-1",
    "digits",
    primary_metric="validation_loss",
    primary_direction=enums.METRIC_DIRECTION_MINIMISE,
    hardware=HardwareContext(
        device_type="cpu", memory_total_bytes=8 << 30, compute_capability="avx2"
    ),
)


def state() -> SystemStatePacket:
    """Build the reference state: 3 seeds, 6 metrics, a hardware block."""
    hardware = FORM.hardware
    hardware.memory_available_bytes = 5 << 30
    hardware.temperature_celsius = 51.5
    hardware.utilisation = 0.75
    packet = FORM.begin(12, seeds=3)
    packet.packet_id, packet.created_at = "digits-1/12", 1_790_000_000.25
    packet.global_step, packet.epoch = 1_560, 12
    packet.validation_accuracy, packet.validation_loss = 0.875, 0.5
    packet.training_loss = 0.375
    FORM.metrics.update(_METRICS)
    for depth, seed in enumerate(FORM.seeds):
        seed.seed_id, seed.stage = _SEEDS[depth], SEED_LIFECYCLE_STAGE_TRAINING
        seed.layer_depth, seed.age_epochs = depth, 4
        seed.gradient_norm, seed.learning_rate = 0.25 + depth, 0.01
        seed.risk_score = 0.125
    return packet


def state_with_nine_metrics() -> SystemStatePacket:
    """Build the reference state with six metrics in the map instead of three."""
    packet = _copied(state())
    packet.metrics.update(_FURTHER_METRICS)
    return packet


def state_of_a_run() -> SystemStatePacket:
    """Build the reference state as a run fills it: a longer id, and where each seed is."""
    packet = _copied(state())
    packet.run_id = "digits-20260921-142640-9f2c41"
    packet.packet_id = f"{packet.run_id}/b{packet.boundary}"
    for seed in packet.seeds:
        seed.site, seed.blueprint_id, seed.alpha = "block.1", "BP009", 0.5
    return packet


def _copied(packet: SystemStatePacket) -> SystemStatePacket:
    """Return a packet that is not the form's, which keeps what is the run's."""
    copy = SystemStatePacket()
    copy.CopyFrom(packet)
    return copy


def telemetry() -> TelemetryPacket:
    """Build the reference telemetry: ten points."""
    packet = TelemetryPacket(
        version=1,
        packet_id="t1",
        created_at=1_790_000_000.25,
        source="tolaria",
        level=enums.TELEMETRY_LEVEL_INFO,
        run_id="digits-1",
    )
    add = packet.points.add
    for name in _NAMES:
        point = add()
        point.name, point.value, point.unit = name, 0.5, "ms"
    return packet


def field_report() -> FieldReport:
    """Build the reference report: one candidate, no notes, all three quantities."""
    report = FieldReport(
        version=1,
        report_id="digits-1/r7",
        command_id="digits-1/c7",
        run_id="digits-1",
        seed_id="digits-1/s1",
        site="block.1",
        blueprint_id="BP009",
        outcome=enums.FIELD_REPORT_OUTCOME_SUCCESS,
        window_boundaries=3,
        issued_at=1_790_000_001.5,
        policy_version="heuristic-1",
        boundary=16,
    )
    change = report.observed_change
    change.accuracy, change.loss, change.step_time_ms = 0.03125, -0.125, 0.25
    for quantity in (report.clean_contribution, report.dependence, report.benefit_vs_twin):
        quantity.mean, quantity.low, quantity.high = 0.0625, 0.0525, 0.0725
        quantity.n = 360
        quantity.unit = enums.QUANTITY_UNIT_NATS
        quantity.paired_by = enums.PAIRED_BY_SAMPLE
    return report
