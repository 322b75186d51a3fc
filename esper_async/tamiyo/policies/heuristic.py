"""`heuristic`: grows early and by experiment, a tournament at a time."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, ClassVar

from esper_async.tamiyo.command import Decision, Germinate, NoOp
from esper_async.tamiyo.policies.draw import Draw
from esper_async.tamiyo.policies.sampled import START_BOUNDARY
from esper_async.tamiyo.policies.triggers import Trigger, fired, gradient_level
from esper_async.tamiyo.view import Placement, View

SIZE_EXPONENT = 3.0
"""A placement's weight in the draw is its number of parameters to this power."""
MEMORISED = 0.5
"""A training loss below this share of the validation loss says that no capacity is missing."""


class HeuristicPolicy:
    """Plant a tournament of candidates over all sites as soon as one may be held.

    Every site gets its share of the candidates: which site lacks something is what a tournament
    tells best, and a draw over all of them may pass over the one that does. At a site candidates
    are drawn without replacement, with a weight that grows with their size: that is what a small
    host lacks most often, and the tournament drops what does not help. The probability of a whole
    tournament is not computed, and so not claimed.

    It begins early, and waits for as long as the net memorises what it is trained on: growing pays
    while a net underfits (Wu et al. 2024, "When to grow? A fitting risk-aware policy for layer
    growing in deep neural networks", let the gap between the two splits set the pace as well).

    Args:
        seed: the draws derive from it.
        start_boundary: there is no tournament before it.
        candidates: of a tournament, at most.
        triggers: where there are any, the first tournament is as early as ever, and each one after
            it waits until one of them fires; without, a tournament follows the other.

    Attributes:
        version: names the triggers, too.
        sees_graph: whether it reads the host's gradients.
    """

    name: ClassVar[str] = "heuristic"

    def __init__(
        self,
        seed: int,
        start_boundary: int = START_BOUNDARY,
        candidates: int = 8,
        triggers: Sequence[Trigger] = (),
    ) -> None:
        self.version = "+".join(("3", *triggers))
        self.sees_graph = "gradient" in triggers
        self._draw = Draw(seed, self.name)
        self._start = start_boundary
        self._candidates = candidates
        self._triggers = tuple(triggers)
        self._begun = False
        self._largest_gradient: float | None = None

    def decide(self, view: View) -> Decision:
        """Return a tournament, or no-op with the reason."""
        self._remember(view)
        if view.boundary < self._start:
            return Decision(NoOp(), f"before boundary {self._start}", 1.0)
        if view.training():
            return Decision(NoOp(), "a tournament is on", 1.0)
        if view.on_trial():
            return Decision(NoOp(), "a seed is on trial: candidates would wait for its end", 1.0)
        if not view.placements:
            return Decision(NoOp(), "no placement is legal now", 1.0)
        if not view.time_for_a_trial():
            return Decision(NoOp(), "too late for a trial", 1.0)
        if self.memorises(view):
            return Decision(NoOp(), "the net memorises its training data: it has capacity", 1.0)
        why = self._why_now(view)
        if why is None:
            return Decision(NoOp(), f"no trigger: {', '.join(self._triggers)}", 1.0)
        self._begun = True
        chosen = self._choose(view)
        reason = f"tournament of {len(chosen)} over {len({p.site for p in chosen})} sites{why}"
        return Decision(Germinate(tuple(p.candidate() for p in chosen)), reason)

    def _why_now(self, view: View) -> str | None:
        """Return what brings a tournament on, to be told; None where a trigger is waited for."""
        if not (self._triggers and self._begun):
            return ""
        for trigger in self._triggers:
            words = fired(trigger, view, self._largest_gradient)
            if words is not None:
                return f"; {trigger}: {words}"
        return None

    def _remember(self, view: View) -> None:
        level = gradient_level(view)
        if level is not None:
            self._largest_gradient = max(level, self._largest_gradient or 0.0)

    @staticmethod
    def memorises(view: View) -> bool:
        """Return whether the last training loss lies far below the last validation loss.

        A share says nothing of losses below 0, and so does not hold there.
        """
        if not view.training_losses or not view.validation_losses:
            return False
        training, validation = view.training_losses[-1], view.validation_losses[-1]
        return 0 <= training < MEMORISED * validation

    @staticmethod
    def weight(placement: Placement) -> float:
        """Return a placement's weight in the draw."""
        return float((placement.parameters + 1.0) ** SIZE_EXPONENT)

    def _choose(self, view: View) -> list[Placement]:
        """Draw an order of all placements; take the first of every site, then the second ..."""
        count = min(self._candidates, view.free_candidates)
        weights = [self.weight(placement) for placement in view.placements]
        order = self._draw.weighted(view.placements, weights, len(view.placements))
        drawn_before: Counter[str] = Counter()
        turns = []
        for placement in order:
            turns.append(drawn_before[placement.site])
            drawn_before[placement.site] += 1
        by_turn = sorted(range(len(order)), key=turns.__getitem__)  # stable: in drawn order
        return [order[index] for index in by_turn[:count]]

    def state_dict(self) -> dict[str, Any]:
        """Return the random stream's state, and what triggers go by."""
        state = self._draw.state_dict()
        if self._triggers:
            state |= {"begun": self._begun, "largest_gradient": self._largest_gradient}
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        self._draw.load_state_dict(state)
        if self._triggers:
            self._begun, self._largest_gradient = state["begun"], state["largest_gradient"]
