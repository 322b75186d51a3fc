"""`stalled`: growth by timing alone. It plants when the loss has stopped falling, and draws what.

The usual rule of growing networks: wait for a plateau, then add capacity. It chooses when, and
nothing else, so that a study can tell what choosing when is worth.
"""

from typing import Any, ClassVar

from esper_async.tamiyo.command import Decision, Germinate, NoOp
from esper_async.tamiyo.policies.draw import Draw
from esper_async.tamiyo.view import View


class StalledPolicy:
    """Plant one placement, drawn evenly, once the validation loss has stalled.

    It has stalled when its lowest over the last `window` boundaries is not below the lowest before
    them by `least` of itself.
    """

    name: ClassVar[str] = "stalled"
    version: ClassVar[str] = "1"

    def __init__(self, seed: int, *, window: int = 5, least: float = 0.01) -> None:
        self._draw = Draw(seed, self.name)
        self._window = window
        self._least = least

    def decide(self, view: View) -> Decision:
        """Return a germination of one placement, or no-op."""
        if not self._stalled(view):
            return Decision(NoOp(), "the loss is still falling", 1.0)
        if not view.may_plant():
            return Decision(NoOp(), "nothing may be planted now", 1.0)
        chosen = self._draw.sample(view.placements, 1)[0]
        reason = f"no lower loss over {self._window} boundaries; drawn evenly"
        return Decision(Germinate((chosen.candidate(),)), reason, 1.0 / len(view.placements))

    def _stalled(self, view: View) -> bool:
        losses = view.validation_losses
        if len(losses) <= self._window:
            return False
        before, recent = min(losses[: -self._window]), min(losses[-self._window :])
        return recent > before * (1.0 - self._least)

    def state_dict(self) -> dict[str, Any]:
        """Return the random stream's state."""
        return self._draw.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        self._draw.load_state_dict(state)
