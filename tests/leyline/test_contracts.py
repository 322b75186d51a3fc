"""The protos keep their promises: enums, versions, golden bytes, round trips, no breakage."""

import math
from pathlib import Path

import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from hypothesis import given, settings
from hypothesis import strategies as st

from esper_async import leyline
from esper_async.leyline import generate
from esper_async.leyline.v1 import enums_pb2
from esper_async.leyline.validation import validate
from esper_async.study.bench import reference_messages
from tests.leyline import examples
from tests.leyline.complete_examples import commands, complete

GOLDEN = Path(__file__).parent / "golden"

ORDER = {
    "SeedLifecycleStage": "UNKNOWN DORMANT GERMINATED TRAINING BLENDING SHADOWING PROBATIONARY "
    "FOSSILIZED CULLED EMBARGOED RESETTING TERMINATED",
    "SeedLifecycleGate": "UNKNOWN G0_SANITY G1_GRADIENT_HEALTH G2_STABILITY G3_INTERFACE "
    "G4_SYSTEM_IMPACT G5_RESET",
    "HealthStatus": "UNKNOWN HEALTHY DEGRADED UNHEALTHY CRITICAL",
    "CircuitBreakerState": "UNKNOWN CLOSED OPEN HALF_OPEN",
    "CommandType": "UNKNOWN SEED ROLLBACK OPTIMIZER CIRCUIT_BREAKER PAUSE EMERGENCY "
    "STRUCTURAL_PRUNING NO_OPERATION",
    "SeedOperation": "UNKNOWN GERMINATE START_TRAINING START_GRAFTING STABILIZE EVALUATE "
    "FINE_TUNE FOSSILIZE CULL CANCEL",
    "MessagePriority": "UNSPECIFIED LOW NORMAL HIGH CRITICAL",
    "DeliveryGuarantee": "UNKNOWN AT_LEAST_ONCE AT_MOST_ONCE EXACTLY_ONCE",
    "TelemetryLevel": "UNSPECIFIED INFO WARNING ERROR CRITICAL",
    "FieldReportOutcome": "UNSPECIFIED SUCCESS NEUTRAL REGRESSION ABORTED",
    "BlueprintTier": "UNSPECIFIED PRODUCTION EXPERIMENTAL ADVERSARIAL",
}


def message_types() -> list[type[Message]]:
    return sorted(
        (
            each
            for name in leyline.__all__
            if isinstance(each := getattr(leyline, name), type) and issubclass(each, Message)
        ),
        key=lambda each: each.__name__,
    )


@pytest.mark.parametrize("name", ORDER)
def test_enum_values_stand_in_their_published_order(name: str) -> None:
    enum = getattr(leyline, name)
    names = [leyline.short_name(enum, number) for number in range(len(enum.values()))]
    assert names == ORDER[name].split()


def test_every_enum_begins_with_unknown_or_unspecified() -> None:
    for enum in enums_pb2.DESCRIPTOR.enum_types_by_name.values():
        assert enum.values_by_number[0].name.endswith(("_UNKNOWN", "_UNSPECIFIED")), enum.name


def test_every_message_and_enum_is_exported() -> None:
    for module in {each.__module__ for each in message_types()} | {enums_pb2.__name__}:
        descriptor = __import__(module, fromlist=["DESCRIPTOR"]).DESCRIPTOR
        declared = {*descriptor.message_types_by_name, *descriptor.enum_types_by_name}
        assert declared <= set(leyline.__all__)


def test_every_payload_has_a_version_and_its_identity() -> None:
    for spec in leyline.PAYLOADS.values():
        fields = spec.message.DESCRIPTOR.fields_by_name
        assert fields["version"].number == 1
        assert fields[spec.identity].type == FieldDescriptor.TYPE_STRING


def test_every_payload_has_an_example() -> None:
    assert examples.payloads().keys() == leyline.PAYLOADS.keys()


GOLDEN_MESSAGES = {**examples.payloads(), **complete()}


@pytest.mark.parametrize("name", sorted(GOLDEN_MESSAGES))
def test_the_wire_bytes_stay_what_they_were(name: str) -> None:
    """A golden file is written once, by hand; a difference means that the wire format moved."""
    message = GOLDEN_MESSAGES[name]
    golden = (GOLDEN / f"{name}.binpb").read_bytes()
    assert message.SerializeToString(deterministic=True) == golden
    assert type(message).FromString(golden) == message


def test_every_field_of_every_message_occurs_in_a_golden_file() -> None:
    declared = {field.full_name for kind in message_types() for field in kind.DESCRIPTOR.fields}
    found: set[str] = set()
    for path in GOLDEN.glob("*.binpb"):
        kind = getattr(leyline, path.stem.partition("-")[0])
        found |= _fields_set_in(kind.FromString(path.read_bytes()))
    assert sorted(declared - found) == []
    assert len(declared) > 300


def _fields_set_in(message: Message) -> set[str]:
    """Name every field that says something, here and in what is inside."""
    names: set[str] = set()
    for field, value in message.ListFields():
        names.add(field.full_name)
        if field.message_type is not None and not field.message_type.GetOptions().map_entry:
            for inner in value if field.is_repeated else [value]:
                names |= _fields_set_in(inner)
    return names


def test_every_choice_of_a_command_has_an_example_of_its_own() -> None:
    chosen = [command.WhichOneof("payload") for command in commands().values()]
    payload = leyline.AdaptationCommand.DESCRIPTOR.oneofs_by_name["payload"]
    assert set(chosen) == {field.name for field in payload.fields}
    assert {command.WhichOneof("target") for command in commands().values()} == {
        "site", "seed_id", None
    }  # fmt: skip


@pytest.mark.parametrize("name", sorted(GOLDEN_MESSAGES.keys() - {"EventEnvelope-complete"}))
def test_every_example_may_be_published(name: str) -> None:
    message = GOLDEN_MESSAGES[name]
    validate(message, leyline.spec_of(message))


@pytest.mark.parametrize(
    ("name", "incarnation", "since_then"),
    [
        ("EventEnvelope", 0, ["routing_keys"]),
        ("EventEnvelope-incarnation", 2**63 + 1, ["routing_keys"]),
        ("EventEnvelope-routed", 2**63 + 1, []),
    ],
)
def test_an_envelope_stays_what_it_was(name: str, incarnation: int, since_then: list[str]) -> None:
    """The first were written before envelopes had what is named; they say what they always said."""
    signer = leyline.Signer(bytes(range(32)))
    wire = leyline.wrap(
        examples.field_report(),
        source="tolaria/digits-1",
        signer=signer,
        created_at=1_790_000_002.0,
        sequence=7,
        incarnation=incarnation,
        correlation_id="digits-1/c7",
    )
    golden = (GOLDEN / f"{name}.binpb").read_bytes()
    assert (wire == golden) is not since_then
    message, envelope = leyline.unwrap(golden, signer=signer)
    assert message == examples.field_report()
    present = leyline.EventEnvelope.FromString(wire)
    for each in ("signature", *since_then):
        present.ClearField(each)
    envelope.ClearField("signature")
    assert envelope == present
    assert (envelope.sequence, envelope.incarnation) == (7, incarnation)


def test_a_quantity_that_was_not_measured_is_absent_and_a_measured_zero_is_not() -> None:
    report = leyline.FieldReport(version=1, benefit_vs_twin=leyline.Quantity())
    back = leyline.FieldReport.FromString(report.SerializeToString())
    assert back.HasField("benefit_vs_twin")
    assert not back.HasField("clean_contribution")


def test_the_reference_messages_stay_within_280_bytes() -> None:
    assert len(examples.state_packet().SerializeToString()) < 280
    assert len(examples.field_report().SerializeToString()) < 280
    assert len(complete()["FieldReport-costs"].SerializeToString()) < 280


def test_the_reference_state_has_six_metrics_in_all_and_larger_ones_are_measured_too() -> None:
    packet = examples.state_packet()
    fixed = [name for name in ("validation_accuracy", "validation_loss", "training_loss")
             if packet.HasField(name)]  # fmt: skip
    assert len(fixed) + len(packet.metrics) == 6
    assert reference_messages.state() == packet
    nine, run = reference_messages.state_with_nine_metrics(), reference_messages.state_of_a_run()
    assert len(nine.metrics) == 6
    assert all(seed.site and seed.blueprint_id and seed.HasField("alpha") for seed in run.seeds)
    assert reference_messages.state() == packet


def test_a_form_that_is_filled_again_keeps_nothing_of_the_last_boundary() -> None:
    reference = examples.state_packet()
    form = leyline.StateForm("digits-1", "digits", hardware=reference.hardware)
    blank = form.begin(1, seeds=2).SerializeToString()
    for seeds in (2, 3, 3, 2):
        packet = form.begin(7, seeds=seeds)
        packet.validation_accuracy = packet.validation_loss = packet.training_loss = 0.5
        form.metrics["gap"] = 0.5
        for seed in form.seeds:
            seed.seed_id, seed.alpha, seed.gradient_norm = "s", 0.5, 0.5
            seed.metrics["norm"] = 0.5
        assert len(packet.seeds) == seeds
        assert form.begin(1, seeds=2).SerializeToString() == blank


_SCALARS = {
    FieldDescriptor.TYPE_STRING: st.text(max_size=12),
    FieldDescriptor.TYPE_BYTES: st.binary(max_size=12),
    FieldDescriptor.TYPE_BOOL: st.booleans(),
    FieldDescriptor.TYPE_UINT32: st.integers(0, 2**32 - 1),
    FieldDescriptor.TYPE_FIXED64: st.integers(0, 2**64 - 1),
    FieldDescriptor.TYPE_UINT64: st.integers(0, 2**64 - 1),
    FieldDescriptor.TYPE_SINT64: st.integers(-(2**63), 2**63 - 1),
    FieldDescriptor.TYPE_DOUBLE: st.floats(allow_nan=False),
    FieldDescriptor.TYPE_FLOAT: st.floats(width=32, allow_nan=False),
}


def _values(field: FieldDescriptor) -> st.SearchStrategy[object]:
    if field.message_type is not None:
        return messages(field.message_type._concrete_class)
    if field.enum_type is not None:
        return st.sampled_from([value.number for value in field.enum_type.values])
    return _SCALARS[field.type]


def _field(field: FieldDescriptor) -> st.SearchStrategy[object]:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        entry = field.message_type.fields_by_name
        return st.dictionaries(_values(entry["key"]), _values(entry["value"]), max_size=3)
    return st.lists(_values(field), max_size=3) if field.is_repeated else _values(field)


def messages(kind: type[Message]) -> st.SearchStrategy[Message]:
    """Any message of this kind, every field present or absent, oneofs respected by the parser."""
    fields = {field.name: _field(field) for field in kind.DESCRIPTOR.fields}
    return st.fixed_dictionaries({}, optional=fields).map(lambda present: kind(**present))


@pytest.mark.parametrize("kind", message_types(), ids=lambda kind: kind.__name__)
def test_every_message_survives_a_round_trip(kind: type[Message]) -> None:
    @settings(max_examples=25, deadline=None, database=None)
    @given(messages(kind))
    def check(message: Message) -> None:
        wire = message.SerializeToString(deterministic=True)
        back = kind.FromString(wire)
        assert back == message
        assert back.SerializeToString(deterministic=True) == wire

    check()


def test_the_committed_code_is_what_the_protos_generate() -> None:
    assert generate.stale_files(generate.render()) == []


def test_a_stale_or_left_over_file_is_named() -> None:
    rendered = generate.render()
    rendered["state_pb2.py"] += "# older\n"
    del rendered["control_pb2.py"]
    assert generate.stale_files(rendered) == ["control_pb2.py", "state_pb2.py"]


def test_short_names_go_both_ways_and_an_unknown_one_names_the_known() -> None:
    stage = leyline.SeedLifecycleStage
    assert leyline.value_of(stage, "DORMANT") == stage.SEED_LIFECYCLE_STAGE_DORMANT
    with pytest.raises(ValueError, match="GERMINATED"):
        leyline.value_of(stage, "SPROUTED")


def test_the_limits_agree_with_each_other() -> None:
    leyline.LIMITS.check()
    assert math.isclose(math.fsum(leyline.LIMITS.memory_shares.values()), 1.0)


def test_every_part_of_a_boundary_has_its_budget() -> None:
    limits = leyline.LIMITS
    assert limits.boundary_budgets_ms == {
        "assembly": 3.5, "decision": 12.0, "apply": 1.5, "guard": 1.0, "total": 18.0
    }  # fmt: skip


@pytest.mark.parametrize(
    "wrong",
    [
        {"memory_shares": {"model": 0.9, "optimizer": 0.2}},
        {"memory_shares": {"model": float("nan")}},
        {"decision_ms": 30.0},
        {"queue_high_water": 6_000},
        {"nonce_lifetime_s": 30.0},
        {"candidates": 0},
    ],
)
def test_limits_that_contradict_each_other_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="contradict"):
        leyline.Limits(**wrong).check()  # type: ignore[arg-type]
