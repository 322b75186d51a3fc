"""Nonces: what was used once is refused when somebody else presents it again."""

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable

from esper_async.leyline.errors import Refusal, Refused
from esper_async.leyline.limits import LIMITS


class NonceStore:
    """Remembers nonces for their lifetime. `holder` may present the same nonce again.

    A delivery that is repeated after a failure is the same holder; a replay is another one.
    """

    def __init__(
        self,
        *,
        lifetime_s: float = LIMITS.nonce_lifetime_s,
        capacity: int = LIMITS.nonce_capacity,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._lifetime_s = lifetime_s
        self._capacity = capacity
        self._monotonic = monotonic
        self._seen: OrderedDict[bytes, tuple[float, Hashable]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._seen)

    def use(self, nonce: bytes, holder: Hashable) -> None:
        """Take `nonce` for `holder`. Raises Refused when another holder took it, or when full."""
        now = self._monotonic()
        while self._seen and next(iter(self._seen.values()))[0] <= now:
            self._seen.popitem(last=False)
        if known := self._seen.get(nonce):
            if known[1] != holder:
                raise Refused(Refusal.REPLAYED, "this nonce was used before")
            return
        if len(self._seen) >= self._capacity:
            raise Refused(Refusal.OVERLOADED, f"{self._capacity} nonces are alive")
        self._seen[nonce] = (now + self._lifetime_s, holder)
