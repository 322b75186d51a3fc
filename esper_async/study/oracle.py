"""An oracle: a policy that plants what somebody picked by hand, and is named as such."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from esper_async.kasmina.seed import Candidate
from esper_async.tamiyo.command import Decision, Germinate, NoOp
from esper_async.tamiyo.view import View


class Oracle:
    """Plants at each boundary what is planned for it, as one tournament."""

    name: ClassVar[str] = "oracle"
    version: ClassVar[str] = "1"

    def __init__(self, plantings: Sequence[Mapping[str, Any]]) -> None:
        self._planned: dict[int, list[Candidate]] = {}
        for each in plantings:
            candidate = Candidate(str(each["site"]), str(each["blueprint"]))
            self._planned.setdefault(int(each["boundary"]), []).append(candidate)

    def decide(self, view: View) -> Decision:
        """Return the germination planned for this boundary, else no operation."""
        candidates = self._planned.get(view.boundary)
        if candidates is None:
            return Decision(NoOp(), "nothing is planned for this boundary", 1.0)
        return Decision(Germinate(tuple(candidates)), "picked by hand before the run", 1.0)

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: there is no state."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over nothing."""
