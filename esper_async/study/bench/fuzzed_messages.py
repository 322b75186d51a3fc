"""Messages for a consumer that must trust nobody: noise, damage, and what comes at a wrong time.

Of `Fuzzer.known` it is known by construction what must become of each; of `Fuzzer.damaged`, signed
by somebody who holds the key and has a fault, only that something must.
"""

import random
from collections.abc import Callable
from typing import NamedTuple

from google.protobuf.message import DecodeError, Message

from esper_async.leyline import (
    LIMITS,
    PAYLOADS,
    AdaptationCommand,
    EventEnvelope,
    Refusal,
    Signer,
    sign_command,
    wrap,
)
from esper_async.leyline.v1 import enums_pb2 as enums
from esper_async.study.bench import bus_load as load
from esper_async.study.bench import reference_messages as reference

NOW = 1_790_000_000.0
"""The time at the consumer's clock, Unix seconds."""
VALID = "valid-"
_SOURCE = "fuzz"
_TRAILER = b"\x7a\x20"  # of every envelope: the signature's tag and length, then 32 bytes
_TRAILER_BYTES = len(_TRAILER) + 32
_VALUE_OUT_OF_BOUNDS = b"\x0a\x7f"  # a field that claims more bytes than follow


class Sample(NamedTuple):
    """Bytes for the bus and why they must be refused; `refusal` is None for a valid message."""

    wire: bytes
    refusal: Refusal | None


class Fuzzer:
    """Makes messages from a seeded source; valid commands are numbered from 0."""

    def __init__(self, seed: int, signer: Signer, stranger: Signer) -> None:
        self._source = random.Random(seed)  # noqa: S311 - to be repeatable
        self._signer = signer
        self._stranger = stranger
        self.valid = 0
        self._lately: list[bytes] = []
        self._template = self._wrapped(self._command("template"))
        self._damageable = [
            self._command("damaged"),
            reference.field_report(),
            reference.state(),
            reference.telemetry(),
            load.alert(1),
        ]
        kinds: dict[Callable[[], Sample], int] = {
            self._noise: 18, self._cut: 12, self._flipped: 14, self._strangers: 6,
            self._valid_command: 14, self._replayed: 6, self._malformed: 5, self._versions: 5,
            self._unknown: 5, self._misplaced: 5, self._invalid: 5, self._late: 5,
            self._unsigned_inside: 2,
        }  # fmt: skip
        self._kinds, self._weights = list(kinds), list(kinds.values())

    def known(self, count: int) -> list[Sample]:
        """Return so many messages for the topic `commands`; a replay repeats one among them."""
        self._lately.clear()
        chosen = self._source.choices(self._kinds, self._weights, k=count)
        return [kind() for kind in chosen]

    def overloading(self, capacity: int, beyond: int) -> list[Sample]:
        """Return valid commands, the last of which find every nonce's place taken."""
        taken = [self._valid_command() for _ in range(capacity)]
        command = [self._wrapped(self._command(f"beyond-{each}")) for each in range(beyond)]
        return taken + [Sample(wire, Refusal.OVERLOADED) for wire in command]

    def damaged(self, count: int) -> list[tuple[str, bytes]]:
        """Return topics and messages that are signed whatever is in them."""
        return [self._signed_damage() for _ in range(count)]

    # -- of known fate ---------------------------------------------------------------------------

    def _noise(self) -> Sample:
        choose = self._source.randrange
        length = (choose(64), choose(400), choose(4_000))[choose(3)]
        if choose(100) == 0:
            length = LIMITS.message_bytes + choose(-1, 3)
        wire = self._source.randbytes(length)
        if length > LIMITS.message_bytes:
            return Sample(wire, Refusal.OVERSIZED)
        return Sample(wire, _refusal_of(wire))

    def _cut(self) -> Sample:
        at = self._source.randrange(1, len(self._template))
        wire = self._template[:at] if self._source.random() < 0.7 else self._template[at:]
        return Sample(wire, _refusal_of(wire))

    def _flipped(self) -> Sample:
        wire = bytearray(self._template)
        bit = self._source.randrange(8 * len(wire))
        wire[bit // 8] ^= 1 << bit % 8
        return Sample(bytes(wire), _refusal_of(wire))

    def _strangers(self) -> Sample:
        """Signed under another key: all of it, or the command in an envelope of ours."""
        if self._source.random() < 0.5:
            wire = self._wrapped(self._command("stranger"), signer=self._stranger)
        else:
            inner = self._command("stranger")
            sign_command(inner, self._stranger)
            wire = self._enveloped(payload=inner.SerializeToString())
        return Sample(wire, Refusal.FORGED)

    def _unsigned_inside(self) -> Sample:
        inner = self._command("unsigned")
        return Sample(self._enveloped(payload=inner.SerializeToString()), Refusal.UNSIGNED)

    def _valid_command(self) -> Sample:
        wire = self._wrapped(self._command(f"{VALID}{self.valid}"))
        self.valid += 1
        self._lately.append(wire)
        return Sample(wire, None)

    def _replayed(self) -> Sample:
        if not self._lately:
            return self._valid_command()
        return Sample(self._source.choice(self._lately[-50:]), Refusal.REPLAYED)

    def _malformed(self) -> Sample:
        if self._source.random() < 0.5:
            return Sample(self._enveloped(payload=_VALUE_OUT_OF_BOUNDS), Refusal.MALFORMED)
        return Sample(self._sealed(_VALUE_OUT_OF_BOUNDS), Refusal.MALFORMED)

    def _versions(self) -> Sample:
        version = self._source.choice((0, 2, 3, 2**32 - 1))
        if self._source.random() < 0.5:
            return Sample(self._enveloped(version=version), Refusal.WRONG_VERSION)
        command = self._command("version")
        command.version = version
        return Sample(self._wrapped(command), Refusal.WRONG_VERSION)

    def _unknown(self) -> Sample:
        if self._source.random() < 0.5:
            return Sample(self._enveloped(payload_encoding=77), Refusal.UNKNOWN_TYPE)
        name = self._source.randbytes(4).hex()
        return Sample(self._enveloped(payload_type=name), Refusal.UNKNOWN_TYPE)

    def _misplaced(self) -> Sample:
        if self._source.random() < 0.5:
            return Sample(self._enveloped(type="alerts"), Refusal.WRONG_TOPIC)
        wire = wrap(load.alert(1), source=_SOURCE, signer=self._signer)
        return Sample(wire, Refusal.WRONG_TOPIC)

    def _invalid(self) -> Sample:
        command = self._command("invalid")
        fault = self._source.randrange(5)
        if fault == 0:
            command.command_id = ""
        elif fault == 1:
            command.run_id = ""
        elif fault == 2:
            command.type = enums.COMMAND_TYPE_STRUCTURAL_PRUNING
        elif fault == 3:
            command.rollback.boundary = 1
        else:
            command.issued_at = float("nan")
        return Sample(self._wrapped(command), Refusal.INVALID)

    def _late(self) -> Sample:
        """Too old, too early, or past the time that its sender gave it."""
        command, choice = self._command("late"), self._source.randrange(3)
        by_s = self._source.uniform(1.0, 1e6)
        if choice == 0:
            wire = self._wrapped(command, created_at=NOW - by_s, time_to_live_ms=500)
            return Sample(wire, Refusal.EXPIRED)
        if choice == 1:
            command.issued_at = NOW - LIMITS.command_age_s - by_s
            return Sample(self._wrapped(command), Refusal.STALE)
        command.issued_at = NOW + LIMITS.command_lead_s + by_s
        return Sample(self._wrapped(command), Refusal.FROM_THE_FUTURE)

    # -- of any fate -----------------------------------------------------------------------------

    def _signed_damage(self) -> tuple[str, bytes]:
        message = self._source.choice(self._damageable)
        spec = PAYLOADS[message.DESCRIPTOR.name]
        wire = self._wrapped(message)
        if self._source.random() < 0.4:
            return spec.topic.name, self._sealed(self._harmed(wire[:-_TRAILER_BYTES]))
        payload = self._harmed(message.SerializeToString())
        if isinstance(message, AdaptationCommand):
            payload = self._signed_again(payload)
        return spec.topic.name, self._enveloped(wire, payload=payload)

    def _harmed(self, body: bytes) -> bytes:
        """Return the bytes with some replaced, and perhaps a piece gone or there twice."""
        source, harmed = self._source, bytearray(body)
        for _ in range(source.randrange(1, 5)):
            harmed[source.randrange(len(harmed))] = source.randrange(256)
        start, length = source.randrange(len(harmed)), source.randrange(1, 20)
        kind = source.randrange(4)
        if kind == 0:
            del harmed[start : start + length]
        elif kind == 1:
            harmed[start:start] = harmed[start : start + length]
        return bytes(harmed)

    def _signed_again(self, payload: bytes) -> bytes:
        """Sign a damaged command, where it is one still, so that its contents are looked at."""
        try:
            command = AdaptationCommand.FromString(payload)
        except DecodeError:
            return payload
        sign_command(command, self._signer)
        return command.SerializeToString()

    # -- parts -----------------------------------------------------------------------------------

    def _command(self, command_id: str) -> AdaptationCommand:
        command = AdaptationCommand(
            version=1, command_id=command_id, run_id="r", type=enums.COMMAND_TYPE_PAUSE
        )
        command.pause.resume = False
        command.issued_at = NOW
        return command

    def _wrapped(
        self, message: Message, *, signer: Signer | None = None, time_to_live_ms: int = 0,
        created_at: float = NOW,
    ) -> bytes:  # fmt: skip
        return wrap(
            message,
            source=_SOURCE,
            signer=signer or self._signer,
            created_at=created_at,
            time_to_live_ms=time_to_live_ms,
        )

    def _enveloped(self, wire: bytes | None = None, **changed: object) -> bytes:
        """Return an envelope that is ours but for the fields named; of a command without a wire."""
        envelope = EventEnvelope.FromString(wire or self._template)
        envelope.ClearField("signature")
        for name, value in changed.items():
            setattr(envelope, name, value)
        return self._sealed(envelope.SerializeToString())

    def _sealed(self, body: bytes) -> bytes:
        return b"".join((body, _TRAILER, self._signer.sign(body)))


def _refusal_of(wire: bytes | bytearray) -> Refusal:
    """Return how bytes that nobody signed are refused: by whether they look as if somebody had."""
    looks_signed = wire[-_TRAILER_BYTES:-32] == _TRAILER and len(wire) > _TRAILER_BYTES
    return Refusal.FORGED if looks_signed else Refusal.UNSIGNED
