"""`random` and `periodic`: one random placement at a time, whenever or only now and then."""

from typing import Any, ClassVar

import numpy as np

from esper_async.karn.catalogue import Catalogue
from esper_async.tamiyo.command import Decision, Germinate, NoOp
from esper_async.tamiyo.offer import Offer, pack_draw, place_of
from esper_async.tamiyo.policies.draw import Draw
from esper_async.tamiyo.view import View

START_BOUNDARY = 4


class RandomPolicy:
    """Plant one placement, drawn evenly, as soon as no other candidate is in training."""

    name: ClassVar[str] = "random"
    version: ClassVar[str] = "1"

    def __init__(self, seed: int, start_boundary: int = START_BOUNDARY) -> None:
        self._draw = Draw(seed, self.name)
        self._start = start_boundary
        self._catalogue = Catalogue()

    def decide(self, view: View) -> Decision:
        """Return a germination of one placement, or no-op."""
        if not self._due(view):
            return Decision(NoOp(), "not due", 1.0)
        if not view.may_plant():
            return Decision(NoOp(), "nothing may be planted now", 1.0)
        chosen = self._draw.sample(view.placements, 1)[0]
        offer = Offer.of(view, self._catalogue)
        even = np.full(len(offer), 1.0 / len(offer))
        return Decision(
            Germinate((chosen.candidate(),)),
            "drawn evenly",
            1.0 / len(offer),
            choices=pack_draw(offer, even, place_of(chosen, view)),
        )

    def _due(self, view: View) -> bool:
        return view.boundary >= self._start

    def state_dict(self) -> dict[str, Any]:
        """Return the random stream's state."""
        return self._draw.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        self._draw.load_state_dict(state)


class PeriodicPolicy(RandomPolicy):
    """Plant one placement, drawn evenly, every so many boundaries."""

    name: ClassVar[str] = "periodic"

    def __init__(
        self, seed: int, start_boundary: int = START_BOUNDARY, period_boundaries: int = 10
    ) -> None:
        super().__init__(seed, start_boundary)
        self._period = period_boundaries

    def _due(self, view: View) -> bool:
        past = view.boundary - self._start
        return past >= 0 and past % self._period == 0
