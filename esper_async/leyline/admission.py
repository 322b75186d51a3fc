"""The gate between the bus and whoever acts: authentic, valid, fresh and new, or refused."""

import time
from collections import Counter
from collections.abc import Callable, Hashable

from google.protobuf.message import Message

from esper_async.leyline.envelope import unwrap, with_attempts
from esper_async.leyline.errors import Refusal, Refused
from esper_async.leyline.nonces import NonceStore
from esper_async.leyline.registry import PAYLOADS
from esper_async.leyline.signing import Signer, check_freshness
from esper_async.leyline.v1.commands_pb2 import AdaptationCommand
from esper_async.leyline.v1.envelope_pb2 import EventEnvelope
from esper_async.leyline.validation import validate


class Admission:
    """Admits messages and counts what it refuses by reason in `refusals`."""

    def __init__(
        self,
        signer: Signer,
        *,
        now: Callable[[], float] = time.time,
        nonces: NonceStore | None = None,
    ) -> None:
        self._signer = signer
        self._now = now
        self._nonces = NonceStore() if nonces is None else nonces
        self.refusals: Counter[Refusal] = Counter()

    def admit(
        self, wire: bytes, *, topic: str, delivery: Hashable
    ) -> tuple[Message, EventEnvelope]:
        """Return the message and its envelope. Raises Refused, counted.

        `delivery` identifies this entry of the stream: it may be admitted again, another entry
        with the same nonce may not.
        """
        try:
            message, envelope = unwrap(wire, signer=self._signer, topic=topic)
            spec = PAYLOADS[envelope.payload_type]
            validate(message, spec)
            self._check_age(envelope)
            if spec.fresh and isinstance(message, AdaptationCommand):
                check_freshness(message.issued_at, self._now())
                self._nonces.use(message.nonce, delivery)
        except Refused as refused:
            self.refusals[refused.reason] += 1
            raise
        return message, envelope

    def tried(self, wire: bytes, *, attempts: int) -> bytes:
        """Return a message that says how often it was tried in all; see `with_attempts`."""
        return with_attempts(wire, attempts, signer=self._signer)

    def _check_age(self, envelope: EventEnvelope) -> None:
        life_ms, deadline_ms = envelope.time_to_live_ms, envelope.processing_deadline_ms
        if not life_ms and not deadline_ms:
            return
        age_s = self._now() - envelope.created_at
        if life_ms and not age_s * 1000 <= life_ms:
            raise Refused(Refusal.EXPIRED, f"lived for {life_ms} ms, is {age_s:.1f} s old")
        if deadline_ms and not age_s * 1000 <= deadline_ms:
            raise Refused(
                Refusal.EXPIRED,
                f"its handling was to begin within {deadline_ms} ms, it is {age_s:.1f} s old",
            )
