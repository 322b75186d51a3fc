"""`awr`: draw one placement at a time as an ensemble prefers that was learned from earlier runs."""

from typing import Any, ClassVar

from esper_async.karn.catalogue import Catalogue
from esper_async.tamiyo.command import Decision, Germinate, NoOp
from esper_async.tamiyo.network.choosing import drawn_by
from esper_async.tamiyo.offer import Offer, pack_draw
from esper_async.tamiyo.policies.draw import Draw
from esper_async.tamiyo.policies.learned import check_same_policy, digest_of
from esper_async.tamiyo.policies.sampled import START_BOUNDARY
from esper_async.tamiyo.policies.softmax_ensemble import SoftmaxEnsemble
from esper_async.tamiyo.view import View


class AwrPolicy:
    """Plant one placement as soon as no other is on trial; which one, the ensemble says.

    Every placement keeps a chance, and its probability is recorded: runs under this policy can be
    learned from in turn. `simic.awr` makes ensembles.
    """

    name: ClassVar[str] = "awr"

    def __init__(
        self, seed: int, ensemble: SoftmaxEnsemble, start_boundary: int = START_BOUNDARY
    ) -> None:
        self.version = f"1+{digest_of(ensemble)}"
        self._draw = Draw(seed, self.name)
        self._ensemble = ensemble
        self._start = start_boundary
        self._catalogue = Catalogue()

    def decide(self, view: View) -> Decision:
        """Return a germination of one placement, or no-op."""
        if view.boundary < self._start:
            return Decision(NoOp(), f"before boundary {self._start}", 1.0)
        if not view.may_plant():
            return Decision(NoOp(), "nothing may be planted now", 1.0)
        offer = Offer.of(view, self._catalogue)
        probabilities = self._ensemble.probabilities(offer.features())
        chosen = drawn_by(self._draw.uniform)(probabilities)
        probability = float(probabilities[chosen])
        return Decision(
            Germinate((view.placements[chosen].candidate(),)),
            f"drawn with {probability:.1%} of {len(offer)} placements",
            probability,
            choices=pack_draw(offer, probabilities, chosen),
        )

    def state_dict(self) -> dict[str, Any]:
        """Return the random stream's state, and which weights it belongs to."""
        return {"version": self.version, "draw": self._draw.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned.

        Raises:
            ValueError: it is that of other weights.
        """
        check_same_policy(state["version"], self.version)
        self._draw.load_state_dict(state["draw"])
