"""`bandit`: a pessimistic linear bandit over the features of sites and blueprints. A baseline.

It estimates what a placement brings by ridge regression on what its own seeds brought, and plants
the one whose lower confidence bound is best; `linear_belief` has the equations. It begins with what
Simic has learned from earlier runs, where it is given that.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from esper_async.karn.catalogue import Catalogue
from esper_async.kasmina.quantity import Quantity
from esper_async.tamiyo.command import Decision, Germinate, NoOp
from esper_async.tamiyo.offer import Offer, pack_draw
from esper_async.tamiyo.policies.draw import Draw
from esper_async.tamiyo.policies.learned import digest_of
from esper_async.tamiyo.policies.linear_belief import (
    EXPLORATION,
    NOISE_NATS,
    PESSIMISM,
    LinearBelief,
)
from esper_async.tamiyo.policies.sampled import START_BOUNDARY
from esper_async.tamiyo.view import SeedView, View


class BanditPolicy:
    """Plant one placement at a time, by the lower bound of what it is expected to bring.

    It learns within its run: from the benefit against the twin where that was measured, else from
    the clean contribution; an estimated benefit contains the host's own learning and is no outcome.
    """

    name: ClassVar[str] = "bandit"
    sees_graph: ClassVar[bool] = True

    def __init__(
        self,
        seed: int,
        start_boundary: int = START_BOUNDARY,
        *,
        belief: LinearBelief | None = None,
    ) -> None:
        self.version = "1" if belief is None else f"1+{digest_of(belief)}"
        self._draw = Draw(seed, self.name)
        self._start = start_boundary
        self._catalogue = Catalogue()
        self._belief = belief or LinearBelief.blank()
        self._planted: dict[str, list[float]] = {}
        self._seen: set[str] = set()

    def decide(self, view: View) -> Decision:
        """Return a germination of one placement, or no-op."""
        self._learn(view)
        if view.boundary < self._start:
            return Decision(NoOp(), f"before boundary {self._start}", 1.0)
        if not view.may_plant():
            return Decision(NoOp(), "nothing may be planted now", 1.0)
        offer = Offer.of(view, self._catalogue)
        features = offer.features()
        bounds = self._belief.lower_bounds(features, pessimism=PESSIMISM)
        best = int(bounds.argmax())
        count = len(view.placements)
        explores = self._draw.uniform() < EXPLORATION
        chosen = int(self._draw.uniform() * count) if explores else best
        probabilities = self._belief.probabilities(features)
        placement = view.placements[chosen]
        self._planted = {placement.site + "/" + placement.blueprint: features[chosen].tolist()}
        return Decision(
            Germinate((placement.candidate(),)),
            f"at least {bounds[chosen]:+.4f} nats expected" + (", drawn" if explores else ""),
            float(probabilities[chosen]),
            choices=pack_draw(offer, probabilities, chosen),
        )

    def _learn(self, view: View) -> None:
        for seed in [*view.seeds, *view.ended]:
            features = self._planted.get(f"{seed.site}/{seed.blueprint}")
            brought = outcome(seed, view.ended)
            if features is None or brought is None or seed.id in self._seen:
                continue
            self._seen.add(seed.id)
            self._belief = self._belief.after(np.array(features), brought)

    def state_dict(self) -> dict[str, Any]:
        """Return what was learned, what is still to be learned from, and the random stream."""
        return {
            "draw": self._draw.state_dict(),
            "precision": self._belief.precision.tolist(),
            "weighted": self._belief.weighted.tolist(),
            "noise": self._belief.noise,
            "planted": {name: list(features) for name, features in self._planted.items()},
            "seen": sorted(self._seen),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        self._draw.load_state_dict(state["draw"])
        self._belief = LinearBelief(
            np.array(state["precision"]),
            np.array(state["weighted"]),
            float(state.get("noise", NOISE_NATS)),  # earlier checkpoints knew no other
        )
        self._planted = {name: list(features) for name, features in state["planted"].items()}
        self._seen = set(state["seen"])


def outcome(seed: SeedView, ended: Sequence[SeedView]) -> float | None:
    """Return what a seed brought, in nats (or the loss's unit); None while that is not settled."""
    benefit = seed.benefit_vs_twin
    if benefit is not None and not benefit.estimated and (seed.windows or seed in ended):
        return _finite(benefit)
    return _finite(seed.clean_contribution) if seed in ended else None


def _finite(quantity: Quantity | None) -> float | None:
    return None if quantity is None or not np.isfinite(quantity.mean) else quantity.mean
