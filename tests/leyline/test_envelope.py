"""What an envelope says about its message: how it is delivered, what it answers, until when."""

import math

import pytest
from google.protobuf.message import Message

from esper_async import leyline
from esper_async.leyline import Admission, Refusal, Refused, Signer, wrap
from esper_async.leyline.v1 import enums_pb2 as enums
from tests.leyline import examples

SIGNER = Signer(bytes(range(32)))
SENT = 1_790_000_002.0


def sent(message: Message, **options: object) -> bytes:
    return wrap(message, source="test", signer=SIGNER, created_at=SENT, **options)  # type: ignore[arg-type]


def envelope_of(message: Message, **options: object) -> leyline.EventEnvelope:
    return leyline.EventEnvelope.FromString(sent(message, **options))


@pytest.mark.parametrize("name", sorted(examples.payloads()))
def test_telemetry_is_sent_at_most_once_and_everything_else_at_least_once(name: str) -> None:
    """Telemetry has no required group: nobody has it kept, and nothing sends it again."""
    expected = (
        enums.DELIVERY_GUARANTEE_AT_MOST_ONCE
        if name == "TelemetryPacket"
        else enums.DELIVERY_GUARANTEE_AT_LEAST_ONCE
    )
    assert envelope_of(examples.payloads()[name]).delivery == expected


@pytest.mark.parametrize(
    ("message", "of"),
    [
        (leyline.KernelReady(version=1, kernel_id="k", request_id="r1"), "r1"),
        (leyline.KernelError(version=1, request_id="r2", reason="numerics"), "r2"),
        (examples.field_report(), "digits-1/c7"),
        (examples.telemetry_packet(), ""),
    ],
    ids=lambda each: type(each).__name__,
)
def test_an_answer_carries_the_id_of_what_it_answers(message: Message, of: str) -> None:
    assert envelope_of(message).correlation_id == of
    assert envelope_of(message, correlation_id="another").correlation_id == "another"


@pytest.mark.parametrize("name", sorted(examples.payloads()))
def test_the_run_can_be_told_without_reading_the_payload(name: str) -> None:
    message = examples.payloads()[name]
    run_id = getattr(message, "run_id", "")
    assert list(envelope_of(message).routing_keys) == ([run_id] if run_id else [])


def _command(deadline_ms: int) -> leyline.AdaptationCommand:
    command = examples.germinate()
    command.execution_deadline_ms = deadline_ms
    return command


@pytest.mark.parametrize(
    ("deadline_ms", "age_s", "is_late"),
    [(500, 0.4, False), (500, 0.6, True), (0, 50.0, False), (30_000, 31.0, True)],
)
def test_a_command_is_refused_as_expired_past_its_deadline(
    deadline_ms: int, age_s: float, is_late: bool
) -> None:
    wire = sent(_command(deadline_ms))
    assert leyline.EventEnvelope.FromString(wire).processing_deadline_ms == deadline_ms
    admission = Admission(SIGNER, now=lambda: SENT + age_s)
    if is_late:
        with pytest.raises(Refused, match="was to begin within"):
            admission.admit(wire, topic="commands", delivery="1-0")
        assert admission.refusals == {Refusal.EXPIRED: 1}
    else:
        admission.admit(wire, topic="commands", delivery="1-0")
        assert not admission.refusals


def test_the_deadline_and_the_time_to_live_hold_each_by_itself() -> None:
    for time_to_live_ms, says in ((100, "lived for 100 ms"), (5_000, "begin within 500 ms")):
        wire = sent(_command(500), time_to_live_ms=time_to_live_ms)
        admission = Admission(SIGNER, now=lambda: SENT + 2.0)
        with pytest.raises(Refused, match=says):
            admission.admit(wire, topic="commands", delivery="1-0")


def test_a_message_that_was_tried_says_so_and_is_still_admitted() -> None:
    """And so is one signed by an older key, which the new one signs again."""
    report = examples.field_report()
    for signer in (SIGNER, Signer(bytes(32), also_accept=[(bytes(range(32)), math.inf)])):
        admission = Admission(signer, now=lambda: SENT)
        wire = sent(report)
        _, before = admission.admit(wire, topic="field_reports", delivery="1-0")
        tried = admission.tried(wire, attempts=3)
        message, after = admission.admit(tried, topic="field_reports", delivery="2-0")
        assert (message, after.attempts_made) == (report, 3)
        for each in (before, after):
            each.ClearField("signature")
            each.ClearField("attempts_made")
        assert before == after


def test_what_is_not_ours_is_not_signed_again() -> None:
    foreign = wrap(examples.field_report(), source="test", signer=Signer(bytes(32)))
    with pytest.raises(Refused, match="forged"):
        Admission(SIGNER).tried(foreign, attempts=3)


def test_a_message_without_room_for_its_attempts_stays_as_it_was() -> None:
    report = examples.field_report()
    report.notes = "x" * (leyline.LIMITS.message_bytes - 1_000)
    report.notes += "x" * (leyline.LIMITS.message_bytes - len(sent(report)))
    wire = sent(report)
    assert len(wire) == leyline.LIMITS.message_bytes
    assert Admission(SIGNER).tried(wire, attempts=3) == wire
