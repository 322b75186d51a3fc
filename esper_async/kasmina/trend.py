"""The trend of the validation loss: what a trial is compared with where no twin can be trained."""

import math

from esper_async.kasmina.quantity import Quantity, Unit

_SPAN = 5


class LossTrend:
    """A straight line through the logarithms of the last losses before a trial.

    What it yields is marked as estimated: it contains the host's own learning, is passed by G4
    only at twice the margin, and never enters a reward.
    """

    def __init__(self) -> None:
        self._losses: list[float] = []  # no more than are ever asked for
        self._count = 0
        self._frozen: list[float] = []
        self._frozen_at = 0

    def add(self, loss: float) -> None:
        """Note the validation loss of a boundary."""
        self._losses = [*self._losses[1 - _SPAN :], loss]
        self._count += 1

    def freeze(self) -> None:
        """Start a trial: the trend is that of the boundaries so far."""
        self._frozen = list(self._losses)
        self._frozen_at = self._count

    def benefit(self, loss: float, boundary: int, unit: Unit = "nats") -> Quantity | None:
        """Compare a loss with the trend's; None if there is no trend (fewer than 3 losses)."""
        known = [math.log(value) for value in self._frozen if value > 0 and math.isfinite(value)]
        if len(known) < 3 or not math.isfinite(loss):
            return None
        count = len(known)
        centre = (count - 1) / 2
        mean = sum(known) / count
        spread = sum((x - centre) ** 2 for x in range(count))
        slope = sum((x - centre) * (y - mean) for x, y in enumerate(known)) / spread
        residual = [y - mean - slope * (x - centre) for x, y in enumerate(known)]
        ahead = boundary - self._frozen_at + count - 1
        expected = math.exp(mean + min(slope, 0.0) * (ahead - centre))
        error = math.sqrt(sum(r * r for r in residual) / (count - 2))
        half = 1.96 * expected * error * math.sqrt(1 + 1 / count + (ahead - centre) ** 2 / spread)
        gain = expected - loss
        return Quantity(gain, gain - half, gain + half, count, "batch", unit, estimated=True)

    def state_dict(self) -> dict[str, list[float] | int]:
        """Return the losses noted."""
        return {
            "losses": list(self._losses),
            "count": self._count,
            "frozen": list(self._frozen),
            "frozen_at": self._frozen_at,
        }

    def load_state_dict(self, state: dict[str, list[float] | int]) -> None:
        """Take over what `state_dict` returned."""
        losses, frozen, frozen_at = state["losses"], state["frozen"], state["frozen_at"]
        count = state["count"]
        assert isinstance(losses, list)
        assert isinstance(count, int)
        assert isinstance(frozen, list)
        assert isinstance(frozen_at, int)
        self._losses, self._count = list(losses), count
        self._frozen, self._frozen_at = list(frozen), frozen_at
