"""The gate between the bus and whoever acts: authentic, valid, fresh and new, or refused."""

import time
from collections import Counter
from collections.abc import Callable, Hashable

from google.protobuf.message import Message

from esper_async.leyline.envelope import unwrap
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

    def _check_age(self, envelope: EventEnvelope) -> None:
        if not envelope.time_to_live_ms:
            return
        age_s = self._now() - envelope.created_at
        if not age_s * 1000 <= envelope.time_to_live_ms:
            raise Refused(Refusal.EXPIRED, f"{age_s:.1f} s old")
