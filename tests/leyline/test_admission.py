"""What crosses the bus is authentic, fresh and new, or refused under its reason."""

import hmac
import math
import os
from contextlib import closing
from pathlib import Path

import pytest
from google.protobuf.message import Message
from hypothesis import given, settings
from hypothesis import strategies as st

from esper_async import leyline
from esper_async.leyline import Admission, NonceStore, Refusal, Refused, Signer, unwrap, wrap
from esper_async.leyline.keys import load_key, load_keys, load_signer
from esper_async.leyline.rotate import main, rotate
from esper_async.leyline.signing import check_freshness
from esper_async.leyline.validation import validate
from tests.leyline import examples

KEY = bytes(range(32))
SIGNER = Signer(KEY)
NOW = 1_790_000_010.0


def wrapped(message: Message, **options: object) -> bytes:
    return wrap(message, source="test", signer=SIGNER, **options)  # type: ignore[arg-type]


def resigned(envelope: leyline.EventEnvelope) -> bytes:
    """The envelope as a holder of the key would send it, whatever it says."""
    envelope.ClearField("signature")
    body = envelope.SerializeToString()
    return body + b"\x7a\x20" + SIGNER.sign(body)


def refusal(wire: bytes, topic: str = "field_reports", now: float = NOW) -> Refusal:
    admission = Admission(SIGNER, now=lambda: now)
    with pytest.raises(Refused) as caught:
        admission.admit(wire, topic=topic, delivery="1-0")
    assert admission.refusals == {caught.value.reason: 1}
    return caught.value.reason


@pytest.mark.parametrize("name", sorted(examples.payloads()))
def test_every_payload_comes_out_as_it_went_in(name: str) -> None:
    message = examples.payloads()[name]
    spec = leyline.spec_of(message)
    back, envelope = Admission(SIGNER, now=lambda: NOW).admit(
        wrapped(message), topic=spec.topic.name, delivery="1-0"
    )
    if isinstance(back, leyline.AdaptationCommand):
        assert len(back.signature) == 32
        back.ClearField("signature")
    assert back == message
    assert (envelope.payload_type, envelope.type) == (name, spec.topic.name)


def test_the_wire_is_a_plain_envelope_whose_signature_anyone_can_read() -> None:
    envelope = leyline.EventEnvelope.FromString(wrapped(examples.field_report()))
    assert len(envelope.signature) == 32


def test_a_durable_message_has_the_same_event_id_each_time_it_is_published() -> None:
    ids = {unwrap(wrapped(examples.field_report()), signer=SIGNER)[1].event_id for _ in "ab"}
    assert ids == {"FieldReport:digits-1/r7"}
    ids = {unwrap(wrapped(examples.state_packet()), signer=SIGNER)[1].event_id for _ in "ab"}
    assert len(ids) == 2


def test_another_key_is_refused_as_forged_unless_it_overlaps() -> None:
    wire = wrapped(examples.field_report())
    other = os.urandom(32)
    with pytest.raises(Refused, match="forged"):
        unwrap(wire, signer=Signer(other))
    unwrap(wire, signer=Signer(other, also_accept=[(KEY, math.inf)]))


@settings(max_examples=200, deadline=None, database=None)
@given(position=st.integers(0, 10_000), flip=st.integers(1, 255))
def test_one_changed_byte_anywhere_is_refused(position: int, flip: int) -> None:
    wire = bytearray(wrapped(examples.field_report()))
    wire[position % len(wire)] ^= flip
    with pytest.raises(Refused):
        unwrap(bytes(wire), signer=SIGNER)


@settings(max_examples=200, deadline=None, database=None)
@given(st.binary(max_size=400))
def test_any_bytes_at_all_are_refused_without_a_crash(noise: bytes) -> None:
    with pytest.raises(Refused):
        unwrap(noise, signer=SIGNER)


@settings(max_examples=200, deadline=None, database=None)
@given(st.binary(min_size=1, max_size=400))
def test_signed_noise_is_refused_without_a_crash(noise: bytes) -> None:
    with pytest.raises(Refused):
        unwrap(noise + b"\x7a\x20" + SIGNER.sign(noise), signer=SIGNER)


def test_truncated_and_unsigned_messages_are_refused() -> None:
    wire = wrapped(examples.field_report())
    assert refusal(wire[:-34]) is Refusal.UNSIGNED
    assert refusal(wire[:20]) is Refusal.UNSIGNED
    assert refusal(b"") is Refusal.UNSIGNED


def test_an_oversized_message_is_refused_by_sender_and_receiver() -> None:
    report = examples.field_report()
    report.notes = "x" * leyline.LIMITS.message_bytes
    with pytest.raises(Refused, match="oversized"):
        wrapped(report)
    assert refusal(bytes(leyline.LIMITS.message_bytes + 1)) is Refusal.OVERSIZED


def test_another_schema_version_is_refused_in_envelope_and_payload() -> None:
    envelope = leyline.EventEnvelope.FromString(wrapped(examples.field_report()))
    envelope.version = 2
    assert refusal(resigned(envelope)) is Refusal.WRONG_VERSION
    report = examples.field_report()
    report.version = 0
    assert refusal(wrapped(report)) is Refusal.WRONG_VERSION


def test_unknown_types_wrong_topics_and_broken_payloads_are_refused() -> None:
    good = wrapped(examples.field_report())
    assert refusal(good, topic="commands") is Refusal.WRONG_TOPIC
    for field, value, reason in (
        ("payload_type", "Surprise", Refusal.UNKNOWN_TYPE),
        ("payload_encoding", 0, Refusal.UNKNOWN_TYPE),
        ("type", "commands", Refusal.WRONG_TOPIC),
        ("payload", b"\xff\xff", Refusal.MALFORMED),
    ):
        envelope = leyline.EventEnvelope.FromString(good)
        setattr(envelope, field, value)
        assert refusal(resigned(envelope)) is reason, field
    with pytest.raises(Refused, match="unknown_type"):
        wrapped(leyline.Quantity())


def test_a_message_past_its_time_to_live_is_refused() -> None:
    wire = wrapped(examples.telemetry_packet(), created_at=NOW - 2, time_to_live_ms=1_000)
    assert refusal(wire, topic="telemetry") is Refusal.EXPIRED


def test_a_command_is_refused_when_old_or_from_the_future() -> None:
    wire = wrapped(examples.germinate())
    issued = examples.germinate().issued_at
    assert refusal(wire, "commands", now=issued + 61) is Refusal.STALE
    assert refusal(wire, "commands", now=issued - 6) is Refusal.FROM_THE_FUTURE
    with pytest.raises(Refused, match="stale"):
        check_freshness(float("nan"), NOW)


def test_a_replayed_command_is_refused_and_a_redelivered_one_is_not() -> None:
    admission = Admission(SIGNER, now=lambda: NOW)
    wire = wrapped(examples.germinate())
    for _ in range(2):
        admission.admit(wire, topic="commands", delivery="1-0")
    with pytest.raises(Refused, match="replayed"):
        admission.admit(wire, topic="commands", delivery="2-0")


def test_a_command_altered_inside_a_good_envelope_is_refused() -> None:
    envelope = leyline.EventEnvelope.FromString(wrapped(examples.germinate()))
    command = leyline.AdaptationCommand.FromString(envelope.payload)
    command.run_id = "another"
    envelope.payload = command.SerializeToString()
    assert refusal(resigned(envelope), "commands") is Refusal.FORGED
    command.ClearField("signature")
    envelope.payload = command.SerializeToString()
    assert refusal(resigned(envelope), "commands") is Refusal.UNSIGNED


def test_signing_a_command_for_the_bus_leaves_the_callers_object_alone() -> None:
    command = examples.germinate()
    command.ClearField("nonce")
    wrapped(command)
    assert not command.nonce
    assert not command.signature


def test_nonces_are_forgotten_after_their_lifetime_and_bounded_before() -> None:
    now = [0.0]
    store = NonceStore(lifetime_s=300, capacity=2, now=lambda: now[0])
    store.use(b"a", "1")
    store.use(b"b", "2")
    with pytest.raises(Refused, match="overloaded"):
        store.use(b"c", "3")
    now[0] = 300.0
    store.use(b"a", "4")
    assert len(store) == 1


def test_a_replay_is_refused_after_a_restart_too_and_a_redelivery_is_not(tmp_path: Path) -> None:
    path, wire = tmp_path / "nonces.sqlite", wrapped(examples.germinate())
    for _ in range(2):  # a process, and the one after it
        with closing(NonceStore(path, now=lambda: NOW)) as nonces:
            admission = Admission(SIGNER, now=lambda: NOW, nonces=nonces)
            admission.admit(wire, topic="commands", delivery=("stream", "1-0"))
    with closing(NonceStore(path, now=lambda: NOW + 1)) as nonces:
        admission = Admission(SIGNER, now=lambda: NOW + 1, nonces=nonces)
        with pytest.raises(Refused, match="replayed"):
            admission.admit(wire, topic="commands", delivery=("stream", "2-0"))
    with closing(NonceStore(path, now=lambda: NOW + 301)) as nonces:
        assert len(nonces) == 0


def _changed(**fields: object) -> leyline.AdaptationCommand:
    command = examples.germinate()
    for name, value in fields.items():
        setattr(command, name, value)
    return command


def _candidates(count: int) -> leyline.AdaptationCommand:
    command = examples.germinate()
    first = command.seed.candidates[0]
    del command.seed.candidates[:]
    command.seed.candidates.extend([first] * count)
    return command


def _cull_without_target() -> leyline.AdaptationCommand:
    command = examples.germinate()
    command.seed.operation = leyline.SeedOperation.SEED_OPERATION_CULL
    return command


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (_changed(type=7), "reserved"),
        (_changed(type=0), "unknown"),
        (_changed(type=2), "carries 'rollback'"),
        (_changed(run_id=""), "no run"),
        (_changed(issued_at=float("nan")), "not a time"),
        (_changed(command_id=""), "command_id is empty"),
        (_candidates(0), "0 candidates"),
        (_candidates(9), "9 candidates"),
        (_cull_without_target(), "target seed"),
    ],
)
def test_a_command_nobody_may_carry_out_is_refused(
    command: leyline.AdaptationCommand, says: str
) -> None:
    with pytest.raises(Refused, match=says):
        validate(command, leyline.spec_of(command))


def test_a_tournament_of_one_to_eight_candidates_is_valid() -> None:
    for count in (1, 8):
        command = _candidates(count)
        validate(command, leyline.spec_of(command))


def test_a_report_with_an_impossible_interval_is_refused() -> None:
    report = examples.field_report()
    report.benefit_vs_twin.low = float("nan")
    with pytest.raises(Refused, match="benefit_vs_twin"):
        validate(report, leyline.spec_of(report))


def test_the_key_file_is_made_once_private_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "leyline.key"
    key = load_key(path, {})
    assert path.stat().st_mode & 0o777 == 0o600
    assert load_key(path, {}) == key
    assert [each.name for each in tmp_path.iterdir()] == ["leyline.key"]


def test_a_key_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "leyline.key"
    load_key(path, {})
    path.chmod(0o644)
    with pytest.raises(PermissionError, match="chmod 600"):
        load_key(path, {})


def test_the_prepared_key_signs_as_hmac_does() -> None:
    for data in (b"", b"x", bytes(500)):
        assert SIGNER.sign(data) == hmac.digest(KEY, data, "sha256")


def test_after_a_rotation_the_old_key_is_read_until_the_overlap_ends(tmp_path: Path) -> None:
    path = tmp_path / "leyline.key"
    before = load_signer(path, {})
    wire = wrap(examples.field_report(), source="test", signer=before)
    rotate(path, overlap_s=100.0, now=1_000.0)
    rotate(path, overlap_s=500.0, now=1_050.0)
    newest, middle, oldest = load_keys(path, {}, now=1_099.0)
    assert path.stat().st_mode & 0o777 == 0o600
    assert [each.name for each in tmp_path.iterdir()] == ["leyline.key"]
    assert load_keys(path, {}, now=1_100.0) == [newest, middle]
    assert load_keys(path, {}, now=1_550.0) == [newest]
    clock = [1_099.0]
    overlaps = [(middle, 1_550.0), (oldest, 1_100.0)]
    after = Signer(newest, also_accept=overlaps, now=lambda: clock[0])
    unwrap(wire, signer=after)
    clock[0] = 1_100.0  # the process that has read the keys goes on, the overlap does not
    with pytest.raises(Refused, match="forged"):
        unwrap(wire, signer=after)
    unwrap(wrap(examples.field_report(), source="test", signer=after), signer=Signer(newest))
    with pytest.raises(Refused, match="forged"):
        unwrap(wire, signer=Signer(newest))


def test_rotating_from_the_command_line_says_what_to_do_or_what_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "leyline.key"
    assert main([str(path)]) == 2
    load_key(path, {})
    assert main([str(path), "--overlap-hours", "1"]) == 0
    assert "restart" in capsys.readouterr().out
    assert len(load_keys(path, {})) == 2
    path.write_text("nonsense\n")
    assert main([str(path)]) == 2
    assert path.read_text() == "nonsense\n"
    path.write_text(f"{KEY.hex()}\n{KEY.hex()} soon\n")
    with pytest.raises(ValueError, match="until=UNIX_TIME"):
        load_keys(path, {})


def test_the_environment_may_hold_several_keys_of_which_the_first_signs(tmp_path: Path) -> None:
    variable = {"ESPER_LEYLINE_SECRET": f"{bytes(32).hex()}, {KEY.hex()}"}
    signer = load_signer(tmp_path / "unused", variable)
    unwrap(wrapped(examples.field_report()), signer=signer)
    assert signer.sign(b"x") == Signer(bytes(32)).sign(b"x")


def test_the_environment_holds_the_key_or_a_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "leyline.key"
    assert load_key(path, {"ESPER_LEYLINE_SECRET": KEY.hex()}) == KEY
    assert not path.exists()
    with pytest.raises(ValueError, match="64 hex digits"):
        load_key(path, {"ESPER_LEYLINE_SECRET": "hunter2"})
