"""A policy that does what a benchmark tells it: plant given kernels once, at a given boundary."""

from typing import Any, ClassVar

from esper_async.kasmina.seed import Candidate
from esper_async.tamiyo.command import Decision, Germinate, NoOp
from esper_async.tamiyo.view import View


class PlantOnce:
    """Germinates its candidates as one tournament at a boundary; else it does nothing."""

    name: ClassVar[str] = "plant-once"
    version: ClassVar[str] = "1"

    def __init__(self, *candidates: Candidate, boundary: int = 1) -> None:
        self.candidates = candidates
        self.boundary = boundary

    def decide(self, view: View) -> Decision:
        """Return the germination at its boundary, else no operation."""
        if view.boundary == self.boundary:
            return Decision(Germinate(self.candidates), "planted by a benchmark", 1.0)
        return Decision(NoOp(), "a benchmark plants nothing now", 1.0)

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: there is no state."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over nothing."""


class PlantEverything(PlantOnce):
    """Germinates all that is legal as one tournament at a boundary; else it does nothing."""

    name: ClassVar[str] = "plant-everything"

    def decide(self, view: View) -> Decision:
        """Return the germination at its boundary, else no operation."""
        if view.boundary == self.boundary:
            self.candidates = tuple(each.candidate() for each in view.placements)
        return super().decide(view)
