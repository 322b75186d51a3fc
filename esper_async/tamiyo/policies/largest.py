"""`largest`: the most capacity that fits the budget, at a random site. A baseline."""

from typing import Any, ClassVar

import numpy as np

from esper_async.karn.catalogue import Catalogue
from esper_async.tamiyo.command import Decision, Germinate, NoOp
from esper_async.tamiyo.offer import Offer, pack_draw
from esper_async.tamiyo.policies.draw import Draw
from esper_async.tamiyo.policies.sampled import START_BOUNDARY
from esper_async.tamiyo.view import Placement, View


class LargestPolicy:
    """Plant the placement with most parameters at a site drawn evenly."""

    name: ClassVar[str] = "largest"
    version: ClassVar[str] = "1"

    def __init__(self, seed: int, start_boundary: int = START_BOUNDARY) -> None:
        self._draw = Draw(seed, self.name)
        self._start = start_boundary
        self._catalogue = Catalogue()

    def decide(self, view: View) -> Decision:
        """Return a germination of one placement, or no-op."""
        if view.boundary < self._start:
            return Decision(NoOp(), f"before boundary {self._start}", 1.0)
        if not view.may_plant():
            return Decision(NoOp(), "nothing may be planted now", 1.0)
        largest: dict[str, int] = {}
        for place, each in enumerate(view.placements):
            known = largest.setdefault(each.site, place)
            if _rank(each) > _rank(view.placements[known]):
                largest[each.site] = place
        site = self._draw.choice(sorted(largest))
        offer = Offer.of(view, self._catalogue)
        probabilities = np.zeros(len(offer))
        probabilities[list(largest.values())] = 1.0 / len(largest)
        return Decision(
            Germinate((view.placements[largest[site]].candidate(),)),
            f"the largest at {site}",
            1.0 / len(largest),
            choices=pack_draw(offer, probabilities, largest[site]),
        )

    def state_dict(self) -> dict[str, Any]:
        """Return the random stream's state."""
        return self._draw.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        self._draw.load_state_dict(state)


def _rank(placement: Placement) -> tuple[int, str]:
    return placement.parameters, placement.blueprint
