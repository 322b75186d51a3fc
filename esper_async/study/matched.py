"""Random growth that decides as often as another run did: only what is planted is left to chance.

Against a policy that picks, `random` differs in more than its picks: it plants one candidate at a
time, and more or less often. This one plants as many candidates at the same boundaries, so that
what is left between the two is the choice.
"""

from collections.abc import Iterable
from typing import Any, ClassVar

from esper_async.tamiyo.command import Decision, Germinate, NoOp
from esper_async.tamiyo.policies.draw import Draw
from esper_async.tamiyo.view import View


class MatchedPolicy:
    """Plants each planned number of placements, drawn evenly, at its boundary.

    Where nothing may be planted then, because a seed of this run is still busy, it plants as soon
    as it may: a decision is late, and not lost.

    Args:
        seed: of the draw.
        planned: boundaries, rising, each with a number of candidates.
    """

    name: ClassVar[str] = "matched"
    version: ClassVar[str] = "1"

    def __init__(self, seed: int, planned: Iterable[tuple[int, int]]) -> None:
        self._draw = Draw(seed, self.name)
        self._planned = list(planned)
        self._made = 0

    def decide(self, view: View) -> Decision:
        """Return a germination of as many placements as are planned, or no-op."""
        if self._made == len(self._planned) or view.boundary < self._planned[self._made][0]:
            return Decision(NoOp(), "nothing is planned for this boundary", 1.0)
        if not view.may_plant():
            return Decision(NoOp(), "nothing may be planted now", 1.0)
        count = min(self._planned[self._made][1], view.free_candidates)
        self._made += 1
        chosen = self._draw.sample(view.placements, count)
        reason = f"{len(chosen)} drawn evenly, as many as the other run planted"
        return Decision(Germinate(tuple(placement.candidate() for placement in chosen)), reason)

    def state_dict(self) -> dict[str, Any]:
        """Return the random stream's state, and how many decisions were made."""
        return {"draw": self._draw.state_dict(), "made": self._made}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        self._draw.load_state_dict(state["draw"])
        self._made = state["made"]
