"""The interface of a policy."""

from typing import Any, Protocol

from esper_async.tamiyo.command import Decision
from esper_async.tamiyo.view import View


class Policy(Protocol):
    """State in, one decision out. The same seed and views give the same decisions."""

    @property
    def name(self) -> str:
        """What run files and records call it."""
        ...

    @property
    def version(self) -> str:
        """Which of its forms, or of its weights, it is."""
        ...

    def decide(self, view: View) -> Decision:
        """Return the decision for a boundary; it must name only placements of the view."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed policy needs: numbers, texts, lists and dicts."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        ...
