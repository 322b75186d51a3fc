"""Wrap a message for the bus and unwrap it again, refusing whatever is not exactly right.

The signature is the last field on the wire: tag, length, 32 bytes. It covers every byte before
it, so that verifying needs neither parsing nor serialising again.
"""

import functools
import os
import time
from typing import cast

from google.protobuf.message import DecodeError, Message

from esper_async.leyline.errors import Refusal, Refused
from esper_async.leyline.limits import LIMITS, SCHEMA_VERSION
from esper_async.leyline.registry import PAYLOADS, PayloadSpec, spec_of
from esper_async.leyline.signing import SIGNATURE_BYTES, Signer, sign_command, verify_command
from esper_async.leyline.v1 import enums_pb2 as enums
from esper_async.leyline.v1.commands_pb2 import AdaptationCommand
from esper_async.leyline.v1.envelope_pb2 import EventEnvelope

_TRAILER = bytes(
    (EventEnvelope.SIGNATURE_FIELD_NUMBER << 3 | 2, SIGNATURE_BYTES)  # a length-delimited field
)
_TRAILER_BYTES = len(_TRAILER) + SIGNATURE_BYTES


def event_id_of(message: Message, spec: PayloadSpec) -> str:
    """Return the id under which `message` is published: for ever the same if it is durable."""
    if spec.durable:
        return f"{spec.name}:{getattr(message, spec.identity)}"
    return os.urandom(16).hex()


def wrap(
    message: Message,
    *,
    source: str,
    signer: Signer,
    priority: enums.MessagePriority.ValueType | None = None,
    event_id: str = "",
    correlation_id: str = "",
    created_at: float | None = None,
    time_to_live_ms: int = 0,
    attempts_allowed: int = LIMITS.retries,
    incarnation: int = 0,
    sequence: int = 0,
) -> bytes:
    """Return `message` in a signed envelope. Raises Refused when it must not be published.

    The caller has validated `message` (`validation.validate`); commands are signed themselves,
    too, on a copy. `sequence` counts what `incarnation` puts on one stream. An answer's
    `correlation_id` is the id of what it answers, unless another is given.
    """
    spec = spec_of(message)
    deadline_ms = 0
    if spec.message is AdaptationCommand:  # `isinstance` asks the metaclass: ten times as long
        command = AdaptationCommand()
        command.CopyFrom(cast(AdaptationCommand, message))
        sign_command(command, signer)
        message = command
        deadline_ms = command.execution_deadline_ms
    if spec.answers and not correlation_id:
        correlation_id = getattr(message, spec.answers)
    fixed = _fixed_part(
        spec.name,
        source,
        spec.priority if priority is None else priority,
        time_to_live_ms,
        attempts_allowed,
        incarnation,
        deadline_ms,
        getattr(message, spec.run) if spec.run else "",
    )
    rest = EventEnvelope(
        event_id=event_id or event_id_of(message, spec),
        created_at=time.time() if created_at is None else created_at,
        payload=message.SerializeToString(),
        sequence=sequence,
    )
    if correlation_id:
        rest.correlation_id = correlation_id
    body = fixed + rest.SerializeToString()
    if len(body) + _TRAILER_BYTES > LIMITS.message_bytes:
        raise Refused(
            Refusal.OVERSIZED,
            f"{spec.name} takes {len(body) + _TRAILER_BYTES} bytes, the bus carries "
            f"{LIMITS.message_bytes}; put large data in the library and send its digest",
        )
    return b"".join((body, _TRAILER, signer.sign(body)))


def with_attempts(wire: bytes, attempts: int, *, signer: Signer) -> bytes:
    """Return `wire` with an envelope that says how often it was tried, signed again.

    One that has no room left for it stays as it was. Raises Refused as `open_envelope`.
    """
    envelope = open_envelope(wire, signer=signer)
    envelope.attempts_made = attempts
    envelope.ClearField("signature")
    body = envelope.SerializeToString()
    tried = b"".join((body, _TRAILER, signer.sign(body)))
    return tried if len(tried) <= LIMITS.message_bytes else wire


@functools.lru_cache(maxsize=1_024)
def _fixed_part(
    payload_type: str,
    source: str,
    priority: enums.MessagePriority.ValueType,
    time_to_live_ms: int,
    attempts_allowed: int,
    incarnation: int,
    processing_deadline_ms: int,
    run_id: str,
) -> bytes:
    """Return, encoded, what is the same in every envelope of this kind from this source.

    One encoded message followed by another is the encoding of the two merged: the rest of an
    envelope is put behind these bytes.
    """
    topic = PAYLOADS[payload_type].topic
    return EventEnvelope(
        version=SCHEMA_VERSION,
        type=topic.name,
        source=source,
        processing_deadline_ms=processing_deadline_ms,
        time_to_live_ms=time_to_live_ms,
        payload_type=payload_type,
        payload_encoding=enums.PAYLOAD_ENCODING_PROTOBUF,
        priority=priority,
        delivery=topic.delivery,
        attempts_allowed=attempts_allowed,
        routing_keys=(run_id,) if run_id else (),
        incarnation=incarnation,
    ).SerializeToString()


def open_envelope(wire: bytes, *, signer: Signer) -> EventEnvelope:
    """Return the envelope in `wire` once size, signature and version are right, else Refused."""
    if len(wire) > LIMITS.message_bytes:
        raise Refused(Refusal.OVERSIZED, f"{len(wire)} bytes")
    if len(wire) <= _TRAILER_BYTES or wire[-_TRAILER_BYTES:-SIGNATURE_BYTES] != _TRAILER:
        raise Refused(Refusal.UNSIGNED, f"{len(wire)} bytes without a signature at their end")
    if not signer.verify(wire[:-_TRAILER_BYTES], wire[-SIGNATURE_BYTES:]):
        raise Refused(Refusal.FORGED, "the envelope's signature is not ours")
    try:
        envelope = EventEnvelope.FromString(wire)
    except DecodeError as error:
        raise Refused(Refusal.MALFORMED, f"the envelope does not parse: {error}") from None
    if envelope.version != SCHEMA_VERSION:
        raise Refused(
            Refusal.WRONG_VERSION, f"envelope version {envelope.version}, not {SCHEMA_VERSION}"
        )
    return envelope


def unwrap(
    wire: bytes, *, signer: Signer, topic: str | None = None
) -> tuple[Message, EventEnvelope]:
    """Return the message and its envelope. Raises Refused with the reason.

    The message is authentic and of a known type, on the topic where its type belongs; freshness
    and validity are `admission`'s.
    """
    envelope = open_envelope(wire, signer=signer)
    spec = PAYLOADS.get(envelope.payload_type)
    if spec is None or envelope.payload_encoding != enums.PAYLOAD_ENCODING_PROTOBUF:
        raise Refused(Refusal.UNKNOWN_TYPE, f"payload type {envelope.payload_type!r}")
    if envelope.type != spec.topic.name or topic not in (None, spec.topic.name):
        raise Refused(Refusal.WRONG_TOPIC, f"{spec.name} belongs on {spec.topic.name}")
    try:
        message = spec.message.FromString(envelope.payload)
    except DecodeError as error:
        raise Refused(Refusal.MALFORMED, f"the {spec.name} does not parse: {error}") from None
    if spec.message is AdaptationCommand:
        verify_command(cast(AdaptationCommand, message), signer)
    return message, envelope
