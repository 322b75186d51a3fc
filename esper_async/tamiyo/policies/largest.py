"""`largest`: the most capacity that fits the budget, at a random site. A baseline."""

from typing import Any, ClassVar

from esper_async.tamiyo.command import Decision, Germinate, NoOp
from esper_async.tamiyo.policies.draw import Draw
from esper_async.tamiyo.policies.sampled import START_BOUNDARY
from esper_async.tamiyo.view import View


class LargestPolicy:
    """Plant the placement with most parameters at a site drawn evenly."""

    name: ClassVar[str] = "largest"
    version: ClassVar[str] = "1"

    def __init__(self, seed: int, start_boundary: int = START_BOUNDARY) -> None:
        self._draw = Draw(seed, self.name)
        self._start = start_boundary

    def decide(self, view: View) -> Decision:
        """Return a germination of one placement, or no-op."""
        if view.boundary < self._start:
            return Decision(NoOp(), f"before boundary {self._start}", 1.0)
        if not view.may_plant():
            return Decision(NoOp(), "nothing may be planted now", 1.0)
        sites = sorted({placement.site for placement in view.placements})
        site = self._draw.choice(sites)
        here = [placement for placement in view.placements if placement.site == site]
        chosen = max(here, key=lambda placement: (placement.parameters, placement.blueprint))
        return Decision(
            Germinate((chosen.candidate(),)), f"the largest at {site}", 1.0 / len(sites)
        )

    def state_dict(self) -> dict[str, Any]:
        """Return the random stream's state."""
        return self._draw.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        self._draw.load_state_dict(state)
