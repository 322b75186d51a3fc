"""`heuristic`: grows early and by experiment, a tournament at a time."""

from typing import Any, ClassVar

from esper_async.tamiyo.command import Decision, Germinate, NoOp
from esper_async.tamiyo.policies.draw import Draw
from esper_async.tamiyo.policies.sampled import START_BOUNDARY
from esper_async.tamiyo.view import Placement, View


class HeuristicPolicy:
    """Plant a tournament of candidates over all sites as soon as one may be held.

    Candidates are drawn without replacement, with a weight that grows with their parameters: size
    is what a small host lacks most often, and the tournament drops what does not help.
    """

    name: ClassVar[str] = "heuristic"
    version: ClassVar[str] = "1"

    def __init__(
        self, seed: int, start_boundary: int = START_BOUNDARY, candidates: int = 8
    ) -> None:
        self._draw = Draw(seed, self.name)
        self._start = start_boundary
        self._candidates = candidates

    def decide(self, view: View) -> Decision:
        """Return a tournament, or no-op with the reason."""
        if view.boundary < self._start:
            return Decision(NoOp(), f"before boundary {self._start}")
        if view.training():
            return Decision(NoOp(), "a tournament is on")
        if view.on_trial():
            return Decision(NoOp(), "a seed is on trial: candidates would only wait for its end")
        if not view.placements:
            return Decision(NoOp(), "no placement is legal now")
        if not view.time_for_a_trial():
            return Decision(NoOp(), "too late for a trial")
        chosen = self._choose(view)
        reason = f"tournament of {len(chosen)} over {len({p.site for p in chosen})} sites"
        return Decision(Germinate(tuple(p.candidate() for p in chosen)), reason)

    def _choose(self, view: View) -> list[Placement]:
        count = min(self._candidates, view.free_candidates)
        weights = [float(placement.parameters + 1) for placement in view.placements]
        return self._draw.weighted(view.placements, weights, count)

    def state_dict(self) -> dict[str, Any]:
        """Return the random stream's state."""
        return self._draw.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        self._draw.load_state_dict(state)
